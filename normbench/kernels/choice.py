"""Which variant to take: a table of what was measured, for problems like those that were.

choices/<target>.json: {"run", "environment", "problems": [{"operator", "pass", "last", "dtype", "elements",
"variants": {name: its time over the fastest's}}]}, which `python -m analysis.pages.cpu` makes of a run. A variant that
cancels (`Variant.excess`) is in none.
"""

import json
import math
from functools import cache
from pathlib import Path
from typing import Any

from normbench.errors import unknown
from normbench.kernels.problem import Problem
from normbench.kernels.registry import Variant, get, operator, variants

FOLDER = Path(__file__).parent / "choices"


def best(problem: Problem, target: str = "cpu") -> Variant:
    """The variant that was the fastest where a problem like this one was measured, of those that can run here.

    Like it is, of the same operator: the same pass, then channels on the same side, then the same width of x, then the
    nearest size. Where none was measured, or nothing that was can run here, it is the operator's baseline.

    Args:
      problem: what is to be computed.
      target: a device that there is a table for.

    Raises:
      UserError: for a problem that makes no sense, or a target without a table.
    """
    operator(problem.operator).validate(problem)
    tables = measured_targets()
    if target not in tables:
        raise unknown("target", target, tables)
    alike = [row for row in _table(target) if row["operator"] == problem.operator]
    nearest = min(alike, key=lambda row: _distance(row, problem), default=None)
    names = sorted(nearest["variants"], key=nearest["variants"].__getitem__) if nearest else []
    known = [name for name in names if name in variants(problem.operator)]
    able = (get(problem.operator, name) for name in known)
    fitting = (variant for variant in able if variant.supports(problem, target) is None)
    return next(fitting, get(problem.operator, variants(problem.operator)[0]))


def measured_targets() -> tuple[str, ...]:
    """The targets that there is a table for, sorted."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.json")))


def is_last(problem: Problem) -> bool:
    """Whether the channels are what is contiguous."""
    return problem.channel_axis == len(problem.shape) - 1


def _distance(row: dict[str, Any], problem: Problem) -> tuple[bool, bool, bool, float]:
    elements = max(math.prod(problem.shape), 1)
    narrow = {"bfloat16", "float16"}
    return (
        row["pass"] != problem.pass_,
        row["last"] != is_last(problem),
        (row["dtype"] in narrow) != (problem.dtype in narrow),
        abs(math.log(max(row["elements"], 1) / elements)),
    )


@cache
def _table(target: str) -> tuple[dict[str, Any], ...]:
    return tuple(json.loads((FOLDER / f"{target}.json").read_text(encoding="utf-8"))["problems"])
