"""Batch norm in training in Mosaic GPU: interpreted, with races looked for, and compiled for absent GPUs."""

import math
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import pytest

from normbench import explain, kernels
from normbench.errors import UserError
from normbench.kernels import Problem
from normbench.kernels.batch_norm_training.pallas_mosaic import idle, pallas_mosaic
from tests.kernels.norm_cases import check

READS_PROGRAMS = True


@pytest.mark.parametrize(
    ("dtype", "param_dtype", "context", "shape", "layout"),
    [
        ("float32", "float32", "cast", (4, 1, 16, 12), "nchw"),
        ("bfloat16", "bfloat16", "silu", (8, 2, 28, 8), "nchw"),
        ("float32", "bfloat16", "cast", (2, 8, 16, 16), "nhwc"),
    ],
)
def test_batch_norm_is_right(dtype, param_dtype, context, shape, layout):
    problem = Problem("batch_norm_training", shape, layout, dtype, param_dtype, "forward_backward", context)
    check(problem, "pallas_mosaic")


def test_an_offset_does_not_cancel():
    x = 1e3 + 1e-2 * jax.random.normal(jax.random.key(0), (2, 1, 256), jnp.float32)
    ones, zeros = jnp.ones(1, jnp.float32), jnp.zeros(1, jnp.float32)
    y, _, variance = pallas_mosaic(x, ones, zeros, zeros, ones, 0.0, momentum=1.0)
    assert abs(float(jnp.std(y)) - 1) < 1e-3
    assert abs(float(variance[0]) / 1e-4 - 1) < 0.2


@pytest.mark.parametrize(
    ("shape", "layout", "dtype", "word"),
    [
        ((8, 64, 20, 20), "nchw", "float64", "float64"),
        ((60000, 64, 7, 1), "nchw", "bfloat16", "do not fit"),
        ((800, 63), "nc", "bfloat16", "63 channels"),
    ],
)
def test_what_it_does_not_take_is_refused_with_a_reason(shape, layout, dtype, word):
    problem = Problem("batch_norm_training", shape, layout, dtype, "float32")
    assert word in kernels.get("batch_norm_training", "pallas_mosaic").supports(problem, "h200")
    function = partial(pallas_mosaic, channel_axis=1 if layout == "nchw" else -1)
    vectors = [jax.ShapeDtypeStruct((problem.channels,), jnp.float32)] * 4
    with jax.enable_x64(True), pytest.raises(UserError, match=word):
        jax.eval_shape(function, jax.ShapeDtypeStruct(shape, dtype), *vectors)


@pytest.mark.parametrize(
    ("shape", "layout", "word"),
    [
        ((8, 64, 160, 160), "nchw", "64 programs"),
        ((32, 56, 56, 64), "nhwc", "2 programs"),
        ((60, 192, 56, 56), "nchw", "pieces of 1664 elements"),
        ((8, 64, 7, 7), "nchw", "392 elements"),
        ((0, 64, 7, 7), "nchw", "0 elements"),
    ],
)
def test_what_leaves_most_of_the_device_idle_is_left_to_xla(shape, layout, word):
    problem = Problem("batch_norm_training", shape, layout, "bfloat16", "float32")
    assert word in kernels.get("batch_norm_training", "pallas_mosaic").supports(problem, "h200")


def test_half_a_device_without_programs_is_left_to_xla_where_nobody_predicted_it():
    variant = kernels.get("batch_norm_training", "pallas_mosaic")
    problem = Problem("batch_norm_training", (5, 48, 128, 128), "nchw", "bfloat16")
    for target in ("h200", "b200"):
        assert variant.supports(problem, target).startswith("48 programs for 132 multiprocessors; allowed")
    assert "; use " in variant.supports(problem, "h200")
    assert variant.supports(problem, "gpu") is None
    assert idle(replace(problem, shape=(5, 66, 128, 128))) is None
    predicted = Problem("batch_norm_training", (41, 32, 40, 40), "nchw", "bfloat16", context="gelu")
    assert idle(predicted).startswith("32 programs")
    assert variant.supports(predicted, "h200") is None  # within the model's error


def test_it_is_for_hopper_and_newer_and_what_xla_does_better_is_refused():
    variant = kernels.get("batch_norm_training", "pallas_mosaic")
    problem = Problem("batch_norm_training", (8, 256, 56, 56), "nchw", "bfloat16")
    assert "Hopper" in variant.supports(problem, "a100")
    assert variant.supports(problem, "h200") is None


@pytest.mark.parametrize(
    ("shape", "axis", "dtype"),
    [
        ((32, 512, 28, 28), 1, "float32"),
        ((8, 64, 28, 28), 1, "bfloat16"),
        ((8, 20, 20, 256), -1, "bfloat16"),
    ],
)
def test_it_moves_the_minimum_for_the_h200(shape, axis, dtype):
    """One launch each, forward and backward, with parameters in half precision, too."""
    pytest.importorskip("jax_cuda13_plugin")
    x, p = jax.ShapeDtypeStruct(shape, jnp.dtype(dtype)), jax.ShapeDtypeStruct((shape[axis],), jnp.bfloat16)
    size_bytes = math.prod(shape) * x.dtype.itemsize
    normalized = partial(pallas_mosaic, channel_axis=axis, activation="silu")
    forward = explain(normalized, x, p, p, p, p, target="h200")
    assert len(forward.launches) == 1
    assert forward.declared_bytes <= 1.05 * 2 * size_bytes

    def both(dy, running, *arrays):
        (y, *_), pull = jax.vjp(lambda *a: normalized(*a, *running), *arrays)
        return y, pull((dy, *running))

    found = explain(both, x, (p, p), x, p, p, target="h200")
    assert len(found.launches) == 2
    assert found.bytes <= 1.05 * 5 * size_bytes
