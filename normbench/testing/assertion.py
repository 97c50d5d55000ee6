"""The checks of the fixture `fusion` as a plain function, for unittest, scripts and notebooks."""

import warnings
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from normbench.cache.store import default_folder
from normbench.errors import UserError
from normbench.explanation.explain import Report
from normbench.testing.cache import DiskCache
from normbench.testing.judgement import TOLERANCE, judged
from normbench.testing.limits import exceeded, limits, message
from normbench.testing.programs import Programs, Traced, structure
from normbench.testing.snapshots import read_entries, write_entries


def assert_fusion(
    function: Callable,
    /,
    *args: Any,
    target: str = "h200",
    launches: int | None = None,
    max_ratio: float | None = None,
    max_bytes: float | None = None,
    max_predicted_s: float | None = None,
    no_hint: str | Sequence[str] = (),
    collectives: int | None = None,
    snapshot: str | Path | None = None,
    update: bool = False,
    tolerance: float = TOLERANCE,
    **kwargs: Any,
) -> Report:
    """Holds what the compiler makes of `function(*args, **kwargs)`, by limits, by a snapshot, or by both.

    Args:
      launches, max_ratio, max_bytes, max_predicted_s, no_hint, collectives: see `normbench.testing.limits.Limits`.
      snapshot: a file `*.fusion.json`, in which the function's name is the name of the check. A JAX release that it
        does not have is a warning.
      update: write the snapshot instead of comparing with it.
      tolerance: share of the bytes by which it may differ from its snapshot.

    Returns:
      the report, as `normbench.explain` returns it.

    Raises:
      AssertionError: where it moves more than it may; the message says what changed, launch by launch.
      UserError: without limits and snapshot, and as `normbench.explain`.
      CompileError: where it cannot be compiled.
    """
    allowed = limits(launches, max_ratio, max_bytes, max_predicted_s, no_hint, collectives)
    if not allowed and snapshot is None:
        raise UserError("assert_fusion needs a limit (launches, max_ratio, max_bytes, ...) or a snapshot")
    programs = _programs()
    traced = programs.traced(function, args, kwargs, target)
    report = programs.report(traced)
    if failures := exceeded(report, allowed):
        report = programs.report(traced, lines_count=True)
        raise AssertionError(message(report.name, report, failures))
    if snapshot is not None:
        _hold(Path(snapshot), traced, report, programs, update, tolerance)
    return report


@cache
def _programs() -> Programs:
    return Programs(DiskCache(default_folder()))


def _hold(path: Path, traced: Traced, report: Report, programs: Programs, update: bool, tolerance: float) -> None:
    entries = read_entries(path)
    known = entries.setdefault(report.name, {})
    if update:
        known[traced.key] = structure(traced, report)
        write_entries(path, entries)
    elif traced.key in known:
        found = judged(report.name, known[traced.key], traced, programs, tolerance)
        if found.fails(exact=False):
            raise AssertionError(found.message)
    elif known:
        warnings.warn(f"{report.name} has no snapshot for {traced.key}, only for {'; '.join(known)}", stacklevel=3)
    else:
        raise AssertionError(f"{report.name} has no snapshot for {traced.key} in {str(path)!r}: update=True makes one")
