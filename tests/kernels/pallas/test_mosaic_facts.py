"""The Pallas Mosaic kernels as compiled for the H200, held by the goldens."""

import pytest

from analysis.pages import kernels_mosaic as kernel_mosaic
from analysis.pages.kernels_against_xla import EQUAL, quicker

ROWS = kernel_mosaic.compiled(kernel_mosaic.goldens())
KEPT = [row for row in ROWS if not row.reason]
QUICKER = quicker("pallas_mosaic")
STREAMED = ("batch_norm_training", "group_norm")
"""Whose forward pass has a second launch where what is summed does not fit on the chip."""


def test_the_page_has_the_table_of_the_goldens():
    assert kernel_mosaic.table(ROWS) in kernel_mosaic.PAGE.read_text(encoding="utf-8")


def test_every_operator_is_compiled_forward_and_backward():
    assert len({(row.operator, row.pass_) for row in KEPT}) == 18


@pytest.mark.parametrize("row", KEPT, ids=lambda row: row.problem)
def test_launches_and_traffic(row):
    forward = 2 if row.operator in STREAMED else 1
    most = {"forward": forward, "backward": 2, "forward_backward": forward + 2}[row.pass_]
    assert 1 <= row.launches <= most
    assert row.xla_bytes >= EQUAL * row.bytes or row.problem in QUICKER


def test_a_refusal_is_counted_by_its_kind():
    rows = [
        kernel_mosaic.Compiled("layer_norm", "forward", problem, f"rows of {size} elements; allowed: multiples of 128")
        for problem, size in (("a", 784), ("b", 4094))
    ]
    assert kernel_mosaic.table(rows).endswith("\n- 2 × rows of N elements; allowed: multiples of 128")
