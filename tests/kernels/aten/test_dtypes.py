"""Every mixture of the dtypes of input, parameters and running statistics: what PyTorch takes, and what it returns."""

import itertools

import pytest

from normbench.kernels import aten
from tests.kernels.aten.agreement import Question, Scale, assert_agrees
from tests.kernels.aten.drawn import DTYPES, Data
from tests.kernels.aten.torch_judge import ATEN, TORCH

DATA = Data(31)
SCALES = (Scale(value=8, condition=8, length=40),) * 5
OPTIONAL = (None, *DTYPES)


def vector(size, dtype, positive=False):
    if dtype is None:
        return None
    return DATA.positive(size, dtype) if positive else DATA.normal(size, dtype)


def parameter_sets(size):
    """Weight and bias of one dtype, and each alone, and one of each dtype."""
    for dtype in OPTIONAL:
        yield vector(size, dtype), vector(size, dtype)
    for one, other in ((None, "float32"), ("float32", None), ("bfloat16", "float32"), ("float32", "bfloat16")):
        yield vector(size, one), vector(size, other)


def agree(judge, torch, ours, arguments, saved=None):
    assert_agrees(judge, Question(torch, ours, arguments, SCALES, saved or str(arguments[0].dtype)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_batch_norm(judge, dtype):
    x = DATA.normal((4, 3, 5), dtype)
    for (weight, bias), statistics in itertools.product(parameter_sets(3), OPTIONAL):
        running = vector(3, statistics), vector(3, statistics, positive=True)
        for training in (True, False) if statistics else (True,):
            arguments = (x, weight, bias, *running, training, 0.1, 1e-5)
            agree(judge, f"{ATEN}.native_batch_norm", aten.native_batch_norm, arguments)
    for statistics in OPTIONAL:
        arguments = (x, vector(3, statistics), vector(3, statistics, positive=True), 0.1)
        agree(judge, f"{ATEN}.batch_norm_update_stats", aten.batch_norm_update_stats, arguments)


@pytest.mark.parametrize("dtype", DTYPES)
def test_instance_norm(judge, dtype):
    x = DATA.normal((2, 3, 5), dtype)
    for (weight, bias), statistics in itertools.product(parameter_sets(3), (None, "float32", "bfloat16")):
        arguments = (x, weight, bias, vector(3, statistics), vector(3, statistics, True), True, 0.1, 1e-5, False)
        agree(judge, f"{TORCH}:instance_norm", aten.instance_norm, arguments)


@pytest.mark.parametrize("dtype", DTYPES)
def test_row_norms(judge, dtype):
    x = DATA.normal((3, 6, 4), dtype)
    for weight, bias in parameter_sets(4):
        agree(judge, f"{ATEN}.native_layer_norm", aten.native_layer_norm, (x, (4,), weight, bias, 1e-5))
        agree(judge, f"{ATEN}._fused_rms_norm", aten._fused_rms_norm, (x, (4,), weight, None))
    for weight, bias in parameter_sets(6):
        arguments = (x, weight, bias, 3, 6, 4, 3, 1e-5)
        agree(judge, f"{ATEN}.native_group_norm", aten.native_group_norm, arguments)
