"""Group norm and instance norm against PyTorch."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from normbench.kernels import aten
from tests.kernels.aten.agreement import Question, Scale, assert_agrees, without_gradient
from tests.kernels.aten.drawn import Data, few, largest, masks
from tests.kernels.aten.rows import RowCase
from tests.kernels.aten.torch_judge import ATEN, TORCH


class GroupCase(RowCase):
    """x is drawn as (N, G, C / G, ...) and used as (N, C, ...)."""

    def __init__(self, draw):
        self.groups, width = draw(st.integers(1, 4)), draw(st.integers(1, 3))
        spatial = draw(st.lists(st.integers(1, 6), min_size=0 if width > 1 else 1, max_size=3))
        spatial = [spatial[0] + 1, *spatial[1:]] if spatial else []
        shape = (draw(st.integers(1, 3)), self.groups, width, *spatial)
        super().__init__(draw, shape, range(2, len(shape)), (self.groups * width,))
        self.shape = (shape[0], self.groups * width, *spatial)
        self.x, self.dy = self.x.reshape(self.shape), self.dy.reshape(self.shape)
        if self.channels_last:
            self.condition **= 2  # here PyTorch computes the variance as E[x^2] - m^2
        self.sizes = (shape[0], self.shape[1], int(np.prod(spatial, dtype=int)))


@few
@given(st.data())
def test_group_norm(judge, data):
    case = GroupCase(data.draw)
    arguments = (case.x, case.groups, case.weight, case.bias, case.eps)
    scales = case.output_scales[:1]
    assert_agrees(judge, case.question(f"{TORCH}:group_norm", aten.group_norm, arguments, scales, (0, 2, 3)))


@few
@given(st.data())
def test_native_group_norm(judge, data):
    case = GroupCase(data.draw)
    arguments = (case.x, case.weight, case.bias, *case.sizes, case.groups, case.eps)
    name = "native_group_norm"
    question = case.question(f"{ATEN}.{name}", getattr(aten, name), arguments, case.output_scales, (0, 1, 2))
    assert_agrees(judge, question)


@few
@given(st.data())
def test_native_group_norm_backward(judge, data):
    case = GroupCase(data.draw)
    kind = str(case.weight.dtype) if case.weight is not None else case.dtypes.parameters
    saved = [v.reshape(case.shape[0], case.groups).astype(jnp.dtype(kind)) for v in (case.mean, case.rstd)]
    mask = data.draw(masks(3))
    arguments = (case.dy, case.x, *saved, case.weight, *case.sizes, case.groups, mask)
    name = "native_group_norm_backward"
    scales = case.gradient_scales
    assert_agrees(judge, Question(f"{ATEN}.{name}", getattr(aten, name), arguments, scales, case.dtypes.x))


@pytest.mark.parametrize("shape", [(0, 6, 3), (2, 6, 0)])
def test_empty_groups(judge, shape):
    x, none = np.zeros(shape, np.float32), Scale(0, 0, 0)
    arguments = (x, None, None, *shape, 3, 1e-5)
    question = Question(f"{ATEN}.native_group_norm", aten.native_group_norm, arguments, (none,) * 3, "float32")
    assert_agrees(judge, question)


@pytest.mark.parametrize("sizes", [(1, 12, 5), (4, 3, 5), (2, 3, 10)])
def test_the_sizes_are_how_the_input_is_read_whatever_its_shape(judge, sizes):
    data, scale = Data(3), Scale(value=8, condition=8, length=60)
    x, weight, groups = data.normal((2, 6, 5), "float32"), data.normal(sizes[1], "float32"), 3
    arguments = (x, weight, weight, *sizes, groups, 1e-5)
    assert_agrees(
        judge, Question(f"{ATEN}.native_group_norm", aten.native_group_norm, arguments, (scale,) * 3, "float32")
    )
    saved = [data.positive((sizes[0], groups), "float32") for _ in range(2)]
    arguments = (x, x, *saved, weight, *sizes, groups, [True, True, True])
    name, scales = "native_group_norm_backward", (Scale(value=80, condition=8, length=60),) * 3
    assert_agrees(judge, Question(f"{ATEN}.{name}", getattr(aten, name), arguments, scales, "float32"))


class InstanceCase(RowCase):
    def __init__(self, draw):
        spatial = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
        shape = (draw(st.integers(1, 4)), draw(st.integers(1, 4)), spatial[0] + 1, *spatial[1:])
        super().__init__(draw, shape, range(2, len(shape)), (shape[1],))
        self.use_input_stats = draw(st.booleans())
        self.statistics = draw(st.sampled_from(("float32", "bfloat16", "float64", self.dtypes.x)))
        present = not self.use_input_stats or draw(st.booleans())
        self.running_mean = self.data.normal(shape[1], self.statistics) if present else None
        self.running_var = self.data.positive(shape[1], self.statistics) if present else None
        if not self.use_input_stats:
            self.rstd = np.array(2.0)
            self.condition = 1 + 4 * (largest(self.x) + largest(self.running_mean))


@few
@given(st.data())
def test_instance_norm(judge, data):
    case = InstanceCase(data.draw)
    momentum = data.draw(st.sampled_from((0.1, 1.0, 0.37)))
    arguments = (
        *(case.x, case.weight, case.bias, case.running_mean, case.running_var),
        *(case.use_input_stats, momentum, case.eps, False),
    )
    torch = f"{TORCH}:instance_norm"
    y = case.output_scales[:1]
    if case.running_mean is None:
        assert_agrees(judge, case.question(torch, aten.instance_norm, arguments, y, (0, 1, 2)))
        return
    mean = largest(case.x) + largest(case.running_mean)
    scales = (*y, case.scale(mean), case.scale(2 * mean**2 + 2))
    twin = case.question(torch, aten.instance_norm_functional, arguments, scales, (0, 1, 2), mutated=(3, 4))
    if data.draw(st.booleans()):
        assert_agrees(judge, without_gradient(twin))
    else:
        assert_agrees(judge, case.question(torch, aten.instance_norm, arguments, y, (0, 1, 2)))


def test_evaluation_returns_the_running_statistics_untouched():
    x = np.ones((2, 3, 4), jnp.bfloat16)
    running = np.array([0.1, 0.2, 0.3], np.float32), np.array([1.1, 1.2, 1.3], np.float32)
    _, *kept = aten.instance_norm_functional(x, None, None, *running, False, 0.1, 1e-5, False)
    for value, before in zip(kept, running, strict=True):
        np.testing.assert_array_equal(value, before, strict=True)


@pytest.mark.parametrize("shape", [(0, 6, 3), (2, 6, 0), (2, 6, 1), (2, 6)])
def test_instance_norm_of_no_or_one_element(judge, shape):
    x = np.ones(shape, np.float32)
    running = (np.full(6, 0.5, np.float32), np.full(6, 2.0, np.float32))
    scale = Scale(1, 1, 1)
    arguments = (x, None, None, *running, True, 0.1, 1e-5, False)
    torch, ours = f"{TORCH}:instance_norm", aten.instance_norm_functional
    assert_agrees(judge, Question(torch, ours, arguments, (scale,) * 3, "float32", mutated=(3, 4)))
