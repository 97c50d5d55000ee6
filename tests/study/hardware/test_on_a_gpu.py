"""The hardware checklist, on a GPU; elsewhere each of its items is skipped. `normbench gpu` runs the same checks."""

import pytest

from normbench.study.hardware.checks import CHECKS
from normbench.study.hardware.process import checked
from normbench.study.machine.environment import gpu_present


@pytest.mark.skipif(not gpu_present(), reason="a check of compiled kernels needs a GPU")
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_the_compiled_kernels_are_right(check):
    (found,) = checked([check])
    assert not found.failed, found.line
