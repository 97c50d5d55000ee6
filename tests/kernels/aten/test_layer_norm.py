"""Layer norm and RMS norm, forward and backward, against PyTorch."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from normbench.kernels import aten
from tests.kernels.aten.agreement import Question, Scale, assert_agrees, from_wire, to_wire, without_gradient
from tests.kernels.aten.drawn import Data, few, largest, masks
from tests.kernels.aten.rows import RowCase
from tests.kernels.aten.torch_judge import ATEN, DECOMPOSITIONS, TORCH, Request


@st.composite
def row_shapes(draw):
    """An input's shape and how many of its last axes are normalized; rows have at least 2 elements."""
    shape = tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=4)))
    shape = (*shape[:-1], shape[-1] + 1)
    return shape, draw(st.integers(1, len(shape)))


def row_case(draw, centred=True) -> RowCase:
    shape, last = draw(row_shapes())
    return RowCase(draw, shape, range(len(shape) - last, len(shape)), shape[-last:], centred)


@few
@given(st.data())
def test_layer_norm(judge, data):
    case = row_case(data.draw)
    normalized = case.shape[case.axes[0] :]
    arguments = (case.x, normalized, case.weight, case.bias, case.eps)
    if data.draw(st.booleans()):
        torch, ours, scales = f"{TORCH}:layer_norm", aten.layer_norm, case.output_scales[:1]
    else:
        torch, ours, scales = f"{ATEN}.native_layer_norm", aten.native_layer_norm, case.output_scales
    assert_agrees(judge, case.question(torch, ours, arguments, scales, (0, 2, 3)))


@few
@given(st.data())
def test_native_layer_norm_backward(judge, data):
    case = row_case(data.draw)
    # Here PyTorch refuses the float32 statistics that its own forward saved.
    assume(not (case.weight is None and case.bias is not None and case.saved != case.dtypes.x))
    saved = [v.astype(jnp.dtype(case.saved)) for v in (case.mean, case.rstd)]
    mask = data.draw(masks(3))
    arguments = (case.dy, case.x, case.shape[case.axes[0] :], *saved, case.weight, case.bias, mask)
    question = Question(
        f"{ATEN}.native_layer_norm_backward",
        aten.native_layer_norm_backward,
        arguments,
        case.gradient_scales,
        case.dtypes.x,
    )
    assert_agrees(judge, question)


@few
@given(st.data())
def test_rms_norm(judge, data):
    case = row_case(data.draw, centred=False)
    eps = data.draw(st.sampled_from((None, case.eps)))
    arguments = (case.x, case.shape[case.axes[0] :], case.weight, eps)
    y, _, rstd = case.output_scales
    if data.draw(st.booleans()):
        torch, ours, scales = f"{TORCH}:rms_norm", aten.rms_norm, (y,)
    else:
        torch, ours, scales = f"{ATEN}._fused_rms_norm", aten._fused_rms_norm, (y, rstd)
    assert_agrees(judge, case.question(torch, ours, arguments, scales, (0, 2)))


@few
@given(st.data())
def test_fused_rms_norm_backward(judge, data):
    """PyTorch has no CPU kernel of it; its decomposition is the judge."""
    case = row_case(data.draw, centred=False)
    rstd = case.rstd.astype(np.float64 if case.x.dtype == np.float64 else np.float32)
    mask = data.draw(masks(2))
    arguments = (case.dy, case.x, case.shape[case.axes[0] :], rstd, case.weight, mask)
    question = Question(
        f"{DECOMPOSITIONS}:_fused_rms_norm_backward",
        aten._fused_rms_norm_backward,
        arguments,
        case.gradient_scales[:2],
        case.dtypes.x,
    )
    assert_agrees(judge, question)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_rms_norm_without_eps_takes_the_one_of_the_computation(judge, dtype):
    """On rows as small as the epsilon: finfo(bfloat16).eps would be wrong by a factor of 100."""
    x = Data(3).normal((4, 8), dtype, spread=1e-4)
    scale = Scale(largest(x) * 1e4, 1, 8)
    assert_agrees(judge, Question(f"{TORCH}:rms_norm", aten.rms_norm, (x, (8,), None, None), (scale,), dtype))


@pytest.mark.parametrize("parameters", ["float32", "same"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_rms_norm_in_half_precision_rounds_once(judge, dtype, parameters):
    """Bit for bit, but for the order of a sum: rounding before the weight would change about a quarter of the bits."""
    data = Data(9)
    x, weight = data.normal((64, 48), dtype), data.normal(48, dtype if parameters == "same" else parameters)
    verdict = judge.ask(Request(f"{TORCH}:rms_norm", (to_wire(x), (48,), to_wire(weight), None)))
    ours = np.asarray(aten.rms_norm(x, (48,), weight))
    assert np.mean(ours == from_wire(verdict.outputs[0])) > 0.99


@pytest.mark.parametrize("shape", [(0, 4), (3, 0)])
def test_empty_rows_or_no_rows(judge, shape):
    x, none = np.zeros(shape, np.float32), Scale(0, 0, 0)
    weight = np.ones(shape[-1:], np.float32)
    for name in ("native_layer_norm", "_fused_rms_norm"):
        rest = (None, 1e-5) if name == "native_layer_norm" else (1e-5,)
        arguments = (x, shape[-1:], weight, *rest)
        assert_agrees(judge, Question(f"{ATEN}.{name}", getattr(aten, name), arguments, (none,) * 3, "float32"))
    rows = np.zeros((shape[0], 1), np.float32)
    arguments = (x, x, shape[-1:], rows, rows, weight, weight, [True] * 3)
    name = "native_layer_norm_backward"
    assert_agrees(judge, Question(f"{ATEN}.{name}", getattr(aten, name), arguments, (none,) * 3, "float32"))


def test_far_from_zero(judge):
    """Mean 1e3 and standard deviation 1e-2: two passes keep the digits that E[x^2] - m^2 loses."""
    x = Data(5).normal((3, 64), "float32", spread=1e-2, offset=1e3)
    y = np.asarray(aten.layer_norm(x, (64,), eps=0.0), np.float64)
    wide = x.astype(np.float64)
    expected = (wide - wide.mean(1, keepdims=True)) / wide.std(1, keepdims=True)
    rounding_of_the_mean = 1e3 * np.finfo(np.float32).eps / 1e-2
    assert np.abs(y - expected).max() < rounding_of_the_mean * math.sqrt(64)
    question = Question(f"{TORCH}:layer_norm", aten.layer_norm, (x, (64,)), (Scale(1, 1e5, 64),), "float32")
    assert_agrees(judge, without_gradient(question))
