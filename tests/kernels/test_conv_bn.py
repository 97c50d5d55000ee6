"""Every variant of conv_bn against the float64 reference, forward and gradient; the reference against XLA's own."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from normbench import kernels
from normbench.kernels.conv_bn.geometry import geometry
from normbench.kernels.conv_bn.reference import convolve
from normbench.kernels.problem import Problem
from tests.kernels.kernel_cases import arrays_of, assert_close, conv_bn_problems, double, run, unit

VARIANTS = kernels.variants("conv_bn")


def problem_of(shape=(2, 4, 6, 6), layout="nchw", dtype="float32", param_dtype="float32", context="silu", **options):
    return Problem("conv_bn", shape, layout, dtype, param_dtype, "forward", context, 1e-3, tuple(options.items()))


def bound(problem: Problem, arrays, expected) -> np.ndarray:
    """Rounding of the output and of the terms; the sum of n products of unit size is about sqrt(n), and so is its
    rounding, relative to one product."""
    gamma, beta, mean, variance = map(double, arrays[-4:])
    scale = np.abs(gamma) / np.sqrt(variance + problem.epsilon)
    products = 4 * math.sqrt(kernels.operator("conv_bn").reduction(problem))
    terms = scale * (products + np.abs(mean) + 2) + np.abs(beta)
    shape = [-1 if axis == problem.channel_axis else 1 for axis in range(len(problem.shape))]
    narrow = unit(problem.dtype, jnp.promote_types(problem.param_dtype, "float32"))
    return 8 * (narrow * terms.reshape(shape) + unit(problem.dtype) * np.abs(expected))


@settings(max_examples=15, deadline=None, derandomize=True)
@given(problem=conv_bn_problems(), seed=st.integers(0, 99))
def test_every_variant_equals_the_reference_within_rounding(problem, seed):
    arrays = arrays_of(problem, seed)
    expected = kernels.reference(problem, arrays)
    for name, y in jax.jit(lambda *a: {v: run(problem, v, a) for v in VARIANTS})(*arrays).items():
        assert y.dtype == problem.dtype
        assert_close(y, expected, bound(problem, arrays, expected), name)


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize(("size", "stride", "dilation"), [(7, 1, 1), (8, 2, 1), (9, 3, 1), (9, 1, 2), (8, 2, 2)])
def test_the_reference_pads_as_xla_does(padding, size, stride, dilation):
    random = np.random.default_rng(0)
    x, weight = random.normal(size=(2, 6, size, size + 1)), random.normal(size=(9, 2, 3, 2))
    expected = jax.lax.conv_general_dilated(
        x, weight, (stride, stride), padding, rhs_dilation=(dilation, dilation), feature_group_count=3
    )
    actual = convolve(x, weight, geometry("nchw", stride, padding.lower(), dilation, 3))
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (2, 2), (4, 2), (2, 3)])
def test_the_transposed_reference_equals_jax_conv_transpose(padding, kernel, stride):
    if padding == "VALID" and kernel < stride:
        pytest.skip("JAX extends the valid output of a kernel narrower than its stride; PyTorch does not")
    random = np.random.default_rng(0)
    x, weight = random.normal(size=(2, 5, 4, 6)), random.normal(size=(kernel, kernel, 6, 3))
    expected = jax.lax.conv_transpose(
        x, np.flip(weight, (0, 1)), (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    actual = convolve(x, weight, geometry("nhwc", stride, padding.lower(), 1, 1, True))
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("padding", [0, 1, ((0, 1), (1, 0))])
def test_the_transposed_reference_is_the_gradient_of_the_grouped_convolution(groups, padding):
    """PyTorch's definition: ConvTranspose transposes the convolution of the same weight, from y's channels to x's."""
    random = np.random.default_rng(0)
    x, weight = random.normal(size=(2, 6, 4, 5)), random.normal(size=(6, 12 // groups, 3, 3))
    shape = geometry("nchw", 2, padding, 1, groups, True)
    size = shape.output_spatial((4, 5), (3, 3))
    forward = lambda y: jax.lax.conv_general_dilated(  # noqa: E731
        y, weight, (2, 2), shape.padding, feature_group_count=groups
    )
    (transposed,) = jax.linear_transpose(forward, jax.ShapeDtypeStruct((2, 12, *size), "float64"))(jnp.asarray(x))
    np.testing.assert_allclose(convolve(x, weight, shape), transposed, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    "options",
    [
        {"features": 6, "bias": True, "stride": 2},
        {"features": 4, "groups": 4, "padding": 1},
        {"features": 6, "groups": 2, "transposed": True, "stride": 2, "bias": True},
    ],
    ids=["strided", "depthwise", "transposed"],
)
def test_gradients_equal_finite_differences(variant, options):
    problem = problem_of((2, 4, 3, 4), dtype="float64", param_dtype="float64", **options)
    function = jax.jit(lambda *arrays: run(problem, variant, arrays))
    check_grads(function, arrays_of(problem), order=1, modes=["rev"], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_gradients_in_lower_precision_equal_those_in_float64(dtype, layout):
    """The oracle is autodiff of `unfused` in float64, which the finite differences above hold."""
    problem = problem_of((2, 6, 5, 6), layout, dtype, features=6, groups=2, bias=True)
    wide = dataclasses.replace(problem, dtype="float64", param_dtype="float64")
    arrays = arrays_of(problem)

    def gradients(which, name):
        return jax.grad(lambda *a: run(which, name, a).astype("float64").sum(), argnums=range(7))

    expected = jax.jit(gradients(wide, "unfused"))(*(array.astype("float64") for array in arrays))
    actual = jax.jit(lambda *a: {name: gradients(problem, name)(*a) for name in VARIANTS})(*arrays)
    positions = math.prod(problem.shape) // problem.channels
    for name in VARIANTS:
        for array, gradient, exact in zip(arrays, actual[name], expected, strict=True):
            assert gradient.dtype == array.dtype
            allowed = 4 * unit(dtype) * (np.abs(exact).max() + math.sqrt(positions))
            assert_close(gradient, double(exact), allowed, name)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_empty_batch(variant, layout):
    problem = problem_of((0, 4, 6, 4), layout, features=5, stride=2)
    arrays = arrays_of(problem)
    y = run(problem, variant, arrays)
    assert y.shape == kernels.reference(problem, arrays).shape
    assert y.size == 0


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_bias_of_none_is_a_bias_of_zero(variant):
    without, given = problem_of(bias=False), problem_of(bias=True)
    x, weight, *parameters = arrays_of(without)
    zero = jnp.zeros(4, "float32")
    np.testing.assert_allclose(
        run(without, variant, (x, weight, *parameters)),
        run(given, variant, (x, weight, zero, *parameters)),
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("gamma", [0.0, -2.0])
def test_zero_and_negative_gamma(variant, gamma):
    problem = problem_of(context="relu")
    x, weight, _, *rest = arrays_of(problem)
    arrays = (x, weight, jnp.full(4, gamma, "float32"), *rest)
    expected = kernels.reference(problem, arrays)
    assert_close(run(problem, variant, arrays), expected, bound(problem, arrays, expected), variant)


@pytest.mark.parametrize("variant", VARIANTS)
def test_jit_and_vmap_change_nothing(variant):
    problem = problem_of(features=3)
    x, *rest = arrays_of(problem)
    function = lambda x: run(problem, variant, (x, *rest))  # noqa: E731
    np.testing.assert_allclose(jax.jit(function)(x), function(x), rtol=1e-5, atol=1e-5)
    mapped = jax.vmap(function)(jnp.stack([x, x + 1]))
    np.testing.assert_allclose(mapped[1], function(x + 1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("variant", ["folded", "prefolded"])
def test_a_float16_gradient_over_many_positions_is_refused_with_another_variant_named(variant):
    def reason(shape, pass_="forward_backward", dtype="float16", **options):
        problem = Problem("conv_bn", shape, "nhwc", dtype, pass_=pass_, options=tuple(options.items()))
        return kernels.get("conv_bn", variant).supports(problem, "cpu")

    assert "25088 products" in reason((8, 56, 56, 8))
    assert "use unfused" in reason((8, 56, 56, 8))
    assert reason((8, 56, 56, 8), stride=3) is None  # 19 x 19 positions of each image
    assert "10000 products" in reason((1, 100, 100, 8), transposed=True, stride=2)  # of x, not of y
    assert reason((8, 56, 56, 8), "forward") is None
    assert reason((8, 56, 56, 8), dtype="bfloat16") is None
