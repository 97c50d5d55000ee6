"""The Pallas Triton kernels of training batch norm, interpreted, against the float64 reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from norm_cases import check

import kernels
from benchmarks.accuracy import compare
from kernels.batch_norm_training.pallas_triton import pallas_triton
from kernels.pallas.batch_config import batch_config
from kernels.pallas.channels import View
from kernels.problem import Problem

CASES = [
    ((127, 7), "nc", "float64", "cast"),
    ((2, 6, 4, 4), "nchw", "float32", "silu"),
    ((2, 3, 67, 67), "nchw", "bfloat16", "alone"),
    ((2, 7, 5, 12), "nhwc", "float32", "relu"),
    ((1, 47, 47, 11), "nhwc", "float16", "gelu"),
    ((1, 3, 129), "ncl", "float32", "alone"),
    ((16385, 1), "nc", "float32", "alone"),
]
"""One share of the batch and several, the last of them ragged, in both layouts."""


@pytest.mark.parametrize(("shape", "layout", "dtype", "context"), CASES)
def test_forward_and_gradients(shape, layout, dtype, context):
    check(Problem("batch_norm_training", shape, layout, dtype, "float32", "forward_backward", context), "pallas_triton")


def test_parameters_in_another_dtype_and_the_backward_pass_alone():
    check(Problem("batch_norm_training", (2, 5, 6, 4), "nhwc", "float32", "bfloat16", "backward"), "pallas_triton")


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("running", [0.0, 1e3])
def test_hard_data_in_several_shares(last, running):
    """A mean of 1000 and a deviation of 0.01, whether or not the running mean is near it."""
    shape = (1, 16384, 4) if last else (1, 4, 16384)
    assert batch_config(View(1, 4, 16384, last), "float32").splits > 1
    random = np.random.default_rng(0)
    x = jnp.asarray(1e3 + 1e-2 * random.normal(size=shape), jnp.float32)
    vector = jnp.ones(4, jnp.float32)
    arrays = (x, vector, 0 * vector, running * vector, vector)
    keywords = {"epsilon": 1e-9, "channel_axis": -1 if last else 1}
    exact = kernels.operator("batch_norm_training").reference(*map(np.asarray, arrays), **keywords)[0]
    errors = [
        compare(kernels.get("batch_norm_training", name)(*arrays, **keywords)[0], exact, ("float32",), 1).max_abs
        for name in ("naive", "pallas_triton")
    ]
    assert errors[1] <= 4 * errors[0]


def test_an_empty_batch_and_running_statistics_without_gradient():
    check(Problem("batch_norm_training", (0, 4, 3, 3), pass_="forward_backward"), "pallas_triton")
    x, vector = jnp.arange(12.0).reshape(3, 4), jnp.ones(4)
    gradients = jax.grad(lambda m, v: jnp.sum(sum(map(jnp.sum, pallas_triton(x, vector, vector, m, v)))), (0, 1))
    for gradient in gradients(vector, vector):
        np.testing.assert_array_equal(gradient, 0)


def test_what_is_refused_has_a_reason():
    variant = kernels.get("batch_norm_training", "pallas_triton")
    assert "interpret" in variant.supports(Problem("batch_norm_training", (2, 8, 4, 4)), "cpu")
    assert variant.supports(Problem("batch_norm_training", (2, 8, 4, 4)), "h200") is None
    assert "32-bit" in variant.supports(Problem("batch_norm_training", (2**16, 32, 64, 64)), "h200")
