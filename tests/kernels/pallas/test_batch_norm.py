"""The Pallas Triton kernels of inference batch norm, interpreted: gradients, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from normbench import kernels
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
]
"""One share of the batch and several, the last of them ragged, in both layouts."""


@pytest.mark.parametrize(("shape", "layout", "dtype", "context"), CASES)
def test_gradients_of_x_and_of_all_parameters(shape, layout, dtype, context):
    check(Problem("batch_norm", shape, layout, dtype, "float32", "forward_backward", context), "pallas_triton")


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
