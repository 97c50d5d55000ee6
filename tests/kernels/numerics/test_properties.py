"""Every variant of every norm holds what it declares, forward and backward, on data of every kind."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from normbench import kernels
from normbench.kernels import aten
from tests.kernels.numerics.bounds import check_all
from tests.kernels.numerics.extended import data, exact, layout_of

READS_PROGRAMS = True  # with all optimizations: one of them makes sum / n a product with 1 / n
OPERATORS = ("layer_norm", "rms_norm", "batch_norm_training", "group_norm", "instance_norm")
EPSILONS = {"float32": 1e-5, "float64": 1e-12}
EPS = {False: float(np.finfo(np.float32).eps), True: float(np.finfo(np.float64).eps)}
"""Of the arithmetic, without and with an input of float64."""


def names(operator):
    return [*kernels.variants(operator), "aten"]


EVERY = [(operator, variant) for operator in OPERATORS for variant in names(operator)]


def of_aten(layout, x, gamma, beta, epsilon):
    operator = layout.problem.operator
    if operator == "layer_norm":
        return aten.layer_norm(x, x.shape[1:], gamma, beta, epsilon)
    if operator == "rms_norm":
        return aten.rms_norm(x, x.shape[1:], gamma, epsilon)
    if operator == "group_norm":
        return aten.group_norm(x, layout.problem.option("groups"), gamma, beta, epsilon)
    if operator == "instance_norm":
        return aten.instance_norm(x, gamma, beta, None, None, True, 0.1, epsilon, False)
    return aten.batch_norm(x, gamma, beta, None, None, True, 0.1, epsilon, False)


def call(layout, variant, epsilon, x, gamma, beta, running):
    """y by the variant; `running` are statistics of other data, of which y is no function."""
    operator = layout.problem.operator
    if variant == "aten":
        return of_aten(layout, x, gamma, beta, epsilon)
    keywords = {**kernels.operator(operator).keywords(layout.problem), "epsilon": epsilon}
    function = kernels.get(operator, variant)
    if operator == "rms_norm":
        return function(x, gamma, **keywords)
    if operator == "batch_norm_training":
        return function(x, gamma, beta, *running, **keywords)[0]
    return function(x, gamma, beta, **keywords)


@cache
def compiled(operator, groups, terms, variant, epsilon):
    """One program for all data: y and the gradients."""
    layout = layout_of(operator, groups, terms)

    def both(x, gamma, beta, dy, running):
        y, pull = jax.vjp(lambda *arrays: call(layout, variant, epsilon, *arrays, running), x, gamma, beta)
        return y, *pull(dy)

    return layout, jax.jit(both)


def hold(operator, groups, terms, variant, epsilon, inputs, running_mean=0.0):
    layout, function = compiled(operator, groups, terms, variant, epsilon)
    x, gamma, beta, dy = inputs
    centred = operator != "rms_norm"
    if not centred:
        inputs = (x, gamma, 0 * beta, dy)
    statistics = jnp.promote_types(gamma.dtype, jnp.float32)
    running = jnp.full(gamma.shape, running_mean, statistics), jnp.ones(gamma.shape, statistics)
    outputs = list(function(*map(jnp.asarray, inputs), running))
    right = exact(layout, *inputs, epsilon, centred)
    if not centred:
        outputs[3] = right.gradients[2].astype(np.float64)
    pivot = None
    if operator == "batch_norm_training":
        pivot = np.full(groups, running_mean if np.isfinite(running_mean) else 0.0)
    check_all(layout, variant, right, inputs, outputs, EPS[x.dtype == np.float64], pivot)


@pytest.mark.parametrize(("operator", "variant"), EVERY)
def test_data_of_every_kind(operator, variant):
    groups, terms = 6, 16

    @settings(max_examples=4 if "mosaic" in variant else 12, deadline=None, derandomize=True, database=None)
    @given(data(layout_of(operator, groups, terms)), st.sampled_from((0.0, 3.0, 2000.0, np.nan, np.inf)))
    def holds(inputs, running_mean):
        hold(operator, groups, terms, variant, 1e-5, inputs, running_mean)

    holds()


@pytest.mark.parametrize("terms", [1, 2])
@pytest.mark.parametrize(
    ("operator", "variant"), [pair for pair in EVERY if pair[1] not in ("pallas_mosaic", "flax", "jax_nn")]
)
def test_few_terms(operator, variant, terms):
    """Of one term h is 0; batch norm in training refuses it."""
    if operator == "batch_norm_training" and terms == 1:
        pytest.skip("one value for each channel has no variance: refused")
    rng = np.random.default_rng(terms)
    layout = layout_of(operator, 4, terms)
    x = layout.back(np.array([[20.0], [1e-3], [3e12], [-7e7]]) + rng.normal(size=(4, terms)))
    size = layout.problem.shape[1]
    inputs = (x, rng.normal(size=size), rng.normal(size=size), rng.normal(size=x.shape))
    hold(operator, 4, terms, variant, 1e-5, tuple(array.astype(np.float32) for array in inputs), 20.0)


LONG = [
    (operator, variant)
    for operator in ("layer_norm", "batch_norm_training")
    for variant in ("naive", "welford", "custom_vjp", "aten")
]


@pytest.mark.parametrize(("operator", "variant"), LONG)
def test_a_million_terms(operator, variant):
    rng = np.random.default_rng(0)
    layout = layout_of(operator, 1, 2**20)
    x = layout.back(30 + rng.normal(size=(1, 2**20)))
    size = layout.problem.shape[1]
    inputs = (x, rng.normal(size=size), rng.normal(size=size), rng.normal(size=x.shape))
    hold(operator, 1, 2**20, variant, 1e-5, tuple(array.astype(np.float32) for array in inputs), 29.0)
