"""`kernels.aten` against PyTorch up to the second derivatives: a sample; 2,000 calls by `make torture`."""

import pytest

from tests.kernels.aten.torture import KINDS, calls, judged

READS_PROGRAMS = True  # compiled as users have it
DRAWN = 21
"""Of each of the 96 calls: 2,016."""


def disagreements(judge, some, count):
    found = []
    for index, call in enumerate(some):
        for draw in range(count):
            found += judged(judge, call, KINDS[(index + draw) % len(KINDS)], 1000 * index + draw)
    return [str(finding) for finding in found if not finding.is_documented]


def test_a_sample_of_calls_agrees_with_pytorch(judge):
    assert disagreements(judge, calls()[::13], 3) == []


@pytest.mark.torture
def test_two_thousand_calls_agree_with_pytorch(judge):
    every = calls()
    assert len(every) * DRAWN >= 2000
    assert disagreements(judge, every, DRAWN) == []
