"""jit, vmap, grad, jvp and jax.checkpoint on every operator; the defaults of the schemas."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from normbench.kernels import aten
from tests.kernels.aten.drawn import Data

DATA = Data(11)
X = DATA.normal((3, 4, 5, 2), "float64")
DY = DATA.normal(X.shape, "float64")
WEIGHT, BIAS, MEAN = (DATA.normal(4, "float64") for _ in range(3))
VARIANCE = DATA.positive(4, "float64")
ROW_WEIGHT, ROW_BIAS = (DATA.normal((5, 2), "float64") for _ in range(2))
RSTD = DATA.positive((3, 4, 1, 1), "float64")
GROUPED = (DATA.normal((3, 2), "float64"), DATA.positive((3, 2), "float64"))
TRAIN = {"training": True, "momentum": 0.1, "eps": 1e-5}
EVALUATE = TRAIN | {"training": False}
UPDATE = {"momentum": 0.1, "eps": 1e-5}
VECTORS = (WEIGHT, BIAS, MEAN, VARIANCE)
SIZES = {"N": 3, "C": 4, "HxW": 10, "group": 2}
CUDNN = {"cudnn_enabled": False}

CALLS = [
    ("batch_norm", (X, *VECTORS), TRAIN | CUDNN),
    ("batch_norm", (X, *VECTORS), EVALUATE | CUDNN),
    ("batch_norm_functional", (X, *VECTORS), TRAIN | CUDNN),
    ("native_batch_norm", (X, WEIGHT, BIAS, None, None), TRAIN),
    ("native_batch_norm_functional", (X, *VECTORS), TRAIN),
    ("_native_batch_norm_legit", (X, *VECTORS), TRAIN),
    ("_native_batch_norm_legit_functional", (X, *VECTORS), TRAIN),
    ("_native_batch_norm_legit_no_stats", (X, WEIGHT, BIAS), TRAIN),
    ("_native_batch_norm_legit_no_training", (X, *VECTORS), UPDATE),
    ("_batch_norm_with_update", (X, *VECTORS), UPDATE),
    ("_batch_norm_with_update_functional", (X, *VECTORS), UPDATE),
    ("_batch_norm_no_update", (X, *VECTORS), UPDATE),
    ("batch_norm_update_stats", (X, MEAN, VARIANCE), {"momentum": 0.1}),
    ("batch_norm_update_stats_functional", (X, MEAN, VARIANCE), {"momentum": 0.1}),
    (
        "native_batch_norm_backward",
        (DY, X, WEIGHT, None, None, MEAN, VARIANCE),
        {"train": True, "eps": 1e-5, "output_mask": (True, True, True)},
    ),
    ("layer_norm", (X,), {"normalized_shape": (5, 2), "weight": ROW_WEIGHT, "bias": ROW_BIAS}),
    ("native_layer_norm", (X,), {"normalized_shape": (5, 2), "weight": ROW_WEIGHT, "bias": ROW_BIAS, "eps": 1e-5}),
    (
        "native_layer_norm_backward",
        (DY, X),
        {
            "normalized_shape": (5, 2),
            "mean": RSTD,
            "rstd": RSTD,
            "weight": ROW_WEIGHT,
            "bias": None,
            "output_mask": (True, True, False),
        },
    ),
    ("rms_norm", (X,), {"normalized_shape": (5, 2), "weight": ROW_WEIGHT}),
    ("_fused_rms_norm", (X,), {"normalized_shape": (5, 2), "weight": ROW_WEIGHT, "eps": None}),
    (
        "_fused_rms_norm_backward",
        (DY, X),
        {"normalized_shape": (5, 2), "rstd": RSTD, "weight": ROW_WEIGHT, "output_mask": (True, True)},
    ),
    ("group_norm", (X,), {"num_groups": 2, "weight": WEIGHT, "bias": BIAS}),
    ("native_group_norm", (X, WEIGHT, BIAS), SIZES | {"eps": 1e-5}),
    ("native_group_norm_backward", (DY, X, *GROUPED, WEIGHT), SIZES | {"output_mask": (True, True, True)}),
    ("instance_norm", (X, *VECTORS), {"use_input_stats": True, "momentum": 0.1, "eps": 1e-5, "cudnn_enabled": True}),
    ("instance_norm_functional", (X, *VECTORS), {"use_input_stats": True, "momentum": 0.1, "eps": 1e-5} | CUDNN),
    ("local_response_norm", (X,), {"size": 3, "alpha": 0.5}),
    ("batch_norm_stats", (X,), {"eps": 1e-5}),
    ("batch_norm_elemt", (X, WEIGHT, BIAS, MEAN, VARIANCE), {"eps": 1e-5}),
    (
        "batch_norm_gather_stats_with_counts",
        (X, np.stack([MEAN, BIAS]), np.stack([VARIANCE, VARIANCE]), MEAN, VARIANCE),
        {"momentum": 0.1, "eps": 1e-5, "counts": np.array([7.0, 9.0])},
    ),
]
IDS = [f"{name}-{i}" for i, (name, *_) in enumerate(CALLS)]
THIN = ("functional", "legit", "update", "gather")
DIFFERENTIABLE = [call for call in CALLS if not any(word in call[0] for word in THIN)]
"""Without the operators that only call another one, and what takes no values from its input."""

on_every_call = pytest.mark.parametrize(("name", "arrays", "keywords"), CALLS, ids=IDS)


def split(keywords):
    """Keywords that are arrays, and static ones."""
    arrays = {name: value for name, value in keywords.items() if isinstance(value, np.ndarray)}
    return arrays, {name: value for name, value in keywords.items() if name not in arrays}


def assert_same(ours, expected, atol=1e-12):
    assert jax.tree.structure(ours) == jax.tree.structure(expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=atol), ours, expected)


@on_every_call
def test_jit_with_static_arguments_by_keyword(name, arrays, keywords):
    function = getattr(aten, name)
    _, static = split(keywords)
    jitted = jax.jit(function, static_argnames=tuple(static))
    assert_same(jitted(*arrays, **keywords), function(*arrays, **keywords))


@on_every_call
def test_vmap_over_the_input(name, arrays, keywords):
    named, static = split(keywords)
    function = functools.partial(getattr(aten, name), **static)
    position = 1 if name.endswith("backward") else 0
    batch = np.stack([arrays[position], 2 * arrays[position] + 1])

    @jax.jit
    def call(x):
        return function(*arrays[:position], x, *arrays[position + 1 :], **named)

    each = [call(x) for x in batch]
    stacked = jax.tree.map(lambda *values: jnp.stack(values), *each)
    assert_same(jax.jit(jax.vmap(call))(batch), stacked)


@pytest.mark.parametrize(("name", "arrays", "keywords"), DIFFERENTIABLE, ids=[call[0] for call in DIFFERENTIABLE])
def test_derivatives_of_the_first_output_are_those_of_finite_differences(name, arrays, keywords):
    named, static = split(keywords)
    function = functools.partial(getattr(aten, name), **static)
    position = 1 if name.endswith("backward") else 0

    @jax.jit
    def first(x):
        outputs = function(*arrays[:position], x, *arrays[position + 1 :], **named)
        y = outputs[0] if isinstance(outputs, tuple) else outputs
        return jnp.sum(y * jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))

    @jax.jit
    def along(x, direction):
        gradients = (jax.grad(f)(x) for f in (first, jax.checkpoint(first)))
        return jax.jvp(first, (x,), (direction,))[1], *(jnp.vdot(g, direction) for g in gradients)

    x, step = arrays[position], 1e-5
    direction = DY[::-1]
    difference = (first(x + step * direction) - first(x - step * direction)) / (2 * step)
    np.testing.assert_allclose(along(x, direction), difference, rtol=1e-6)


@pytest.mark.parametrize(
    ("operator", "argument"),
    [
        (lambda m: aten.batch_norm(X, None, None, m, VARIANCE, False, 0.1, 1e-5, False), MEAN),
        (lambda m: aten.instance_norm(X, None, None, m, VARIANCE, False, 0.1, 1e-5, False), MEAN),
        (lambda x: aten.native_batch_norm(x, None, None, None, None, True, 0.1, 1e-5)[1], X),
        (lambda x: aten.native_layer_norm(x, (2,), None, None, 1e-5)[2], X),
        (lambda x: aten.batch_norm_update_stats(x, None, None, 0.1)[0], X),
        (lambda x: aten.batch_norm_functional(x, None, None, MEAN, VARIANCE, True, 0.1, 1e-5, False)[1], X),
    ],
)
def test_statistics_are_not_differentiable(operator, argument):
    gradient = jax.grad(lambda v: jnp.sum(jnp.sin(operator(v))))(argument)
    assert not np.any(gradient)


def backward_pairs():
    """Names, a forward of (x, weight, bias), its parameters, and what the backward operator returns for DY."""
    everything = (True, True, True)
    saved = aten.native_batch_norm(X, WEIGHT, BIAS, None, None, True, 0.1, 1e-5)[1:]
    for training, statistics in ((True, (None, None, *saved)), (False, (MEAN, VARIANCE, None, None))):
        yield (
            f"batch_norm training={training}",
            lambda x, w, b, t=training: aten.native_batch_norm(x, w, b, MEAN, VARIANCE, t, 0.1, 1e-5)[0],
            (WEIGHT, BIAS),
            aten.native_batch_norm_backward(DY, X, WEIGHT, *statistics, training, 1e-5, everything),
        )
    saved = aten.native_layer_norm(X, (5, 2), ROW_WEIGHT, ROW_BIAS, 1e-5)[1:]
    yield (
        "layer_norm",
        lambda x, w, b: aten.layer_norm(x, (5, 2), w, b),
        (ROW_WEIGHT, ROW_BIAS),
        aten.native_layer_norm_backward(DY, X, (5, 2), *saved, ROW_WEIGHT, ROW_BIAS, everything),
    )
    saved = aten.native_group_norm(X, WEIGHT, BIAS, *SIZES.values(), 1e-5)[1:]
    yield (
        "group_norm",
        lambda x, w, b: aten.group_norm(x, 2, w, b),
        (WEIGHT, BIAS),
        aten.native_group_norm_backward(DY, X, *saved, WEIGHT, *SIZES.values(), everything),
    )
    rstd = aten._fused_rms_norm(X, (5, 2), ROW_WEIGHT, None)[1]
    yield (
        "rms_norm",
        lambda x, w: aten.rms_norm(x, (5, 2), w),
        (ROW_WEIGHT,),
        aten._fused_rms_norm_backward(DY, X, (5, 2), rstd, ROW_WEIGHT, everything[:2]),
    )


def test_backward_operators_are_the_gradients_of_the_forward_ones():
    for name, forward, parameters, gradients in backward_pairs():
        _, pull = jax.vjp(jax.jit(forward), X, *parameters)
        for ours, expected in zip(gradients, pull(jnp.asarray(DY)), strict=True):
            np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-12, err_msg=name)


def test_defaults_are_those_of_the_schemas():
    defaults = {
        name: {
            p.name: p.default
            for p in inspect.signature(getattr(aten, name)).parameters.values()
            if p.default is not p.empty
        }
        for name in ("layer_norm", "group_norm", "rms_norm", "local_response_norm", "batch_norm", "instance_norm")
    }
    assert defaults == {
        "layer_norm": {"weight": None, "bias": None, "eps": 1e-5, "cudnn_enable": True},
        "group_norm": {"weight": None, "bias": None, "eps": 1e-5, "cudnn_enabled": True},
        "rms_norm": {"weight": None, "eps": None},
        "local_response_norm": {"alpha": 1e-4, "beta": 0.75, "k": 1.0},
        "batch_norm": {},
        "instance_norm": {},
    }
