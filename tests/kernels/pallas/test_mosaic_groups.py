"""Group and instance norm in Mosaic GPU: interpreted, with races looked for, and compiled for absent GPUs."""

import math
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import pytest

from normbench import explain, kernels
from normbench.kernels import Problem
from normbench.kernels.group_norm.pallas_mosaic import pallas_mosaic as group_norm
from normbench.kernels.instance_norm.pallas_mosaic import pallas_mosaic
from normbench.kernels.pallas.mosaic import columns, slabs, windows
from tests.kernels.norm_cases import check

READS_PROGRAMS = True


def test_instance_norm_is_right():
    problem = Problem("instance_norm", (2, 2, 16, 32), "nchw", "float16", "float32", "forward_backward", "cast")
    check(problem, "pallas_mosaic")


@pytest.mark.parametrize(("dtype", "context"), [("float32", "gelu"), ("bfloat16", "silu")])
def test_group_norm_is_right(dtype, context):
    problem = Problem("group_norm", (2, 6, 16, 24), "nchw", dtype, "bfloat16", "forward_backward", context)
    check(replace(problem, options=(("groups", 2),)), "pallas_mosaic")


@pytest.mark.parametrize("each", [1, 5, 7, 8])
def test_the_scalars_of_the_next_channels_are_on_their_way(each):
    """Channels of a group, of which four, five or one read gamma and beta at once: each has its own."""
    problem = Problem("group_norm", (1, 2 * each, 144), "ncl", "float32", "float32", "forward_backward", "silu")
    check(replace(problem, options=(("groups", 2),)), "pallas_mosaic")


@pytest.mark.parametrize(
    ("operator", "dtype", "context", "shape", "options"),
    [
        ("instance_norm", "float32", "gelu", (1, 16, 16, 8), ()),
        ("group_norm", "float32", "alone", (2, 16, 20, 8), (("groups", 2),)),
        ("group_norm", "bfloat16", "alone", (1, 13, 10, 24), (("groups", 1),)),
        ("group_norm", "float32", "relu", (1, 13, 10, 24), (("groups", 12),)),  # more than are summed one by one
    ],
)
def test_channels_that_come_last(operator, dtype, context, shape, options):
    problem = Problem(operator, shape, "nhwc", dtype, "float32", "forward_backward", context, options=options)
    check(problem, "pallas_mosaic")


@pytest.mark.parametrize(
    ("operator", "dtype", "context", "shape", "layout"),
    [
        ("group_norm", "bfloat16", "silu", (1, 4, 4104), "ncl"),
        ("batch_norm_training", "float32", "cast", (3, 2, 4104), "ncl"),
        ("group_norm", "bfloat16", "alone", (1, 1301, 16), "nlc"),
    ],
)
def test_the_next_piece_is_on_its_way_while_one_is_computed(operator, dtype, context, shape, layout, monkeypatch):
    """The last piece of an odd number begins before the one before ends; slabs follow each other in two places."""
    room = {"ncl": 16500, "nlc": 50000}[layout]
    monkeypatch.setattr(windows, "PIECE", 1024)
    for module in (slabs, columns):
        monkeypatch.setattr(module, "room_bytes", lambda arrays: room)
    if layout == "ncl":
        runs = slabs.slabs_of((1, 4, 4104), 2, 4).runs
        assert (runs.resident, runs.pieces, runs.places, runs.length % runs.piece) == (False, 5, 2, 8)
    else:
        config = columns.columns_of(1, 1301, 16, 8, ("bfloat16",) * 2)
        assert (config.resident, config.pieces, config.places) == (False, 5, 2)
    options = (("groups", 2),) if operator == "group_norm" else ()
    problem = Problem(operator, shape, layout, dtype, "float32", "forward_backward", context, options=options)
    check(problem, "pallas_mosaic")


@pytest.mark.parametrize(("shape", "axis"), [((1, 1, 512), 1), ((1, 256, 8), -1)])
def test_an_offset_does_not_cancel(shape, axis):
    x = 1e3 + 1e-2 * jax.random.normal(jax.random.key(0), shape, jnp.float32)
    ones = jnp.ones(shape[axis], jnp.float32)
    y = pallas_mosaic(x, ones, 0 * ones, 0.0, channel_axis=axis)
    assert abs(float(jnp.std(y)) - 1) < 1e-3


@pytest.mark.parametrize(
    ("shape", "layout", "target", "word"),
    [
        ((2, 8, 16, 8), "nchw", "h200", "128 positions"),
        ((2, 16, 8, 8), "nhwc", "h200", "128 positions"),
        ((0, 8, 4, 4), "nchw", "h200", "16 positions"),
        ((2, 64, 64, 10), "nhwc", "h200", "10 channels"),
        ((2, 128, 128, 8), "nhwc", "h200", "2 programs"),
        ((2, 8, 256, 256), "nchw", "h200", "16 programs"),
        ((2, 8, 64, 64), "nchw", "a100", "Hopper"),
    ],
)
@pytest.mark.parametrize("operator", ["instance_norm", "group_norm"])
def test_what_it_does_not_take_is_refused_with_a_reason(operator, shape, layout, target, word):
    options = (("groups", shape[layout == "nchw" or -1]),) if operator == "group_norm" else ()
    problem = Problem(operator, shape, layout, "float32", "float32", options=options)
    assert word in kernels.get(operator, "pallas_mosaic").supports(problem, target)


def test_groups_of_many_channels():
    variant = kernels.get("group_norm", "pallas_mosaic")
    problem = Problem("group_norm", (2, 640, 16, 16), "nchw", "bfloat16")
    for groups in (32, 2):  # one bulk copy for a group; one for each channel
        assert variant.supports(replace(problem, options=(("groups", groups),)), "gpu") is None
    large = Problem("group_norm", (2, 320, 64, 64), "nchw", "float32", context="silu")
    assert variant.supports(large, "gpu") is None
    assert "64 programs" in variant.supports(replace(large, pass_="backward"), "h200")  # x and dy do not fit


@pytest.mark.parametrize(
    ("shape", "axis", "groups"),
    [
        ((16, 64, 64, 64), 1, 8),
        ((16, 28, 28, 320), -1, 32),  # chunks of an odd number of warpgroups
    ],
)
def test_it_moves_the_minimum_for_the_h200(shape, axis, groups):
    """Forward in one launch, backward in two, with parameters in half precision, too."""
    pytest.importorskip("jax_cuda13_plugin")
    normalized = partial(group_norm, groups=groups, channel_axis=axis, activation="silu")
    x, p = jax.ShapeDtypeStruct(shape, jnp.bfloat16), jax.ShapeDtypeStruct((shape[axis],), jnp.bfloat16)
    size_bytes = 2 * math.prod(shape)
    forward = explain(normalized, x, p, p, target="h200")
    assert len(forward.launches) == 1
    assert forward.declared_bytes <= 1.05 * 2 * size_bytes

    def both(x, gamma, beta, dy):
        y, pull = jax.vjp(normalized, x, gamma, beta)
        return y, pull(dy)

    found = explain(both, x, p, p, x, target="h200")
    assert len(found.launches) == 3
    assert found.bytes <= 1.05 * 5 * size_bytes
