"""The Pallas Triton kernels of training batch norm, interpreted, against the float64 reference."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from normbench import kernels
from normbench.kernels.batch_norm_training.pallas_triton import pallas_triton
from normbench.kernels.pallas.triton.channel_tiles import View
from normbench.kernels.pallas.triton.training_resident import THREAD_ELEMENTS, resident_config
from normbench.kernels.pallas.triton.training_shares import batch_config
from normbench.kernels.problem import Problem
from normbench.study.check.accuracy import compare
from tests.kernels.norm_cases import check

CASES = [
    ((127, 7), "nc", "float64", "cast", True),
    ((2, 6, 4, 4), "nchw", "float32", "silu", True),
    ((2, 3, 67, 67), "nchw", "bfloat16", "alone", False),
    ((2, 7, 5, 12), "nhwc", "float32", "relu", True),
    ((1, 47, 47, 11), "nhwc", "float16", "gelu", False),
    ((3, 300, 5, 5), "nchw", "bfloat16", "relu", True),
    ((16385, 1), "nc", "float32", "alone", False),
    ((2, 6, 4, 4), "nchw", "bfloat16", "residual", True),
    ((2000, 9), "nc", "float32", "residual", True),
    ((2, 3, 67, 67), "nchw", "float32", "residual", False),
    ((1, 47, 47, 11), "nhwc", "float16", "residual", False),
]
"""Channels held on the chip, one and several to a program, and channels read twice, in shares of the batch, the last of
them ragged; in both layouts."""


@pytest.fixture
def read_twice(monkeypatch):
    """Channels are taken for too large to be held on the chip."""
    module = importlib.import_module(
        "normbench.kernels.batch_norm_training.pallas_triton"
    )  # the package has the function
    monkeypatch.setattr(module, "resident_config", lambda *_: None)


@pytest.mark.parametrize(("shape", "layout", "dtype", "context", "held"), CASES)
def test_forward_and_gradients(shape, layout, dtype, context, held, request):
    if not held:
        request.getfixturevalue("read_twice")
    check(Problem("batch_norm_training", shape, layout, dtype, "float32", "forward_backward", context), "pallas_triton")


def test_parameters_in_another_dtype_and_the_backward_pass_alone():
    check(Problem("batch_norm_training", (2, 5, 6, 4), "nhwc", "float32", "bfloat16", "backward"), "pallas_triton")


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("held", [False, True])
def test_hard_data(last, held, request):
    """A mean of 1000 and a deviation of 0.01, held on the chip and in several shares."""
    terms = 8192 if held else 16384
    shape, view = (1, terms, 4) if last else (1, 4, terms), View(1, 4, terms, last)
    if held:
        assert resident_config(view, "float32", "float32", 1) is not None
    else:
        assert batch_config(view, "float32", "none").splits > 1
        request.getfixturevalue("read_twice")
    random = np.random.default_rng(0)
    x = jnp.asarray(1e3 + 1e-2 * random.normal(size=shape), jnp.float32)
    vector = jnp.ones(4, jnp.float32)
    arrays = (x, vector, 0 * vector, 0 * vector, vector)
    keywords = {"epsilon": 1e-9, "channel_axis": -1 if last else 1}
    exact = kernels.operator("batch_norm_training").reference(*map(np.asarray, arrays), **keywords)[0]
    errors = [
        compare(kernels.get("batch_norm_training", name)(*arrays, **keywords)[0], exact).max_abs
        for name in ("naive", "pallas_triton")
    ]
    assert errors[1] <= 4 * errors[0]


def test_an_empty_batch_and_running_statistics_without_gradient():
    check(Problem("batch_norm_training", (0, 4, 3, 3), pass_="forward_backward"), "pallas_triton")
    x, vector = jnp.arange(12.0).reshape(3, 4), jnp.ones(4)
    gradients = jax.grad(lambda m, v: jnp.sum(sum(map(jnp.sum, pallas_triton(x, vector, vector, m, v)))), (0, 1))
    for gradient in gradients(vector, vector):
        np.testing.assert_array_equal(gradient, 0)


def test_the_cuts_that_hold_a_channel():
    """No thread has more than it can hold, the tiles cover every term once, and the largest channels are refused."""
    for view in (View(8, 256, 3136, False), View(32, 2048, 49, False), View(1, 1024, 6272, True), View(1, 7, 3, True)):
        config = resident_config(view, "bfloat16", "float32", 1)
        assert config.blocks * config.width >= view.channels
        ends = [first + size for first, size in config.tiles]
        assert [0, *ends[:-1]] == [first for first, _ in config.tiles]
        assert ends[-1] >= config.terms > config.tiles[-1][0]
        assert config.elements <= THREAD_ELEMENTS[config.warps]
    assert resident_config(View(8, 256, 3136, False), "bfloat16", "float32", 2) is not None
    assert resident_config(View(8, 256, 3136, False), "float32", "float32", 2) is None
    assert resident_config(View(32, 64, 3136, False), "bfloat16", "float32", 1) is None
    assert resident_config(View(1, 1024, 6272, True), "bfloat16", "float64", 1) is None


def test_what_is_refused_has_a_reason():
    variant = kernels.get("batch_norm_training", "pallas_triton")
    assert "interpret" in variant.supports(Problem("batch_norm_training", (2, 8, 4, 4)), "cpu")
    assert variant.supports(Problem("batch_norm_training", (2, 8, 4, 4)), "h200") is None
    assert "32-bit" in variant.supports(Problem("batch_norm_training", (2**16, 32, 64, 64)), "h200")
