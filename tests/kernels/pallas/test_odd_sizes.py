"""The Pallas Triton kernels of norms with channels, interpreted: sizes of 1 and around powers of two, in every dtype.

Rows of these sizes are in `test_pallas_rows`.
"""

import pytest

from normbench.kernels.problem import Problem
from tests.kernels.norm_cases import check

SIZES = {1, 7, 127, 129, 16384, 16385, 65537}
DTYPES = {"float16", "bfloat16", "float32", "float64"}
CASES = {
    "batch_norm": [
        ((7, 129, 127), "ncl", "float16"),
        ((1, 16385), "nc", "bfloat16"),
        ((1, 1, 65537), "ncl", "float32"),
        ((16384, 1), "nc", "float64"),
    ],
    "batch_norm_training": [
        ((7, 16385), "nc", "float16"),
        ((2, 1, 16384), "ncl", "bfloat16"),
        ((1, 2, 65537), "ncl", "float32"),
        ((127, 129), "nc", "float64"),
    ],
    "group_norm": [
        ((1, 16385, 7), "nlc", "float16"),
        ((1, 2, 65537), "ncl", "bfloat16"),
        ((1, 16384, 127), "nlc", "float32"),
        ((2, 129, 1), "ncl", "float64"),
    ],
    "instance_norm": [
        ((7, 129, 127), "ncl", "float16"),
        ((1, 1, 65537), "ncl", "bfloat16"),
        ((1, 16384, 2), "nlc", "float32"),
        ((1, 2, 16385), "ncl", "float64"),
    ],
}
"""Channels and positions; what is summed is held on the chip, and streamed (the largest)."""


@pytest.mark.parametrize("operator", CASES)
def test_every_size_and_every_dtype_is_among_the_cases(operator):
    assert {size for shape, _, _ in CASES[operator] for size in shape} >= SIZES
    assert {dtype for _, _, dtype in CASES[operator]} == DTYPES


@pytest.mark.parametrize(
    ("operator", "shape", "layout", "dtype"), [(operator, *case) for operator, cases in CASES.items() for case in cases]
)
def test_forward_and_gradients(operator, shape, layout, dtype):
    options = (("groups", 1),) if operator == "group_norm" else ()
    param_dtype = "float64" if dtype == "float64" else "float32"
    check(Problem(operator, shape, layout, dtype, param_dtype, "forward_backward", options=options), "pallas_triton")
