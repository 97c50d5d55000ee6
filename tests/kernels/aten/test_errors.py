"""Errors: of PyTorch's kind, and clear: they name the argument and the values."""

import re

import numpy as np
import pytest

from normbench.kernels import aten
from tests.kernels.aten.agreement import Question, Scale, assert_agrees, to_wire
from tests.kernels.aten.torch_judge import ATEN, NN, TORCH, JudgeCrashed, Request

X = np.linspace(-1, 2, 2 * 6 * 4 * 5, dtype=np.float32).reshape(2, 6, 4, 5)
INTEGERS = np.ones((2, 6, 4), np.int32)
C, FOUR, FIVE = np.ones(6, np.float32), np.ones(4, np.float32), np.ones(5, np.float32)
DOUBLES = np.ones(6, np.float64)
TRAIN, EVALUATE = (True, 0.1, 1e-5, False), (False, 0.1, 1e-5, False)
STATISTICS = (np.zeros((2, 3), np.float32), np.ones((2, 3), np.float32))
ROWS = (np.zeros((2, 6, 4, 1), np.float32), np.ones((2, 6, 4, 1), np.float32))
ALL = [True, True, True]

REFUSED = [
    ("batch_norm", (X, FOUR, C, C, C, *TRAIN), "weight should contain 6 elements not 4"),
    ("batch_norm", (X, C, FOUR, C, C, *TRAIN), "bias should contain 6 elements not 4"),
    ("batch_norm", (X, C, C, FOUR, C, *TRAIN), "running_mean should contain 6 elements not 4"),
    ("batch_norm", (X, C, C, C, FOUR, *EVALUATE), "running_var should contain 6 elements not 4"),
    ("batch_norm", (X, C, C, None, None, *EVALUATE), "running_mean must be defined in evaluation mode"),
    ("batch_norm", (X, C, C, C, None, *EVALUATE), "running_var must be defined in evaluation mode"),
    ("batch_norm", (X, C, C, C, None, *TRAIN), "running_mean and running_var must either both be None"),
    ("batch_norm", (INTEGERS, None, None, None, None, *TRAIN), "batch_norm .* int32"),
    ("batch_norm", (INTEGERS, None, None, C, C, *EVALUATE), "int32"),
    ("batch_norm", (X, DOUBLES, DOUBLES, None, None, *TRAIN), "weight .* float32 .* float64|float32.*float64"),
    ("batch_norm", (FOUR, None, None, None, None, *TRAIN), r"input of shape \[4\] has 1 dimensions"),
    ("aten.native_batch_norm", (X[:0], C, C, C, C, True, 0.1, 1e-5), "at least one element"),
    ("aten._native_batch_norm_legit", (X, C, C, None, None, True, 0.1, 1e-5), "running_mean is None"),
    ("aten.batch_norm_update_stats", (INTEGERS, None, None, 0.1), "int32"),
    ("aten.batch_norm_update_stats", (X, DOUBLES, DOUBLES, 0.1), "running_mean .* float64"),
    ("aten.batch_norm_update_stats", (X[:, :0], None, None, 0.1), "at least one element"),
    ("layer_norm", (X, ()), r"normalized_shape = \[\]"),
    ("layer_norm", (X, (4,)), r"normalized_shape=\[4\], expected input with shape \[\*, 4\].*\[2, 6, 4, 5\]"),
    ("layer_norm", (X, (1, 2, 6, 4, 5)), r"normalized_shape=\[1, 2, 6, 4, 5\]"),
    ("layer_norm", (X, (4, 5), FIVE), r"weight of shape \[5\] and normalized_shape = \[4, 5\]"),
    ("layer_norm", (X, (5,), None, FOUR), r"bias of shape \[4\] and normalized_shape = \[5\]"),
    ("layer_norm", (INTEGERS, (4,)), "native_layer_norm .* int32"),
    ("layer_norm", (X, (5,), np.ones(5, np.float64)), "weight has dtype float64|weight .* float64"),
    ("rms_norm", (X, ()), r"normalized_shape = \[\]"),
    ("rms_norm", (X, (4,)), r"normalized_shape=\[4\]"),
    ("rms_norm", (X, (4, 5), FIVE), r"weight of shape \[5\]"),
    ("rms_norm", (INTEGERS, (4,)), "rms_norm .* int32"),
    ("aten._fused_rms_norm", (INTEGERS, (4,), None, None), "rms_norm .* int32"),
    ("group_norm", (X, 4), r"divisible by num_groups.*\[2, 6, 4, 5\].*num_groups=4"),
    ("group_norm", (X, 0), "num groups to be greater than 0, got 0"),
    ("group_norm", (X, -1), "num groups to be greater than 0, got -1"),
    ("group_norm", (X, 3, FOUR), r"weight to be a vector .* shape \[4\]"),
    ("group_norm", (X, 3, None, FOUR), r"bias to be a vector .* shape \[4\]"),
    ("group_norm", (X, 3, np.ones((6, 1), np.float32)), r"weight of shape \[6, 1\]"),
    ("group_norm", (FIVE, 5), r"shape \[5\] has 1 dimensions"),
    ("group_norm", (INTEGERS, 3), "group_norm .* int32"),
    ("aten.native_group_norm", (X, None, None, 2, 6, 21, 3, 1e-5), r"2 \* 6 \* 21 elements"),
    ("aten.native_group_norm", (X, None, None, 2, 6, 20, 4, 1e-5), "num_groups=4"),
    ("aten.native_group_norm", (X, C, None, 1, 12, 20, 3, 1e-5), r"weight of shape \[6\] .* \(12 channels\)"),
    ("aten.native_group_norm", (X, None, None, -2, 6, -20, 3, 1e-5), r"-2 \* 6 \* -20 elements"),
    ("instance_norm", (X, FOUR, None, None, None, *TRAIN), r"weight of shape \[4\]"),
    ("instance_norm", (X, None, None, FOUR, C, *TRAIN), r"running_mean of shape \[4\]"),
    ("instance_norm", (X, None, None, None, None, *EVALUATE), "running_mean and running_var = None"),
    ("instance_norm", (X, None, None, C, None, *EVALUATE), "running_var = None"),
    ("instance_norm", (X, None, None, C, None, *TRAIN), "running_var is None"),
    ("instance_norm", (INTEGERS, None, None, None, None, *TRAIN), "instance_norm .* int32"),
    ("instance_norm", (FIVE, None, None, None, None, *TRAIN), r"shape \[5\]"),
    ("local_response_norm", (X[0, 0], 2), "got 2 dimensions"),
    ("local_response_norm", (X, 0), "size .* got 0"),
    ("local_response_norm", (INTEGERS, 2), "local_response_norm .* int32"),
    ("aten.native_layer_norm_backward", (X, X, (5,), *ROWS, None, FIVE, ALL), "gradient of weight"),
    ("aten.native_layer_norm_backward", (X, X, (5,), *ROWS, FIVE, None, ALL), "gradient of bias"),
    ("aten.native_layer_norm_backward", (X.astype(np.float64), X, (5,), *ROWS, FIVE, FIVE, ALL), "grad_out .* float64"),
    ("aten.native_group_norm_backward", (X, X, *STATISTICS, None, 2, 6, 20, 3, ALL), "gradient of weight"),
    ("aten.native_group_norm_backward", (X, X, *STATISTICS, C, 2, 6, 21, 3, ALL), "21 elements"),
    ("aten.native_group_norm_backward", (X, X, *STATISTICS, C, 2, 6, 20, 2, ALL), r"mean .* N \* group = 4"),
    (
        "aten.native_group_norm_backward",
        (X, X, *STATISTICS, C, 2, 3, 40, 3, ALL),
        r"weight of shape \[6\] .* \(3 chann",
    ),
    ("aten.native_group_norm_backward", (X[:1], X, *STATISTICS, C, 2, 6, 20, 3, ALL), r"grad_out has shape \[1, 6"),
    (
        "aten.native_batch_norm_backward",
        (X.astype(np.float64), X, C, C, C, C, C, True, 1e-5, ALL),
        "grad_out .* float64",
    ),
]
"""The operator, arguments that PyTorch refuses, what our message says."""


