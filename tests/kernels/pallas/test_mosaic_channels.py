"""Inference batch norm in Mosaic GPU: interpreted, with races looked for, and compiled for absent GPUs."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from normbench import explain, kernels
from normbench.errors import UserError
from normbench.kernels import Problem
from normbench.kernels.batch_norm.pallas_mosaic import pallas_mosaic
from normbench.kernels.pallas.mosaic import rows, rows_given, slabs
from normbench.kernels.pallas.mosaic.plan import Plan
from tests.kernels.norm_cases import check

READS_PROGRAMS = True

SHAPE = (2, 2, 4, 64)


def interpreted(dtype="float32", context="alone", shape=SHAPE, layout="nhwc", param_dtype="float32"):
    check(Problem("batch_norm", shape, layout, dtype, param_dtype, "forward_backward", context), "pallas_mosaic")


@pytest.mark.parametrize("context", ["alone", "silu", "gelu", "cast"])
def test_batch_norm_is_right_in_every_context(context):
    interpreted(context=context)


@pytest.mark.parametrize("context", ["alone", "gelu", "cast"])
def test_channels_that_come_first(context, monkeypatch):
    monkeypatch.setattr(slabs, "TILE", 512)
    interpreted("bfloat16", context, (2, 3, 4, 256), "nchw", param_dtype="float16")


def test_slabs_share_a_program_where_there_are_enough_programs():
    """Of few positions each: one slab waits for its scalars after the other."""
    shapes = ((1, 200, 196), (8, 480, 196), (128, 512, 196), (8, 256, 1024))
    found = [slabs.given_slabs_of(shape, 2) for shape in shapes]
    assert [one.each for one in found] == [1, 2, 16, 1]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_batch_norm_is_right_in_half_precision(dtype):
    interpreted(dtype, "relu", param_dtype=dtype)


def test_programs_that_walk_over_several_tiles(monkeypatch):
    monkeypatch.setattr(rows_given, "BLOCK", 256)
    monkeypatch.setattr(rows, "MULTIPROCESSORS", 1)
    monkeypatch.setattr(rows_given, "RESIDENT", 2)
    plan = Plan("batch_norm", 1e-5, "silu", "bfloat16", given=True)
    assert rows_given.given_rows((10, 256), ("bfloat16", *("float32",) * 4), plan, backward=False).programs == 2
    interpreted("bfloat16", "silu", shape=(10, 256), layout="nc")


@pytest.mark.parametrize(("shape", "columns"), [((16, 32), 16 * 32), ((16, 2400), 2400), ((15, 32), 32)])
def test_a_row_of_the_kernel_is_several_positions_where_these_are_whole_warpgroups_and_fit(shape, columns):
    plan = Plan("batch_norm", 1e-5, "none", "bfloat16", given=True)
    found = rows_given.given_rows(shape, ("bfloat16", *("float32",) * 4), plan, backward=True)
    assert (found.columns, found.runs.resident) == (columns, True)


def test_a_position_of_several_chunks():
    interpreted("bfloat16", shape=(1, 5 * 512), layout="nc")


def test_what_it_does_not_take_is_refused_with_a_reason():
    variant = kernels.get("batch_norm", "pallas_mosaic")
    assert "float64" in variant.supports(Problem("batch_norm", (4, 128), "nc", "float64", "float32"), "h200")
    with jax.enable_x64(True), pytest.raises(UserError, match="float64"):
        pallas_mosaic(jnp.ones((4, 128), "float64"), *[jnp.ones(128, jnp.float32)] * 4)


def test_it_is_for_hopper_and_newer_and_enough_positions():
    variant = kernels.get("batch_norm", "pallas_mosaic")
    last = Problem("batch_norm", (8, 56, 56, 64), "nhwc", "bfloat16")
    assert "Hopper" in variant.supports(last, "a100")
    assert variant.supports(last, "gpu") is None
    odd = Problem("batch_norm", (8, 14, 14, 480), "nhwc", "bfloat16")
    assert variant.supports(replace(odd, pass_="backward"), "gpu") is None
    assert variant.supports(Problem("batch_norm", (8, 64, 80, 80), "nchw", "bfloat16"), "gpu") is None
    small = Problem("batch_norm", (8, 64, 20, 20), "nchw", "bfloat16")
    assert variant.supports(small, "gpu") is None
    assert "400 positions" in variant.supports(replace(small, pass_="backward"), "h200")  # of their sums


@pytest.mark.parametrize(
    ("shape", "axis", "dtype"),
    [
        ((64, 56, 56, 64), -1, "bfloat16"),
        ((8192, 1024), -1, "float32"),
        ((32, 64, 80, 80), 1, "bfloat16"),
        ((32, 14, 14, 480), -1, "bfloat16"),  # chunks of an odd number of warpgroups
    ],
)
def test_it_moves_the_minimum_for_the_h200(shape, axis, dtype):
    """Forward in one launch; backward in two, with x, dy and dx and partial sums of at most 11 % of x."""
    pytest.importorskip("jax_cuda13_plugin")
    x = jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))
    vectors = [jax.ShapeDtypeStruct((shape[axis],), jnp.float32)] * 4
    size_bytes = math.prod(shape) * x.dtype.itemsize

    def normalized(*arrays):
        return pallas_mosaic(*arrays, channel_axis=axis, activation="silu")

    def pulled(dy, *arrays):
        return jax.vjp(normalized, *arrays)[1](dy)

    forward = explain(normalized, x, *vectors, target="h200")
    assert len(forward.launches) == 1
    assert forward.declared_bytes <= 1.05 * 2 * size_bytes
    backward = explain(pulled, x, x, *vectors, target="h200")
    assert len(backward.launches) == 2
    assert backward.bytes <= 1.08 * 3 * size_bytes
