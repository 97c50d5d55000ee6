"""The Pallas Triton kernels of inference batch norm, interpreted: gradients, and what is refused."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from analysis.pages.kernels_against_xla import kernel_bytes
from normbench import kernels
from normbench.errors import UserError
from normbench.kernels.pallas.triton import inference
from normbench.kernels.pallas.triton.channel_tiles import View
from normbench.kernels.pallas.triton.training_shares import batch_config
from normbench.kernels.problem import Problem
from tests.kernels.norm_cases import check

CASES = [
    ((129,), "c", "float32", "alone"),
    ((127, 7), "nc", "float64", "gelu"),
    ((2, 6, 4, 4), "nchw", "float32", "silu"),
    ((2, 3, 67, 67), "nchw", "bfloat16", "relu"),
    ((1, 47, 47, 11), "nhwc", "float16", "cast"),
    ((16385, 1), "nc", "float32", "alone"),
    ((127, 7), "nc", "float64", "residual"),
    ((2, 6, 5, 5), "nchw", "bfloat16", "residual"),
    ((2, 4, 4, 6), "nhwc", "float16", "residual"),
    ((1, 48, 48, 16), "nhwc", "float32", "residual"),
]
"""One share of the batch and several, the last of them ragged, in both layouts."""


@pytest.mark.parametrize(("shape", "layout", "dtype", "context"), CASES)
def test_gradients_of_x_and_of_all_parameters(shape, layout, dtype, context):
    check(Problem("batch_norm", shape, layout, dtype, "float32", "forward_backward", context), "pallas_triton")


@pytest.mark.parametrize("context", ["gelu", "residual"])
@pytest.mark.parametrize(
    ("shape", "layout", "rows"), [((24, 5, 7, 7), "nchw", 3), ((72, 9, 9, 3), "nhwc", 9), ((40, 571), "nc", 5)]
)
def test_rows_that_have_all_channels_some_times_over(shape, layout, rows, context, monkeypatch):
    """Where the channels are no whole vectors: of 5 x 49 elements eight images, of three channels eight positions."""
    monkeypatch.setattr(inference, "LEAST_REPEATED", 1)
    config = inference.choose(shape, 1 if layout == "nchw" else len(shape) - 1, 2)
    assert config.channel_of == "repeated"
    assert config.columns % config.vector == 0
    assert config.rows * config.columns == math.prod(shape)
    assert config.rows % rows == 0
    check(Problem("batch_norm", shape, layout, "bfloat16", "float32", "forward", context), "pallas_triton")


def test_the_flat_view_is_kept_where_no_number_of_positions_makes_up_whole_vectors():
    assert inference.choose((31, 7, 7, 61), 3, 2).channel_of == "flat"
    assert inference.choose((32, 7, 7, 61), 3, 2).channel_of == "flat"  # few programs
    assert inference.choose((3200, 7, 7, 61), 3, 2).channel_of == "repeated"
    assert [inference.choose((186, 1024, side, side), 1, 4).channel_of for side in (12, 14)] == ["repeated", "row"]


def test_a_residual_is_added_in_the_same_launch_and_what_reaches_the_sum_reaches_x():
    x, residual, dz = (jnp.asarray(np.random.default_rng(n).normal(size=(2, 4, 5, 5)), jnp.bfloat16) for n in range(3))
    vectors = [jnp.linspace(0.5, 1.5, 4, dtype=jnp.float32)] * 4
    variant = kernels.get("batch_norm", "pallas_triton").function

    def both(x, residual):
        return variant(x, *vectors, residual=residual)

    (y, z), pullback = jax.vjp(both, x, residual)
    np.testing.assert_array_equal(z, x + residual)
    np.testing.assert_array_equal(y, variant(z, *vectors))
    dx, dresidual = pullback((jnp.zeros_like(y), dz))
    np.testing.assert_array_equal(dx, dz)
    np.testing.assert_array_equal(dresidual, dz)
    problem = Problem("batch_norm", (8, 64, 28, 28), "nchw", "bfloat16", context="residual")
    tensor_bytes = 2 * 8 * 64 * 28 * 28
    assert 4 * tensor_bytes < kernel_bytes(problem) < 4.01 * tensor_bytes
    with pytest.raises(UserError, match="residual is bfloat16"):
        both(x, residual[:1])


@pytest.mark.parametrize("added", [False, True])
def test_second_derivatives_with_a_residual_and_without(added):
    x, residual = (jnp.asarray(np.random.default_rng(n).normal(size=(2, 3, 2, 2)), jnp.float32) for n in range(2))
    vectors = [jnp.linspace(0.5, 1.5, 3, dtype=jnp.float32)] * 4

    def twice(name):
        variant = kernels.get("batch_norm", name).function

        def value(x):
            if name == "pallas_triton" and added:
                y, z = variant(x, *vectors, activation="silu", residual=residual)
            else:
                z = x + residual if added else x
                y = variant(z, *vectors, activation="silu")
            return jnp.sum(jnp.sin(y) + jnp.square(z) * y)

        return jax.grad(lambda x: jnp.sum(jnp.sin(jax.grad(value)(x))))(x)

    np.testing.assert_allclose(twice("pallas_triton"), twice("naive"), rtol=2e-4, atol=2e-4)


def test_several_shares_and_parameters_in_another_dtype():
    assert batch_config(View(1, 4, 16384, True), "float32", "none").splits > 1
    check(Problem("batch_norm", (1, 128, 128, 4), "nhwc", "float32", "bfloat16", "backward"), "pallas_triton")


def test_the_gradients_are_the_same_each_time_and_an_empty_batch_has_some():
    program = kernels.program(Problem("batch_norm", (16384, 4), "nc", pass_="backward"), "pallas_triton")
    random = np.random.default_rng(3)
    arrays = [jnp.asarray(random.uniform(0.5, 1.5, a.shape), a.dtype) for a in program.arguments]
    inputs = jax.jit(program.setup)(*arrays, arrays[0])
    first, second = (jax.jit(program.function)(*inputs) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, second)
    check(Problem("batch_norm", (0, 4, 3, 3), pass_="forward_backward"), "pallas_triton")
