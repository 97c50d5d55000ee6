"""Batch norm, its functional twins, its statistics and its backward against PyTorch."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from normbench.kernels import aten
from tests.kernels.aten.agreement import Question, Scale, assert_agrees, without_gradient
from tests.kernels.aten.drawn import EPSILONS, SEEDS, Data, channel_shapes, dtypes, few, largest, masks, wide
from tests.kernels.aten.torch_judge import ATEN, TORCH

MOMENTA = st.sampled_from((0.1, 0.0, 1.0, 0.37))


class BatchNormCase:
    """Drawn arguments of a batch norm, and how large its rounding errors may be."""

    def __init__(self, draw, training: bool, statistics: bool):
        self.dtypes, self.eps, self.momentum = draw(dtypes()), draw(EPSILONS), draw(MOMENTA)
        self.shape, data = draw(channel_shapes()), Data(draw(SEEDS))
        channels = self.shape[1]
        self.x = data.normal(self.shape, self.dtypes.x, spread=1.5, offset=0.7)
        self.weight = data.normal(channels, self.dtypes.parameters) if draw(st.booleans()) else None
        self.bias = data.normal(channels, self.dtypes.parameters) if draw(st.booleans()) else None
        self.running_mean = data.normal(channels, self.dtypes.statistics) if statistics else None
        self.running_var = data.positive(channels, self.dtypes.statistics) if statistics else None
        self.dy = data.normal(self.shape, self.dtypes.x)
        self.channels_last = draw(st.booleans())
        self.length = self.x.size // channels
        axes = (0, *range(2, len(self.shape)))
        variance = np.var(wide(self.x), axes) if training else wide(self.running_var)
        self.invstd = float(np.max(1 / np.sqrt(variance + self.eps)))
        self.condition = 1 + 2 * (largest(self.x) + (0 if training else largest(self.running_mean))) * self.invstd

    @property
    def vectors(self):
        return self.weight, self.bias, self.running_mean, self.running_var

    @property
    def saved(self) -> str:
        present = [str(v.dtype) for v in self.vectors if v is not None]
        return present[0] if present else self.dtypes.x

    def scale(self, value: float) -> Scale:
        return Scale(value, self.condition, self.length)

    @property
    def output_scales(self):
        """y, save_mean, save_invstd."""
        y = largest(self.weight) + (0 if self.bias is None else largest(self.bias))
        return self.scale(y), self.scale(largest(self.x)), self.scale(self.invstd)

    @property
    def running_scales(self):
        mean = largest(self.x) + (0 if self.running_mean is None else largest(self.running_mean))
        return self.scale(mean), self.scale(2 * mean**2 + 2)

    @property
    def gradient_scales(self):
        """dx, dweight, dbias."""
        dy = largest(self.dy)
        dx = dy * largest(self.weight) * self.invstd
        return self.scale(dx), self.scale(self.length * dy), self.scale(self.length * dy)

    def question(self, torch, ours, arguments, scales, **keywords) -> Question:
        present = (True, self.weight is not None, self.bias is not None)
        gradients = tuple(s for s, p in zip(self.gradient_scales, present, strict=True) if p)
        return Question(
            torch,
            ours,
            arguments,
            scales,
            self.saved,
            cotangent=self.dy,
            differentiated=(0, 1, 2),
            gradient_scales=gradients,
            channels_last=self.channels_last,
            **keywords,
        )


@few
@given(st.data())
def test_batch_norm(judge, data):
    training = data.draw(st.booleans())
    case = BatchNormCase(data.draw, training, statistics=not training or data.draw(st.booleans()))
    arguments = (case.x, *case.vectors, training, case.momentum, case.eps, False)
    assert_agrees(judge, case.question(f"{TORCH}:batch_norm", aten.batch_norm, arguments, case.output_scales))


@few
@given(st.data())
def test_native_batch_norm(judge, data):
    training = data.draw(st.booleans())
    case = BatchNormCase(data.draw, training, statistics=not training or data.draw(st.booleans()))
    arguments = (case.x, *case.vectors, training, case.momentum, case.eps)
    question = case.question(f"{ATEN}.native_batch_norm", aten.native_batch_norm, arguments, case.output_scales)
    assert_agrees(judge, question)


@few
@given(st.data())
def test_functional_twins_return_what_pytorch_updates_in_place(judge, data):
    training = data.draw(st.booleans())
    case = BatchNormCase(data.draw, training, statistics=True)
    arguments = (case.x, *case.vectors, training, case.momentum, case.eps)
    scales = (*case.output_scales, *case.running_scales)
    kind = data.draw(st.sampled_from(("batch_norm", "native_batch_norm", "_native_batch_norm_legit_functional")))
    if kind == "batch_norm":
        arguments, scales = (*arguments, False), (scales[0], *case.running_scales)
        question = case.question(f"{TORCH}:{kind}", aten.batch_norm_functional, arguments, scales, mutated=(3, 4))
    elif kind == "native_batch_norm":
        twin = aten.native_batch_norm_functional
        question = case.question(f"{ATEN}.{kind}", twin, arguments, scales, mutated=(3, 4))
    else:
        question = case.question(f"{ATEN}.{kind}", getattr(aten, kind), arguments, scales)
    assert_agrees(judge, without_gradient(question) if question.mutated else question)


@few
@given(st.data())
def test_operators_with_training_in_their_name(judge, data):
    kind = data.draw(st.sampled_from(("no_stats", "no_training", "with_update", "update_functional", "no_update")))
    training = kind in ("no_stats", "with_update", "update_functional")
    case = BatchNormCase(data.draw, training, statistics=kind != "no_stats")
    last = (case.momentum, case.eps)
    reserve = (Scale(0, 0, 0),)
    rows = {
        "no_stats": ("_native_batch_norm_legit.no_stats", "_native_batch_norm_legit_no_stats", (True, *last), ()),
        "no_training": ("_native_batch_norm_legit_no_training", None, last, ()),
        "with_update": ("_batch_norm_with_update", None, last, reserve),
        "update_functional": ("_batch_norm_with_update_functional", None, last, (*reserve, *case.running_scales)),
        "no_update": ("_batch_norm_no_update", None, last, reserve),
    }
    torch, ours, rest, extra = rows[kind]
    vectors = case.vectors[:2] if kind == "no_stats" else case.vectors
    arguments, scales = (case.x, *vectors, *rest), (*case.output_scales, *extra)
    question = case.question(f"{ATEN}.{torch}", getattr(aten, ours or torch), arguments, scales)
    assert_agrees(judge, question)


@few
@given(st.data())
def test_batch_norm_update_stats(judge, data):
    case = BatchNormCase(data.draw, training=True, statistics=data.draw(st.booleans()))
    arguments = (case.x, case.running_mean, case.running_var, case.momentum)
    scales = (case.running_scales[0], case.running_scales[1])
    dtype = case.dtypes.x if case.running_mean is None else case.dtypes.statistics
    question = Question(f"{ATEN}.batch_norm_update_stats", aten.batch_norm_update_stats, arguments, scales, dtype)
    assert_agrees(judge, question)
    if case.running_mean is not None:
        twin = aten.batch_norm_update_stats_functional
        torch = f"{ATEN}.batch_norm_update_stats"
        assert_agrees(judge, Question(torch, twin, arguments, (*scales, *scales), dtype, mutated=(1, 2)))


def test_batch_norm_update_stats_takes_one_running_statistic_alone(judge):
    x, old, scale = Data(0).normal((4, 3, 5), "float32"), np.ones(3, np.float32), Scale(4, 8, 20)
    torch, ours = f"{ATEN}.batch_norm_update_stats", aten.batch_norm_update_stats
    assert_agrees(judge, Question(torch, ours, (x, old, None, 0.1), (scale, scale), "float32"))
    assert_agrees(judge, Question(torch, ours, (x, None, old, 0.1), (scale, scale), "float32"))


@few
@given(st.data())
def test_native_batch_norm_backward(judge, data):
    training = data.draw(st.booleans())
    case = BatchNormCase(data.draw, training, statistics=not training or data.draw(st.booleans()))
    mask = data.draw(masks(3))
    axes = (0, *range(2, len(case.shape)))
    mean, variance = np.mean(wide(case.x), axes), np.var(wide(case.x), axes)
    kind = case.running_mean.dtype if case.running_mean is not None else case.dtypes.parameters
    saved = (mean.astype(kind), (1 / np.sqrt(variance + case.eps)).astype(kind)) if training else (None, None)
    arguments = (case.dy, case.x, case.weight, case.running_mean, case.running_var, *saved, training, case.eps, mask)
    question = Question(
        f"{ATEN}.native_batch_norm_backward",
        aten.native_batch_norm_backward,
        arguments,
        case.gradient_scales,
        case.dtypes.x,
        channels_last=case.channels_last,
    )
    assert_agrees(judge, question)


@pytest.mark.parametrize("training", [True, False])
def test_empty_input(judge, training):
    vectors = [np.full(3, v, np.float32) for v in (0.5, -1.0, 0.25, 2.0)]
    x = np.zeros((0, 3, 4), np.float32)
    none = Scale(0, 0, 0)
    whole = Question(
        f"{TORCH}:batch_norm",
        aten.batch_norm_functional,
        (x, *vectors, training, 0.1, 1e-5, False),
        (none,) * 3,
        "float32",
        mutated=(3, 4),
    )
    assert_agrees(judge, whole)
    native = Question(
        f"{ATEN}.native_batch_norm", aten.native_batch_norm, (x, *vectors, training, 0.1, 1e-5), (none,) * 3, "float32"
    )
    assert_agrees(judge, native)


def test_one_element_for_each_channel_makes_the_running_variance_nan(judge):
    x = np.array([[1.0, 2.0, 3.0]], np.float32)
    running = [np.zeros(3, np.float32), np.ones(3, np.float32)]
    scale = Scale(value=1000, condition=4, length=1)  # x / sqrt(eps)
    question = Question(
        f"{ATEN}.native_batch_norm",
        aten.native_batch_norm_functional,
        (x, None, None, *running, True, 0.1, 1e-5),
        (scale,) * 5,
        "float32",
        mutated=(3, 4),
    )
    assert_agrees(judge, question)


@pytest.mark.parametrize("operator", ["batch_norm", "instance_norm"])
def test_a_constant_channel_without_epsilon_is_the_bias(judge, operator):
    x = Data(5).normal((2, 3, 8), "float32")
    x[:, 1] = 1.5
    weight, bias, old = (np.full(3, v, np.float32) for v in (0.5, -1.0, 0.25))
    scale, sums = Scale(value=4, condition=8, length=16), Scale(value=40, condition=8, length=16)
    question = Question(
        f"{TORCH}:{operator}",
        getattr(aten, f"{operator}_functional"),
        (x, weight, bias, old, old, True, 0.1, 0.0, False),
        (scale,) * 3,
        "float32",
        cotangent=Data(6).normal(x.shape, "float32"),
        differentiated=(0, 1, 2),
        gradient_scales=(scale, sums, sums),
        mutated=(3, 4),
    )
    assert_agrees(judge, question)
