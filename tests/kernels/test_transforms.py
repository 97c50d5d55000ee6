"""jit, vmap, grad and checkpoint on every variant of the operators that have their statistics given.

Those of the other operators are among the tests of each.
"""

import pytest

from normbench.kernels.problem import Problem
from tests.kernels.norm_cases import check_transforms, variants

PROBLEMS = (
    Problem("batch_norm", (2, 3, 4, 5), context="silu"),
    Problem("conv_bn", (2, 5, 5, 4), "nhwc", context="gelu", options=(("bias", True), ("features", 6))),
    Problem("conv_bn", (2, 4, 5, 5), options=(("groups", 2), ("stride", 2))),
)
CASES = [(problem, name) for problem in PROBLEMS for name in variants(problem.operator)]


@pytest.mark.parametrize(("problem", "variant"), CASES, ids=lambda value: getattr(value, "operator", value))
def test_transforms(problem, variant):
    check_transforms(problem, variant)
