"""Layer norm and RMS norm in Mosaic GPU: interpreted, with races looked for, and compiled for absent GPUs."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from normbench import explain, kernels
from normbench.errors import UserError
from normbench.kernels import Problem
from normbench.kernels.layer_norm.pallas_mosaic import pallas_mosaic
from normbench.kernels.pallas.mosaic import row_norm, rows_given, sums
from normbench.kernels.pallas.mosaic import rows as schedule
from normbench.kernels.pallas.mosaic.plan import Plan
from normbench.kernels.pallas.mosaic.row_norm import backward_rows, forward_rows
from normbench.kernels.pallas.mosaic.windows import Runs, _Around
from tests.kernels.norm_cases import check

READS_PROGRAMS = True

ROWS = (3, 256)
PLAN = Plan("rms_norm", 1e-5, "none", "bfloat16")


def interpreted(
    operator, dtype="float32", context="alone", shape=ROWS, pass_="forward_backward", param_dtype="float32"
):
    check(Problem(operator, shape, "nc", dtype, param_dtype, pass_, context), "pallas_mosaic")


@pytest.mark.parametrize("context", ["alone", "silu", "gelu", "residual", "cast"])
def test_layer_norm_is_right_in_every_context(context):
    interpreted("layer_norm", context=context)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rms_norm_is_right_in_half_precision(dtype):
    interpreted("rms_norm", dtype, "relu")


def test_a_row_of_several_chunks_and_parameters_of_half_precision():
    interpreted("layer_norm", "bfloat16", shape=(2, 5 * 1024), param_dtype="bfloat16")


def test_more_rows_than_programs_with_one_row_in_shared_memory(monkeypatch):
    columns = 384
    monkeypatch.setattr(schedule, "SHARED_BYTES", schedule.RESERVED_BYTES + columns * (3 * 8 + 7))
    assert (
        backward_rows((5, columns), "float32", ("float32",) * 2, replace(PLAN, output_dtype="float32"), False).slots
        == 1
    )
    interpreted("layer_norm", shape=(5, columns))


def a_program_for_all(monkeypatch, **fields):
    monkeypatch.setattr(schedule, "MULTIPROCESSORS", 1)
    for name in ("FORWARD", "BACKWARD"):
        monkeypatch.setattr(row_norm, name, replace(getattr(row_norm, name), resident=1, **fields))


@pytest.mark.parametrize("context", ["residual", "cast"])
def test_rows_go_round_the_ring_of_a_program_that_stays(context, monkeypatch):
    """Seven rows in three places: what is brought waits until what was there has been taken away."""
    a_program_for_all(monkeypatch)
    rows = forward_rows((7, 128), "bfloat16", ("float32",), PLAN, residual=context == "residual")
    assert (rows.programs, rows.slots, rows.in_registers) == (1, 3, True)
    interpreted("rms_norm", "bfloat16", context, (7, 128), "forward")


@pytest.mark.parametrize("context", ["alone", "residual"])
def test_blocks_of_several_rows_go_round_the_ring(context, monkeypatch):
    """Eight rows of 531 elements are whole bulk copies; the next block is asked for once, not with each of its rows."""
    a_program_for_all(monkeypatch)
    rows = forward_rows((40, 531), "bfloat16", ("float32",), PLAN, residual=context == "residual")
    assert (rows.runs.count, rows.blocks, rows.programs, rows.slots) == (8, 5, 1, 3)
    interpreted("rms_norm", "bfloat16", context, (40, 531), "forward")


@pytest.mark.parametrize(
    ("columns", "context", "per_thread"),
    [(256, "residual", 0), (200, "residual", 160), (256, "gelu", 160), (200, "gelu", 0)],
)
def test_sums_grow_while_blocks_go_round_the_ring(columns, context, per_thread, monkeypatch):
    """Of fifteen rows three are a block: in registers, and where these have no room in shared memory. Each row has its
    own statistics, which are on their way while the one before is computed."""
    a_program_for_all(monkeypatch, blocks=5)
    monkeypatch.setattr(sums, "SUMS_PER_THREAD", per_thread)
    rows = backward_rows((15, columns), "float32", ("float32",) * 2, PLAN, residual=context == "residual")
    assert (rows.runs.count, rows.blocks, rows.programs, rows.slots) == (3, 5, 1, 3)
    interpreted("layer_norm", "float32", context, (15, columns))


@pytest.mark.parametrize(
    ("operator", "context", "columns", "programs"),
    [
        ("layer_norm", "residual", 128, 1),
        ("layer_norm", "cast", 200, 2),
        ("rms_norm", "silu", 131, 1),
        ("batch_norm", "relu", 136, 2),
    ],
)
def test_the_last_block_ends_with_the_rows(operator, context, columns, programs, monkeypatch):
    """Blocks of three: of eleven rows the last one begins with the last row of the one before, which is left alone."""
    a_program_for_all(monkeypatch, blocks=3)
    monkeypatch.setattr(schedule, "MULTIPROCESSORS", programs)
    for name, of_two in (("BLOCK", rows_given.BLOCK), ("BLOCKS", (3, 3))):
        monkeypatch.setattr(rows_given, name, of_two)
    rows = backward_rows((11, columns), "float32", ("float32",) * 2, PLAN, residual=context == "residual")
    assert (rows.runs.count, rows.blocks, rows.programs) == (3, 4, programs)
    interpreted(operator, "float32", context, (11, columns))


@pytest.mark.parametrize("context", ["residual", "cast", "silu"])
@pytest.mark.parametrize("shape", [(5, 131), (3, 1025), (3, 9)])
def test_rows_of_any_length_arrive_in_bulk_with_what_is_around_them(context, shape, monkeypatch):
    """A program has one row after the other; the last ends where no whole 16 bytes do."""
    a_program_for_all(monkeypatch)
    rows = forward_rows(shape, "bfloat16", ("float32",) * 2, PLAN, residual=context == "residual")
    assert rows.runs.staged
    assert (rows.programs, rows.runs.count) == (1, 1)
    interpreted("layer_norm", "bfloat16", context, shape)


def test_what_is_around_lies_in_the_array_and_has_all_but_what_ends_it():
    for length in (*range(17, 150, 13), 4096, 4097):
        for wanted in (1, 7, 8, 9, length // 2, length):
            for first in {0, 1, 3, 8, length - wanted} & set(range(length - wanted + 1)):
                around = _Around(length, first, wanted)
                start, whole = int(around.start), length // 8 * 8
                assert start % 8 == around.size % 8 == 0
                assert 0 <= start <= first
                assert start + around.size <= length
                assert start + around.size >= min(first + wanted, whole)
                room = Runs(1, wanted, True, wanted, 128, 1, staged=True)
                assert first - start + max(wanted, 128) <= room.room - room.size


def test_a_block_has_as_many_rows_as_are_whole_bulk_copies():
    def count(shape, dtype="bfloat16"):
        return forward_rows(shape, dtype, ("float32",), PLAN, residual=False).runs.count

    assert [count(shape) for shape in ((2168, 4100), (2048, 3002), (2048, 1001), (2167, 4100))] == [2, 4, 8, 1]
    assert [count((rows, 96)) for rows in (1024, 8192, 65536)] == [1, 8, 32]  # of few rows, more blocks
    assert [count((2048, columns)) for columns in (4094, 16382)] == [1, 1]  # four would be, and leave no room for more


def test_programs_that_stay_fill_the_multiprocessors():
    for shape, slots, programs in (
        ((8192, 4096), 3, 5 * 132),
        ((8192, 16384), 3, 132),
        ((65536, 256), 3, 7 * 132),
        ((8192, 128), 1, 1024),
    ):
        rows = forward_rows(shape, "bfloat16", ("float32",), PLAN, residual=False)
        assert (rows.slots, rows.programs) == (slots, programs)
    few = forward_rows((32, 4096), "bfloat16", ("float32",), PLAN, residual=False)
    assert few.slots == 1  # of one row each: nothing to bring ahead


def test_an_offset_does_not_cancel():
    x = 1e3 + 1e-2 * jax.random.normal(jax.random.key(0), ROWS, jnp.float32)
    y = pallas_mosaic(x, jnp.ones(ROWS[1], jnp.float32), jnp.zeros(ROWS[1], jnp.float32), 0.0)
    assert abs(float(jnp.std(y)) - 1) < 1e-3


def test_what_it_does_not_take_is_refused_with_a_reason():
    variant = kernels.get("layer_norm", "pallas_mosaic")
    assert "float64" in variant.supports(Problem("layer_norm", (4, 128), "nc", "float64", "float32"), "h200")
    with jax.enable_x64(True), pytest.raises(UserError, match="float64"):
        pallas_mosaic(jnp.ones((4, 128), "float64"), *[jnp.ones(128, jnp.float32)] * 2)
    long = Problem("layer_norm", (4, 128 * 1024), "nc", "bfloat16", "float32")
    assert "131072 elements" in variant.supports(long, "h200")  # taken, piece by piece, and left to XLA


def test_it_is_for_hopper_and_newer():
    variant = kernels.get("rms_norm", "pallas_mosaic")
    problem = Problem("rms_norm", (8192, 4096), "nc", "bfloat16")
    assert "Hopper" in variant.supports(problem, "a100")
    assert variant.supports(problem, "h200") is None


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("shape", [(8192, 4096), (3152, 384)])
def test_it_moves_the_streaming_minimum_for_the_h200(shape, dtype):
    """Forward in one launch; backward in two, with x, dy and dx and partial sums of at most 11 % of x."""
    pytest.importorskip("jax_cuda13_plugin")
    x = jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))
    p = jax.ShapeDtypeStruct(shape[1:], jnp.float32)
    forward = explain(pallas_mosaic, x, p, p, target="h200")
    assert len(forward.launches) == 1
    size_bytes = math.prod(shape) * x.dtype.itemsize
    assert forward.declared_bytes == 2 * size_bytes + 2 * p.size * 4  # statistics are for the backward pass alone

    def backward(x, gamma, beta, dy):
        y, pull = jax.vjp(pallas_mosaic, x, gamma, beta)
        return y, pull(dy)

    both = explain(backward, x, p, p, x, target="h200")
    assert len(both.launches) == 3
    assert both.bytes <= 1.05 * 5 * size_bytes
