"""The Pallas Triton kernels of layer norm and RMS norm, interpreted, against the float64 reference."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from normbench import kernels
from normbench.errors import UserError
from normbench.kernels.common.pointwise import Pointwise
from normbench.kernels.layer_norm.pallas_triton import pallas_triton as layer_norm
from normbench.kernels.pallas.hardware import WORKSPACE_SHARE, walking_programs
from normbench.kernels.pallas.triton import rows_config
from normbench.kernels.problem import Problem
from normbench.kernels.rms_norm.pallas_triton import pallas_triton as rms_norm
from normbench.study.check.accuracy import compare
from tests.kernels.norm_cases import check

OPERATORS = ("layer_norm", "rms_norm")
CASES = [
    ((5, 1), "float32", "alone"),
    ((5, 7), "float64", "silu"),
    ((19, 127), "bfloat16", "gelu"),
    ((9, 129), "float16", "residual"),
    ((2, 16384), "bfloat16", "alone"),
    ((2, 16385), "float32", "cast"),
    ((1, 65537), "bfloat16", "residual"),
]
"""Rows of one element and more, in registers and streamed (16384 backward, 65537 both ways), whole and ragged."""


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize(("shape", "dtype", "context"), CASES)
def test_forward_and_gradients(operator, shape, dtype, context):
    # The gradient of a row of one element is a difference of almost equal numbers, whatever the method.
    pass_ = "forward" if shape[-1] == 1 else "forward_backward"
    check(Problem(operator, shape, "nc", dtype, "float32", pass_, context), "pallas_triton")


@pytest.mark.parametrize("operator", OPERATORS)
def test_parameters_in_another_dtype_and_several_axes(operator):
    problem = Problem(operator, (2, 3, 4, 6), "nhwc", "float32", "bfloat16", "backward", options=(("ndim", 2),))
    check(problem, "pallas_triton")


@pytest.mark.parametrize("operator", OPERATORS)
def test_partial_sums_of_several_programs(operator):
    """Enough short rows that 11 % of x leave room for the sums of several programs; the last step is ragged."""
    rows = 2501
    config = rows_config.backward_config(rows, 8, "float32", 2, True)
    assert config.programs > 1
    assert config.masks_rows
    check(Problem(operator, (rows, 8), "nc", "float32", pass_="backward"), "pallas_triton")


@pytest.mark.parametrize("columns", [512, 32768 + 8])
def test_hard_data(columns):
    """A mean of 1000 and a deviation of 0.01: the statistics are as good as those of the textbook formula."""
    random = np.random.default_rng(0)
    x = jnp.asarray(1e3 + 1e-2 * random.normal(size=(2, columns)), jnp.float32)
    arrays = (x, jnp.asarray(random.normal(size=columns), jnp.float32), jnp.zeros(columns, jnp.float32))
    problem = Problem("layer_norm", x.shape, "nc", epsilon=1e-9)
    exact = kernels.reference(problem, [np.asarray(array) for array in arrays])
    errors = [
        compare(kernels.get("layer_norm", name)(*arrays, epsilon=1e-9), exact).max_abs
        for name in ("naive", "pallas_triton")
    ]
    assert errors[1] <= 4 * errors[0]


def test_an_outlier_at_the_start_of_a_streamed_row():
    columns = 32768 + 8
    x = np.random.default_rng(0).normal(size=(1, columns))
    x[:, 0] = 1e6
    arrays = [jnp.asarray(a, jnp.float32) for a in (x, np.ones(columns), np.zeros(columns))]
    exact = kernels.reference(Problem("layer_norm", x.shape, "nc"), arrays)
    assert np.abs(layer_norm(*arrays) - exact).max() < 1e-3


def gated(y, shift, gate):
    return (y + shift) * jax.nn.sigmoid(gate)


@pytest.mark.parametrize("shape", [(6, 40), (2, 16384)])
def test_an_epilogue_of_vectors_and_tensors_and_its_gradients(shape):
    random = np.random.default_rng(1)
    x, gate, dy = (jnp.asarray(random.normal(size=shape), jnp.float32) for _ in range(3))
    gamma, beta, shift = (jnp.asarray(random.normal(size=shape[1:]), jnp.float32) for _ in range(3))

    def fused(x, gamma, beta, shift, gate):
        return layer_norm(x, gamma, beta, epilogue=Pointwise(gated, (shift,), (gate,)))

    def apart(x, gamma, beta, shift, gate):
        return gated(kernels.get("layer_norm", "naive")(x, gamma, beta), shift, gate)

    results = []
    for function in (fused, apart):
        y, pullback = jax.vjp(function, x, gamma, beta, shift, gate)
        results.append((y, *pullback(dy)))
    for actual, expected in zip(*results, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=2e-4, atol=2e-4)


def test_vmap_and_checkpoint():
    x = jnp.asarray(np.random.default_rng(2).normal(size=(2, 3, 16)), jnp.float32)
    gamma = jnp.linspace(0.5, 2, 16, dtype=jnp.float32)

    def loss(x):
        return jnp.sum(jnp.sin(rms_norm(x, gamma)))

    together = jax.grad(loss)(x)
    np.testing.assert_allclose(jax.vmap(jax.grad(loss))(x), together, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(jax.grad(jax.checkpoint(loss))(x), together, rtol=1e-5, atol=1e-5)


def test_an_empty_batch():
    for operator in OPERATORS:
        check(Problem(operator, (0, 8), "nc", pass_="forward_backward"), "pallas_triton")


def test_the_gradients_are_the_same_each_time():
    problem = Problem("layer_norm", (2501, 8), "nc", pass_="backward")
    program = kernels.program(problem, "pallas_triton")
    random = np.random.default_rng(3)
    arrays = [jnp.asarray(random.normal(size=a.shape), a.dtype) for a in program.arguments]
    inputs = jax.jit(program.setup)(*arrays, arrays[0])
    first, second = (jax.jit(program.function)(*inputs) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, second)


X, VECTOR = jnp.ones((3, 4), jnp.float32), jnp.ones(4, jnp.float32)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"residual": X.astype(jnp.bfloat16)}, r"residual is bfloat16\(3, 4\); allowed: float32\(3, 4\), as x is"),
        ({"residual": X[:1]}, "residual is float32"),
        (
            {"epilogue": Pointwise(gated, (X,), (X,))},
            r"vectors\[0\] of a Pointwise has shape \(3, 4\); allowed: \(4,\)",
        ),
        ({"epilogue": Pointwise(gated, (VECTOR,), (VECTOR,))}, r"tensors\[0\] of a Pointwise has shape \(4,\)"),
    ],
)
def test_neighbours_that_do_not_fit_are_refused(keywords, message):
    with pytest.raises(UserError, match=message):
        layer_norm(X, VECTOR, VECTOR, **keywords)


@pytest.mark.parametrize("operator", OPERATORS)
def test_what_the_kernels_cannot_do_is_refused_with_the_reason(operator):
    variant = kernels.get(operator, "pallas_triton")
    problem = Problem(operator, (8192, 4096), "nc", "bfloat16")
    assert variant.supports(problem, "h200") is None
    assert "CPU" in variant.supports(problem, "cpu")
    assert "32-bit" in variant.supports(dataclasses.replace(problem, shape=(2**16, 2**16)), "h200")


@pytest.mark.parametrize("columns", [1, 7, 96, 129, 768, 4098, 5120, 11008, 12288, 16384, 65537])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_blocks_cover_the_rows_and_the_workspace_is_small(columns, dtype):
    for rows in (1, 33, 8192):
        forward = rows_config.forward_config(rows, columns, dtype)
        assert forward.programs * forward.block_rows >= rows
        assert not forward.resident or forward.chunks * forward.chunk < 1.5 * columns + 32
        backward = rows_config.backward_config(rows, columns, dtype, 2, True)
        if backward.resident:
            assert backward.programs * backward.steps * backward.step_rows >= rows
            item = 16 // rows_config.vector_elements(dtype)
            workspace = backward.programs * columns * 2 * max(item, 4)
            is_small = backward.programs == 1 or workspace <= WORKSPACE_SHARE * rows * columns * item
            few = rows < 8192 and backward.programs <= walking_programs(
                rows * columns * item, columns * 2 * max(item, 4)
            )
            assert is_small or few


@pytest.mark.parametrize(
    ("rows", "columns", "vectors", "blocks"), [(1576, 768, 1, 3), (788, 768, 1, 2), (2600, 1024, 2, 3)]
)
def test_as_many_blocks_are_in_flight_as_leave_few_rows_to_each_program(rows, columns, vectors, blocks):
    """Layer norm and RMS norm of few rows: two blocks, or three where the last step of two would be nearly empty."""
    config = rows_config.backward_config(rows, columns, "bfloat16", vectors, True)
    assert (config.unroll, config.steps) == (blocks, 1)


def test_three_chunks_are_one_where_a_program_has_a_multiprocessor_to_itself():
    assert rows_config.backward_config(1576, 768, "bfloat16", 2, True).chunk == 1024
    assert rows_config.backward_config(8192, 768, "bfloat16", 2, True).chunk == 256
    assert rows_config.backward_config(1576, 768, "float32", 2, True).chunk == 256


@pytest.mark.parametrize("columns", [1000, 4094, 8190])
def test_a_row_that_does_not_fill_its_chunk_goes_in_two_forward_and_in_two_bytes_alone(columns):
    whole = 1 << columns.bit_length()
    assert rows_config.forward_config(2048, columns, "bfloat16").chunk == whole // 2
    assert rows_config.forward_config(2048, whole, "bfloat16").chunk == whole
    assert rows_config.forward_config(2048, columns, "float32").chunk == whole
    assert rows_config.backward_config(2048, columns, "bfloat16", 2, True).chunk == whole
