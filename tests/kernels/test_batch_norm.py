"""Every variant of batch_norm against the float64 reference, forward and gradient."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from normbench import kernels
from normbench.kernels.problem import Problem
from tests.kernels.kernel_cases import arrays_of, assert_close, batch_norm_problems, double, run, unit

VARIANTS = tuple(name for name in kernels.variants("batch_norm") if name not in ("pallas_mosaic", "pallas_tpu"))
"""Those that take any shape and dtype; pallas/test_mosaic_channels.py and pallas/test_tpu.py have the others."""
FOLDED = ("folded", "prefolded")


def bound(problem: Problem, arrays, expected, variant: str) -> np.ndarray:
    """Rounding of the output, plus rounding of the terms, which is what cancellation leaves.

    The terms are x * scale, mean * scale and beta; where x and mean cancel first, in naive and pallas_triton, that
    difference is exact to the last bit of x, so they leave less than this bound; the folded forms reach it.
    """
    x, gamma, beta, mean, variance = map(double, arrays)
    shape = tuple(size if axis == problem.channel_axis else 1 for axis, size in enumerate(problem.shape))
    gamma, beta, mean, variance = (p.reshape(shape) for p in (gamma, beta, mean, variance))
    scale = np.abs(gamma) / np.sqrt(variance + problem.epsilon)
    output = kernels.get("batch_norm", variant).output_dtype(problem)
    terms = scale * (np.abs(x) + np.abs(mean)) + np.abs(beta)
    narrow = unit(jnp.promote_types(output, "float32"))
    if variant in FOLDED:  # folded from the parameters alone, so in float32 where they are no wider
        narrow = unit(jnp.promote_types(problem.param_dtype, "float32"))
    if variant == "naive_promoting":  # the square root is in the parameters' dtype, however wide x is
        narrow = unit(output, problem.param_dtype)
    return 8 * (narrow * terms + unit(output) * np.abs(expected)) + 1e-7 * (output == "float16")


@settings(max_examples=20, deadline=None, derandomize=True)
@given(problem=batch_norm_problems(), seed=st.integers(0, 99))
def test_every_variant_equals_the_reference_within_rounding(problem, seed):
    arrays = arrays_of(problem, seed)
    expected = kernels.reference(problem, arrays)
    for name, y in jax.jit(lambda *a: {v: run(problem, v, a) for v in VARIANTS})(*arrays).items():
        assert y.dtype == kernels.get("batch_norm", name).output_dtype(problem)
        assert_close(y, expected, bound(problem, arrays, expected, name), name)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shape", [(9001,), (13, 1), (3, 5, 37, 41), (2, 48, 40, 8), (257, 7, 1, 3)])
def test_blocks_that_do_not_divide_the_size(variant, shape):
    for layout in {1: ("c",), 2: ("nc",), 4: ("nchw", "nhwc")}[len(shape)]:
        problem = Problem("batch_norm", shape, layout, "float32", context="silu")
        arrays = arrays_of(problem)
        expected = kernels.reference(problem, arrays)
        assert_close(run(problem, variant, arrays), expected, bound(problem, arrays, expected, variant))


@pytest.mark.parametrize("variant", VARIANTS)
def test_large_mean_and_small_variance_lose_only_what_the_form_has_to_lose(variant):
    problem = Problem("batch_norm", (64, 5, 7), "ncl")
    random = np.random.default_rng(1)
    mean, variance = random.uniform(900, 1100, 5), random.uniform(1e-4, 1e-3, 5)
    x = mean[:, None] + np.sqrt(variance)[:, None] * random.normal(size=problem.shape)
    arrays = [jnp.asarray(a, "float32") for a in (x, random.normal(size=5), random.normal(size=5), mean, variance)]
    expected = kernels.reference(problem, arrays)
    assert_close(run(problem, variant, arrays), expected, bound(problem, arrays, expected, variant))
    if variant not in FOLDED:  # x - mean is exact here, so nothing is lost but the last bits
        assert_close(run(problem, variant, arrays), expected, 8 * unit("float32") * (np.abs(expected) + 4))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("gamma", [0.0, -1.5])
def test_zero_and_negative_gamma(variant, gamma):
    problem = Problem("batch_norm", (3, 4, 5, 5), "nchw", "bfloat16")
    x, _, beta, mean, variance = arrays_of(problem)
    arrays = (x, jnp.full(4, gamma, "float32"), beta, mean, variance)
    expected = kernels.reference(problem, arrays)
    y = run(problem, variant, arrays)
    assert_close(y, expected, bound(problem, arrays, expected, variant))
    if gamma == 0:
        np.testing.assert_array_equal(y, jnp.broadcast_to(beta.astype(y.dtype).reshape(1, 4, 1, 1), y.shape))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("shape", "layout"), [((0, 4), "nc"), ((0, 3, 5, 5), "nchw"), ((2, 0, 5, 3), "nhwc")])
def test_empty_batch(variant, shape, layout):
    problem = Problem("batch_norm", shape, layout)
    assert run(problem, variant, arrays_of(problem)).shape == shape
    gradient = jax.grad(lambda *arrays: run(problem, variant, arrays).sum(), argnums=1)(*arrays_of(problem))
    np.testing.assert_array_equal(gradient, np.zeros(problem.channels))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("shape", "layout"), [((3, 2, 5), "ncl"), ((2, 3, 4), "nlc")])
@pytest.mark.parametrize("context", ["alone", "silu"])
def test_gradients_equal_finite_differences(variant, shape, layout, context):
    problem = Problem("batch_norm", shape, layout, "float64", "float64", context=context)
    check_grads(jax.jit(lambda *arrays: run(problem, variant, arrays)), arrays_of(problem), order=1, modes=["rev"])


@settings(max_examples=8, deadline=None, derandomize=True)
@given(problem=batch_norm_problems(dtypes=("float32", "bfloat16")), seed=st.integers(0, 99))
def test_gradients_in_lower_precision_equal_those_in_float64(problem, seed):
    """The oracle is autodiff of `naive` in float64, which the finite differences above hold."""
    arrays = arrays_of(problem, seed)
    weights = np.random.default_rng(seed).normal(size=problem.shape)

    def gradients(which, name):
        loss = lambda *a: (run(which, name, a).astype("float64") * weights).sum()  # noqa: E731
        return jax.grad(loss, argnums=range(5))

    wide = dataclasses.replace(problem, dtype="float64", param_dtype="float64")
    expected = jax.jit(gradients(wide, "naive"))(*(array.astype("float64") for array in arrays))
    actual = jax.jit(lambda *a: {name: gradients(problem, name)(*a) for name in VARIANTS})(*arrays)
    terms = np.sqrt(np.prod(problem.shape) // problem.channels)
    for name in VARIANTS:
        for array, gradient, exact in zip(arrays, actual[name], expected, strict=True):
            assert gradient.dtype == array.dtype
            allowed = 8 * unit(problem.dtype, problem.param_dtype) * (np.abs(exact).max() + terms)
            assert_close(gradient, double(exact), allowed, name)


@pytest.mark.parametrize("variant", VARIANTS)
def test_jit_and_vmap_change_nothing(variant):
    problem = Problem("batch_norm", (3, 4, 5), "ncl", context="relu")
    arrays = arrays_of(problem)
    function = lambda *a: run(problem, variant, a)  # noqa: E731
    plain = function(*arrays)
    np.testing.assert_allclose(jax.jit(function)(*arrays), plain, rtol=1e-6, atol=1e-6)
    doubled = jnp.stack([arrays[0], arrays[0] + 1])
    mapped = jax.vmap(function, in_axes=(0, None, None, None, None))(doubled, *arrays[1:])
    np.testing.assert_allclose(mapped[0], plain, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(mapped[1], function(doubled[1], *arrays[1:]), rtol=1e-6, atol=1e-6)


def test_the_promoting_variant_shows_the_trap():
    problem = Problem("batch_norm", (2, 3, 4, 4), "nchw", "bfloat16", "float32")
    assert run(problem, "naive", arrays_of(problem)).dtype == "bfloat16"
    assert run(problem, "naive_promoting", arrays_of(problem)).dtype == "float32"