def named(operator):
    """PyTorch's name for the judge, and our function."""
    name = operator.removeprefix("aten.")
    module = NN if name == "local_response_norm" else TORCH
    return (f"{ATEN}.{name}" if name != operator else f"{module}:{name}"), getattr(aten, name)


@pytest.mark.parametrize(
    ("operator", "arguments", "message"), [pytest.param(*row, id=f"{row[0]}-{i}") for i, row in enumerate(REFUSED)]
)
def test_error_is_of_the_kind_that_pytorch_raises_and_names_the_values(judge, operator, arguments, message):
    torch, ours = named(operator)
    verdict = judge.ask(Request(torch, tuple(to_wire(value) for value in arguments)))
    assert verdict.error is not None, "PyTorch does not refuse this"
    with pytest.raises(Exception, match=message) as raised:
        ours(*arguments)
    kinds = [kind.__name__ for kind in raised.type.__mro__]
    assert verdict.error in kinds, f"PyTorch: {verdict.error}: {verdict.message}; ours: {kinds}"


MEMORY_UNSAFE = [
    ("native_batch_norm", (X, C, C, None, None, False, 0.1, 1e-5), "running_mean must be defined in evaluation mode"),
    ("_native_batch_norm_legit_no_stats", (X, C, C, False, 0.1, 1e-5), "running_mean must be defined"),
    ("_batch_norm_no_update", (X, C, C, None, None, 0.1, 1e-5), "running_mean must be defined"),
    ("native_batch_norm", (X, C, C, FOUR, C, True, 0.1, 1e-5), "running_mean should contain 6 elements not 4"),
    ("native_batch_norm", (X, FOUR, C, C, C, True, 0.1, 1e-5), "weight should contain 6 elements not 4"),
    ("batch_norm_update_stats", (X, FOUR, C, 0.1), "running_mean should contain 6 elements not 4"),
    ("native_batch_norm_backward", (X[:, :, :3], X, C, C, C, C, C, True, 1e-5, ALL), r"grad_out has shape \[2, 6, 3"),
    ("native_batch_norm_backward", (X, X, C, C, C, None, C, True, 1e-5, ALL), "save_mean must be defined"),
    ("native_batch_norm_backward", (X, X, C, None, C, C, C, False, 1e-5, ALL), "running_mean must be defined"),
    ("native_layer_norm_backward", (X[:1], X, (5,), *ROWS, FIVE, FIVE, ALL), r"grad_out has shape \[1, 6"),
    ("native_layer_norm_backward", (X, X, (5,), ROWS[0][:1], ROWS[1], FIVE, FIVE, ALL), r"mean has shape \[1, 6, 4, 1"),
    ("_fused_rms_norm", (X, (4,), None, None), r"normalized_shape=\[4\]"),
    ("_fused_rms_norm_backward", (X, X, (5,), ROWS[1][:1], FIVE, ALL[:2]), "rstd has shape"),
    ("_fused_rms_norm_backward", (X, X, (5,), ROWS[1], FIVE, ALL), r"output_mask .* 3 elements; allowed: 2"),
    ("batch_norm_gather_stats_with_counts", (X, C, C, None, None, 0.1, 1e-5, FOUR), r"mean has shape \[6\]"),
    ("batch_norm_elemt", (X, C, C, FOUR, C, 1e-5), "mean should contain 6 elements not 4"),
]
"""What PyTorch on CPU answers with a crash, with what lies beyond the end of an array, or not at all."""


@pytest.mark.parametrize(
    ("name", "arguments", "message"), [pytest.param(*row, id=f"{row[0]}-{i}") for i, row in enumerate(MEMORY_UNSAFE)]
)
def test_what_pytorch_does_not_check_is_an_error_too(name, arguments, message):
    with pytest.raises(aten.AtenError, match=message):
        getattr(aten, name)(*arguments)


def test_a_crash_of_the_judge_is_reported_and_survived(judge):
    with pytest.raises(JudgeCrashed, match=re.escape("os:abort")):
        judge.ask(Request("os:abort", ()))
    question = Question(f"{TORCH}:layer_norm", aten.layer_norm, (X, (5,)), (Scale(1, 50, 5),), "float32")
    assert_agrees(judge, question)
