"""Rules for launches whose code is not at hand."""

import importlib.util
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from normbench import explain, kernels
from normbench.predict.rules import operations_of

PEAKS = {8: 1979e12, 16: 989e12, 32: 494e12}
"""Of an H200, in operations a second: NVIDIA's data sheet, without sparsity."""


def product(index, flops, size=100):
    return SimpleNamespace(
        index=index, ops=("dot",), flops=flops, read_bytes=size, write_bytes=size,
        instruction=SimpleNamespace(custom_call_target=""),
    )  # fmt: skip


def test_a_product_counts_with_its_own_operations_whatever_stands_beside_it():
    """A share of the program's would change with everything else, and would be none beside a hand-written kernel."""
    assert operations_of([product(0, 1e9), product(1, 3e9)]) == {0: 1e9, 1: 3e9}
    assert operations_of([product(0, None)]) == {0: 0.0}


@pytest.mark.skipif(importlib.util.find_spec("jax_cuda13_plugin") is None, reason="needs the extra gpu-targets")
@settings(max_examples=4, deadline=None, derandomize=True)
@given(st.sampled_from([64, 256]), st.sampled_from([64, 128, 512]), st.sampled_from([128, 1024]), st.booleans())
def test_a_product_takes_the_same_time_with_a_hand_written_kernel_in_the_program(rows, inner, columns, convolved):
    x = jax.ShapeDtypeStruct((rows, inner), jnp.bfloat16)
    w = jax.ShapeDtypeStruct((inner, columns), jnp.bfloat16)
    if convolved:
        x = jax.ShapeDtypeStruct((4, rows // 8, 8, inner), jnp.bfloat16)
        w = jax.ShapeDtypeStruct((3, 3, inner, columns), jnp.bfloat16)
    kernel = kernels.get("rms_norm", "pallas_triton")

    def block(norm, x, w, gamma):
        numbers = ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=numbers) if convolved else x @ w
        return norm(jax.lax.optimization_barrier(y), gamma)

    def seconds(norm):
        report = explain(partial(block, norm), x, w, jax.ShapeDtypeStruct((columns,), jnp.float32))
        (found,) = [row["predicted_s"] for row in report.rows if row["flops"]]
        return found

    by_hand = seconds(lambda y, gamma: kernel(y, gamma, epsilon=1e-5))
    assert by_hand == seconds(lambda y, gamma: kernels.get("rms_norm", "naive")(y, gamma, epsilon=1e-5))


@pytest.mark.skipif(importlib.util.find_spec("jax_cuda13_plugin") is None, reason="needs the extra gpu-targets")
@pytest.mark.parametrize(("complex_", "real"), [("complex64", "float32"), ("complex128", "float64")])
def test_a_product_of_complex_numbers_is_four_of_real_ones(complex_, real):
    def row(dtype):
        x = jax.ShapeDtypeStruct((2048, 2048), dtype)
        return explain(jnp.matmul, x, x).launches.iloc[0]

    with jax.enable_x64(True):
        four, one = row(complex_), row(real)
    assert (one["flops"], four["flops"]) == (2 * 2048**3, 8 * 2048**3)
    assert four["predicted_s"] == pytest.approx(4 * one["predicted_s"], rel=0.05)


@pytest.mark.skipif(importlib.util.find_spec("jax_cuda13_plugin") is None, reason="needs the extra gpu-targets")
@pytest.mark.parametrize(
    ("operands", "result", "bits"),
    [("bfloat16", "bfloat16", 16), ("bfloat16", "float32", 16), ("float32", "float32", 32), ("int8", "int32", 8)],
)
def test_the_rate_of_a_product_is_that_of_what_is_multiplied(operands, result, bits):
    x = jax.ShapeDtypeStruct((8192, 8192), operands)
    report = explain(partial(jnp.matmul, preferred_element_type=result), x, x)
    (row,) = [row for row in report.rows if row["flops"]]
    assert row["predicted_s"] == pytest.approx(2 * 8192**3 / (0.7 * PEAKS[bits]), rel=0.02)
