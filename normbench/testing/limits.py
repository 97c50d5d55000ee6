"""Limits that a test sets to a program, each at most."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from normbench.display.units import duration, shorten
from normbench.errors import UserError, unknown
from normbench.testing.changes import size
from normbench.testing.structure import head

if TYPE_CHECKING:
    from normbench.explanation.explain import Report

HINTS = (
    "dtype promotion", "materialised upcast", "transposed layout", "copy", "Pallas kernel", "library call",
    "stacked arrays", "host memory", "length unknown", "few blocks", "row length", "not matched",
)  # fmt: skip
"""What hints are about: the words before the colon."""
_ROWS = 8
_WIDTH = 240


@dataclass(frozen=True)
class Limits:
    """What a program may be at most; None where it may be anything.

    Attributes:
      launches: in the program, each loop's body once.
      max_ratio: bytes over the minimum bytes.
      max_bytes: across the boundaries of all launches.
      max_predicted_s: the predicted time; a prediction, which says so where it fails.
      no_hint: words of hints that it must not have, e.g. "promotion".
      collectives: launches that communicate.
    """

    launches: int | None = None
    max_ratio: float | None = None
    max_bytes: float | None = None
    max_predicted_s: float | None = None
    no_hint: tuple[str, ...] = ()
    collectives: int | None = None

    def __bool__(self) -> bool:
        return self != Limits()


def limits(
    launches: int | None,
    max_ratio: float | None,
    max_bytes: float | None,
    max_predicted_s: float | None,
    no_hint: str | Sequence[str],
    collectives: int | None,
) -> Limits:
    """Checked limits.

    Raises:
      UserError: for a negative number, and for a `no_hint` that no hint is about.
    """
    words = (no_hint,) if isinstance(no_hint, str) and no_hint else tuple(no_hint)
    for word in words:
        if not any(word in name for name in HINTS):
            raise unknown("no_hint", word, HINTS)
    found = Limits(launches, max_ratio, max_bytes, max_predicted_s, words, collectives)
    for name in ("launches", "max_ratio", "max_bytes", "max_predicted_s", "collectives"):
        value = getattr(found, name)
        if value is not None and not (isinstance(value, int | float) and value >= 0):
            raise UserError(f"{name} is {value!r}; allowed: 0 or more")
    return found


def exceeded(report: "Report", allowed: Limits) -> list[str]:
    """A sentence for each limit that a program exceeds."""
    reading = report.compilation.reading
    found = []
    if allowed.launches is not None and len(reading.launches) > allowed.launches:
        found.append(f"{len(reading.launches)} launches, where at most {allowed.launches} are allowed")
    ratio = reading.traffic_ratio
    if allowed.max_ratio is not None and ratio is not None and ratio > allowed.max_ratio:
        found.append(f"{ratio:.3g} x the minimum bytes, where at most {allowed.max_ratio:g} x are allowed")
    if allowed.max_bytes is not None and reading.bytes > allowed.max_bytes:
        found.append(f"{size(reading.bytes)}, where at most {size(int(allowed.max_bytes))} are allowed")
    collectives = sum(launch.kind == "collective" for launch in reading.launches)
    if allowed.collectives is not None and collectives > allowed.collectives:
        found.append(f"{collectives} collectives, where at most {allowed.collectives} are allowed")
    return [*found, *_slow(report, allowed.max_predicted_s), *_hinted(reading.hints, allowed.no_hint)]


def _slow(report: "Report", most_s: float | None) -> list[str]:
    if most_s is None:
        return []
    if report.predicted_s is None or report.predicted_range_s is None:
        return [f"max_predicted_s is given, and nothing is known of the time on {report.target!r}"]
    if report.predicted_s <= most_s:
        return []
    low, high = report.predicted_range_s
    return [
        f"predicted {duration(report.predicted_s)} ({duration(low)} to {duration(high)}), where at most "
        f"{duration(most_s)} is allowed"
    ]


def _hinted(hints: Sequence[str], unwanted: Sequence[str]) -> list[str]:
    return [hint for hint in hints if any(word in head(hint) for word in unwanted)]


def message(name: str, report: "Report", failures: Sequence[str]) -> str:
    """What a test prints of a program that exceeds its limits: why, and the launches that move most."""
    lines = [f"{name} on {report.target}: {failures[0]}", *(f"  {more}" for more in failures[1:6])]
    launches = sorted(report.compilation.reading.launches, key=lambda one: -(one.read_bytes + one.write_bytes))
    for launch in launches[:_ROWS]:
        moved = size(launch.read_bytes + launch.write_bytes)
        source = f", {launch.source}" if launch.source else ""
        lines.append(f"    {launch.name} ({launch.kind}) {moved}{source}")
    if len(launches) > _ROWS:
        lines.append(f"    and {len(launches) - _ROWS} more launches")
    lines += [f"  {refusal}" for refusal in report.refusals[:3]]
    return "\n".join(shorten(line, _WIDTH) for line in lines)
