"""A program against its snapshot, or against limits: what is said of it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from normbench.display.units import shorten
from normbench.testing.changes import (
    BETTER,
    MOST_LINES,
    OTHER,
    SAME,
    WORSE,
    difference,
    hint_lines,
    loop_lines,
    row_lines,
    summary,
    verdict,
)  # fmt: skip
from normbench.testing.structure import Structure

if TYPE_CHECKING:
    from normbench.explanation.explain import Report
    from normbench.testing.programs import Programs, Traced

TOLERANCE = 0.01
"""Share of the bytes by which a program may differ from its snapshot."""
_HEADS = {
    WORSE: "moves more than its snapshot",
    OTHER: "is another than its snapshot",
    BETTER: "is better than its snapshot",
    SAME: "is not its snapshot to the byte",
}


@dataclass(frozen=True)
class Judgement:
    """What became of one comparison.

    Attributes:
      verdict: of `normbench.testing.changes`.
      message: what changed, launch by launch; empty where all is as it was.
      identical: whether it is the snapshot to the byte.
    """

    verdict: str
    message: str
    identical: bool

    def fails(self, exact: bool) -> bool:
        """Whether a test fails by it."""
        return not self.identical if exact else self.verdict not in (SAME, BETTER)


def judged(
    name: str, before: Structure, traced: "Traced", programs: "Programs", tolerance: float = TOLERANCE
) -> Judgement:
    """Compares a traced program with its snapshot."""
    from normbench.testing.programs import structure

    after = structure(traced, programs.report(traced))
    found = verdict(before, after, tolerance)
    identical = before.counts == after.counts
    if identical:
        return Judgement(found, "", True)
    report = programs.report(traced, lines_count=True)
    return Judgement(found, _message(name, traced.key, before, after, report, found, tolerance), False)


def _message(
    name: str, key: str, before: Structure, after: Structure, report: "Report", found: str, tolerance: float
) -> str:
    from normbench.testing.reasons import ReportReasons

    what = _HEADS[found]
    if found == WORSE and after.bytes <= before.bytes:
        what = "has more launches than its snapshot"
    lines = [shorten(f"{name} on {key} {what}: {summary(before, after)}", 400)]
    lines += loop_lines(before, after)
    shown = 0.0 if found == SAME else tolerance
    lines += row_lines(difference(before, after, shown), ReportReasons(report))
    lines += hint_lines(before, report.hints)
    assert len(lines) < MOST_LINES
    return "\n".join([*lines, _accept(before, after)])


def _accept(before: Structure, after: Structure) -> str:
    reader = f" (the snapshot was made by normbench {before.normbench})" if before.normbench != after.normbench else ""
    same = before.program and before.program == after.program
    if same and not reader:
        reader = " (JAX hands the compiler the same program: what changed is the compiler or its flags)"
    return f"  as it should be? pytest --fusion-update{reader}"


def one_line(text: str) -> str:
    """The first line of a message."""
    return text.split("\n", 1)[0]
