"""Sizes that no warpgroup divides, and the largest: Mosaic kernels take them or refuse them, and never fall back."""

import jax
import pytest

import kernels
from kernels import Problem
from normbench.errors import UserError

SIZES = (1, 7, 127, 129, 16384, 16385, 65537)
WHOLE = 16384
"""The one of them that warpgroups divide."""
NORMS = ("batch_norm", "batch_norm_training", "group_norm", "instance_norm")


def problem_of(operator, size, layout):
    shape = {"nc": (4, size), "ncl": (2, 8, size), "nlc": (2, size, 8)}[layout]
    return Problem(operator, shape, layout, "float32", options=(("groups", 8),) if operator == "group_norm" else ())


def traced(problem):
    """The jaxpr of the function itself, asked for regardless of what `supports` says."""
    definition = kernels.operator(problem.operator)
    arrays = [jax.ShapeDtypeStruct(argument.shape, argument.dtype) for argument in definition.arguments(problem)]
    keywords = definition.keywords(problem)
    return str(jax.make_jaxpr(lambda *a: kernels.get(problem.operator, "pallas_mosaic")(*a, **keywords))(*arrays))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("operator", "layout"),
    [("layer_norm", "nc"), ("rms_norm", "nc"), *((norm, layout) for norm in NORMS for layout in ("ncl", "nlc"))],
)
def test_a_size_is_taken_or_refused_with_its_reason(operator, layout, size):
    problem = problem_of(operator, size, layout)
    reason = kernels.get(operator, "pallas_mosaic").supports(problem, "h200")
    if size == WHOLE and layout != "nlc":
        assert reason is None
    elif reason is None:
        assert (operator, layout) == ("batch_norm", "nlc")
    else:
        assert "allowed for pallas_mosaic" in reason
        with pytest.raises(UserError, match="allowed for pallas_mosaic"):
            traced(problem)
