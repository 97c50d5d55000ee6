"""The right values where kernels of this and of other projects have been wrong, one test for each fault."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from normbench import kernels
from normbench.errors import UserError
from normbench.kernels import aten
from normbench.kernels.common.statistics import welford
from normbench.kernels.problem import Problem
from tests.kernels.numerics.extended import exact, layout_of
from tests.kernels.numerics.test_properties import EVERY, OPERATORS, call, compiled

READS_PROGRAMS = True
RNG = np.random.default_rng(14)
HOLDING = [
    pair
    for pair in EVERY
    if pair[1] in ("aten", "native", "pallas_triton", "pallas_mosaic", "pallas_tpu") and pair[0] != "rms_norm"
]


def training(name):
    return kernels.get("batch_norm_training", name)


def vectors(channels, *values):
    return tuple(jnp.full((channels,), value, jnp.float32) for value in values)


def test_masked_lanes_of_an_interpreted_store_write_nothing():
    """Channels first, where no block of channels is whole and a tile spans several images."""
    x = jnp.asarray(RNG.normal(size=(2, 3, 5)), jnp.float32)
    gamma, beta, mean, variance = (jnp.asarray(RNG.uniform(0.5, 2, 3), jnp.float32) for _ in range(4))

    @partial(jax.jit, static_argnums=0)
    def outputs_and_gradients(name):
        def y_of(x, gamma, beta):
            y, *running = training(name)(x, gamma, beta, mean, variance)
            return y, running

        y, pull, running = jax.vjp(y_of, x, gamma, beta, has_aux=True)
        return (y, *running, *pull(jnp.sin(y)))

    for ours, expected in zip(*map(outputs_and_gradients, ("pallas_triton", "naive")), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("operator", "variant"), HOLDING)
def test_constants_are_normalized_to_zero_and_have_no_gradient_of_gamma(operator, variant):
    layout = layout_of(operator, 4, 60)
    constants = np.array([[20.0], [0.1], [-7e7], [1 / 3]], np.float32)
    x = jnp.asarray(layout.back(np.broadcast_to(constants, (4, 60))))
    size = layout.problem.shape[1]
    gamma, beta, *running = vectors(size, 1, 0, 5, 1)
    # An epsilon that does not hide what rounding leaves of constants that large.
    dy = RNG.normal(size=x.shape).astype(np.float32)

    @jax.jit
    def both(x, gamma, beta, dy):
        y, pull = jax.vjp(lambda x, g, b: call(layout, variant, 1e-12, x, g, b, running), x, gamma, beta)
        return y, pull(dy)[1]

    y, dgamma = both(x, gamma, beta, dy)
    # 1 in the last place of the last place of the mean, times 1e6
    most = 1e6 * np.abs(constants) * 2.0**-44
    assert (np.abs(layout.groups(np.asarray(y))) <= most).all()
    spread = layout.back(np.broadcast_to(most, (4, 60)))
    assert (np.abs(dgamma) <= layout.total(np.abs(dy) * spread) + 1e-30).all()


def test_a_constant_of_the_public_reports():
    assert np.abs(aten.layer_norm(jnp.full((1, 60), 20.0), (60,), None, None, 1e-12)).max() < 1e-5
    x = jnp.full((3, 7, 11), 40000, jnp.bfloat16)
    y = aten.batch_norm(x, None, None, None, None, True, 0.1, 1e-5, False)
    assert np.abs(np.asarray(y, np.float32)).max() < 1e-3


def test_a_large_mean_costs_what_holds_nothing():
    x = (2000 + np.random.default_rng(0).normal(size=(16, 500))).astype(np.float32)
    ones, zeros = np.ones(500, np.float32), np.zeros(500, np.float32)
    layout = layout_of("layer_norm", 16, 500)
    right = exact(layout, x, ones, zeros, np.zeros_like(x), 1e-5).y
    error = {
        name: np.abs(np.asarray(jax.jit(lambda *a, n=name: call(layout, n, 1e-5, *a, None))(x, ones, zeros)) - right)
        for name in ("aten", "pallas_triton", "custom_vjp", "naive")
    }
    for name in ("aten", "pallas_triton", "custom_vjp"):
        assert error[name].max() < 5e-7, name
    assert error["naive"].max() > 2e-5  # the textbook formula, whose bound is |mean| / deviation


def test_welford_counts_beyond_2_to_the_24():
    """33 million terms of -1 and 1; a float32 count and a sum of squares stay at 2^24."""
    signs = jax.lax.broadcasted_iota(jnp.int32, (2**25,), 0) % 2 * 2 - 1
    mean, variance = jax.jit(lambda x: welford(x.astype(jnp.float32), (0,)))(signs)
    assert abs(float(mean[0])) < 1e-6
    assert abs(float(variance[0]) - 1) < 1e-5


def test_welford_of_one_large_value_is_a_number():
    x = jnp.asarray([[2e19, 2e19, 2e19, 2e19]], jnp.float32)
    mean, variance = welford(x, (1,))
    assert (float(mean[0, 0]), float(variance[0, 0])) == (np.float32(2e19), 0)


@pytest.mark.parametrize(
    ("operator", "variant"), [pair for pair in EVERY if pair[1] not in ("jax_nn", "flax", "pallas_mosaic")]
)
def test_gradients_of_large_and_of_tiny_deviations(operator, variant):
    """Without an epsilon, 1e13 to 1e16 and 1e-13 to 1e-16; with one, they are among what test_properties draws."""
    scales = np.array([[1e13], [1e16], [1e-13], [1e-16]])
    layout, function = compiled(operator, 4, 16, variant, 0.0)
    size = layout.problem.shape[1]
    rng = np.random.default_rng(4)
    x = layout.back(rng.normal(size=(4, 16)) * scales)
    inputs = x, rng.normal(size=size), rng.normal(size=size), rng.normal(size=x.shape)
    inputs = tuple(array.astype(np.float32) for array in inputs)
    found = function(*map(jnp.asarray, inputs), vectors(size, 0, 1))
    right = exact(layout, *inputs, 0.0, operator != "rms_norm")
    dx, expected = (layout.groups(np.asarray(a).astype(np.longdouble)) for a in (found[1], right.gradients[0]))
    assert (np.abs(dx - expected).max(1) <= 2e-5 * np.abs(expected).max(1)).all()
    np.testing.assert_allclose(np.asarray(found[2], np.float64), right.gradients[1].astype(float), rtol=0, atol=5e-5)


@pytest.mark.parametrize(("operator", "variant"), [pair for pair in EVERY if pair[1] != "pallas_mosaic"])
def test_deviations_up_to_the_bound_are_right_and_beyond_it_nothing_looks_right(operator, variant):
    """Squares are infinite from 1.8e19 on: then y is beta, or no number."""
    layout, function = compiled(operator, 4, 16, variant, 0.0)
    size = layout.problem.shape[1]
    rng = np.random.default_rng(5)
    normal = layout.back(rng.normal(size=(4, 16)))
    gamma, beta, dy = (rng.normal(size=shape).astype(np.float32) for shape in (size, size, normal.shape))
    within, beyond = ((normal * scale).astype(np.float32) for scale in (1e18, 1e21))
    centred = operator != "rms_norm"
    right = exact(layout, within, gamma, beta * centred, dy, 0.0, centred)
    y, beyond_y = (np.asarray(function(x, gamma, beta, dy, vectors(size, 0, 1))[0]) for x in (within, beyond))
    np.testing.assert_allclose(y, right.y.astype(float), rtol=0, atol=1e-5)
    is_beta = np.isclose(beyond_y, layout.along(beta * centred), rtol=0, atol=1e-5)
    assert (is_beta | np.isnan(beyond_y)).all()


@pytest.mark.parametrize("variant", ["pivoted", "custom_vjp", "naive", "welford", "pallas_triton"])
def test_a_running_mean_that_is_no_number_spoils_nothing_else(variant):
    x = jnp.asarray(RNG.normal(size=(4, 4, 5)), jnp.float32)
    gamma, beta, mean, variance = vectors(4, 1, 0, 0.5, 1)

    @jax.jit
    def outputs(mean):
        y, pull, running = jax.vjp(
            lambda x: (lambda y, *running: (y, running))(*training(variant)(x, gamma, beta, mean, variance)),
            x,
            has_aux=True,
        )
        return y, pull(jnp.sin(x))[0], *running

    *clean, clean_mean, clean_variance = outputs(mean)
    *found, new_mean, new_variance = outputs(jnp.asarray([0.5, np.nan, np.inf, -np.inf], jnp.float32))
    for ours, expected in zip(found, clean, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(np.isfinite(new_mean), [True, False, False, False])
    np.testing.assert_allclose(new_mean[0], clean_mean[0], rtol=1e-6)
    np.testing.assert_allclose(new_variance, clean_variance, rtol=1e-4)


@pytest.mark.parametrize("variant", ["folded", "prefolded", "naive", "native", "pallas_triton"])
def test_float64_x_with_float32_parameters_is_computed_in_float64(variant):
    x = RNG.normal(size=(4, 3, 5))
    parameters = tuple(RNG.uniform(0.5, 2, 3).astype(np.float32) for _ in range(4))
    right = kernels.operator("batch_norm").reference(x, *parameters)
    np.testing.assert_allclose(kernels.get("batch_norm", variant)(x, *parameters), right, rtol=0, atol=1e-14)
    problem = Problem("batch_norm", x.shape, "ncl", "float64", "float32")
    program = kernels.program(problem, variant)
    inputs = program.setup(*map(jnp.asarray, (x, *parameters)))
    np.testing.assert_allclose(program.function(*inputs), right, rtol=0, atol=1e-14)


SECOND = [
    (operator, variant)
    for operator in ("batch_norm", *OPERATORS)
    for variant in kernels.variants(operator)
    if variant in ("pallas_triton", "pallas_tpu", "native")
    or (operator, variant)
    in (("rms_norm", "pallas_mosaic"), ("layer_norm", "welford"), ("batch_norm_training", "custom_vjp"))
]


@pytest.mark.parametrize(("operator", "variant"), SECOND)
def test_second_derivatives(operator, variant):
    """Of a gradient's cosines, against the baseline's in float64."""
    layout = layout_of(operator if operator != "batch_norm" else "batch_norm_training", 2, 8)
    rng = np.random.default_rng(9)
    size = layout.problem.shape[1]
    x, gamma, beta = rng.normal(size=layout.problem.shape), rng.normal(size=size), rng.normal(size=size)
    definition = kernels.operator(operator)
    problem = Problem(
        operator, layout.problem.shape, layout.problem.layout, options=layout.problem.options, context="silu"
    )
    keywords = definition.keywords(problem)
    others = (rng.uniform(0.5, 1, size), rng.uniform(0.5, 1, size)) if operator.startswith("batch_norm") else ()
    arrays = (x, gamma) if operator == "rms_norm" else (x, gamma, beta)

    @partial(jax.jit, static_argnums=0)
    def second(name, arrays, others):
        def loss(*leading):
            y = kernels.get(operator, name)(*leading, *others, **keywords)
            return jnp.sum(jnp.sin(y[0] if isinstance(y, tuple) else y))

        def of_gradients(*leading):
            return sum(jnp.sum(jnp.cos(g)) for g in jax.grad(loss, tuple(range(len(arrays))))(*leading))

        return jax.grad(of_gradients, tuple(range(len(arrays))))(*arrays)

    narrow = [tuple(jnp.asarray(array, jnp.float32) for array in group) for group in (arrays, others)]
    for found, right in zip(second(variant, *narrow), second("naive", arrays, others), strict=True):
        np.testing.assert_allclose(found, right, rtol=0, atol=1e-4 * float(np.abs(right).max()))


WITHOUT = [(operator, variant) for operator in ("batch_norm", *OPERATORS) for variant in kernels.variants(operator)]


@pytest.mark.parametrize(("operator", "variant"), WITHOUT)
def test_gamma_and_beta_may_be_absent(operator, variant):
    layout = layout_of(operator if operator != "batch_norm" else "batch_norm_training", 2, 8)
    x = jnp.asarray(RNG.normal(size=layout.problem.shape), jnp.float32)
    size = x.shape[1]
    ones, zeros, *others = vectors(size, 1, 0, 0.5, 2)
    others = others if operator.startswith("batch_norm") else []
    keywords = {"groups": layout.problem.option("groups")} if operator == "group_norm" else {}
    function = kernels.get(operator, variant)
    absent, given = ([None], [ones]) if operator == "rms_norm" else ([None, None], [ones, zeros])
    shapes = jax.eval_shape(lambda x, *others: function(x, *absent, *others, **keywords), x, *others)
    assert jax.tree.leaves(shapes)[0].shape == x.shape
    if variant == "naive":  # the others check their arguments by the same functions
        found, right = (function(x, *parameters, *others, **keywords) for parameters in (absent, given))
        for ours, expected in zip(jax.tree.leaves(found), jax.tree.leaves(right), strict=True):
            np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("variant", ["naive", "custom_vjp", "native", "pallas_triton"])
def test_rms_norm_without_an_epsilon_takes_the_machine_epsilon_of_the_computation(variant):
    x = jnp.asarray(RNG.normal(size=(2, 16)) * 1e-4, jnp.bfloat16)
    found = kernels.get("rms_norm", variant)(x, None, None)
    np.testing.assert_allclose(
        np.asarray(found, np.float32), np.asarray(aten.rms_norm(x, (16,)), np.float32), rtol=1e-2
    )


def test_an_epsilon_of_numpy_promotes_nothing_in_aten():
    eps = np.float64(1e-5)

    def outputs(x):
        return (
            *aten.native_layer_norm(x, (3,), None, None, eps),
            *aten.native_group_norm(x, None, None, 2, 4, 3, 2, eps),
            *aten.native_batch_norm_functional(x, None, None, x[0, :, 0], x[0, :, 0], True, np.float64(0.1), eps),
            aten.batch_norm(x, None, None, x[0, :, 0], x[0, :, 0], False, np.float64(0.1), eps, False),
            aten.instance_norm(x, None, None, None, None, True, np.float64(0.1), eps, False),
            *aten._fused_rms_norm(x, (3,), None, eps),
            *aten.batch_norm_stats(x, eps),
            aten.local_response_norm(x, 2, np.float64(1e-4), np.float64(0.75), np.float64(1)),
        )

    shapes = jax.eval_shape(outputs, jax.ShapeDtypeStruct((2, 4, 3), jnp.float32))
    assert {str(array.dtype) for array in shapes} == {"float32"}


def test_gathered_counts_beyond_float16_and_devices_without_elements():
    means, invstds = jnp.asarray([[1.0], [3.0], [np.nan]], jnp.float16), jnp.asarray([[0.5], [0.5], [0.0]], jnp.float16)
    counts = jnp.asarray([100000, 300000, 0])
    x = jnp.zeros((1, 1, 2), jnp.float16)
    mean, invstd = aten.batch_norm_gather_stats_with_counts(x, means, invstds, None, None, 0.1, 0.0, counts)
    assert mean.dtype == invstd.dtype == jnp.float16
    np.testing.assert_allclose([float(mean[0]), float(invstd[0])], [2.5, 1 / np.sqrt(4.75)], rtol=1e-3)


def test_the_gradient_of_a_local_response_norm_of_large_values_is_a_number():
    x = jnp.ones((3, 4, 3), jnp.float32) * jnp.asarray([1e19, 1.9e38, 3e38], jnp.float32)[:, None, None]
    assert np.isfinite(jax.grad(lambda x: jnp.sum(aten.local_response_norm(x, 3)))(x)).all()
    for variant in kernels.variants("local_response_norm"):
        function = kernels.get("local_response_norm", variant)
        assert np.isfinite(jax.jit(jax.grad(lambda x, f=function: jnp.sum(f(x))))(x)).all(), variant


def test_a_cumulative_average_is_a_momentum_of_one_by_the_number_of_batches():
    batches = [jnp.asarray(RNG.normal(size=(5, 2)), jnp.float32) for _ in range(3)]
    mean, variance = vectors(2, 0, 1)
    step = jax.jit(
        lambda x, mean, variance, momentum: aten.native_batch_norm_functional(
            x, None, None, mean, variance, True, momentum, 1e-5
        )[3:]
    )
    for number, batch in enumerate(batches, 1):
        mean, variance = step(batch, mean, variance, 1 / number)
    np.testing.assert_allclose(mean, np.mean([np.mean(b, 0) for b in batches], 0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(variance, np.mean([np.var(b, 0, ddof=1) for b in batches], 0), rtol=1e-5)
    with pytest.raises(aten.AtenError, match="momentum None; allowed: a number"):
        aten.batch_norm(batches[0], None, None, mean, variance, True, None, 1e-5, False)
    with pytest.raises(UserError, match="momentum None is not allowed"):
        training("naive")(batches[0], None, None, mean, variance, momentum=None)
