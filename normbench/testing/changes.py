"""How a program differs from its snapshot: whether it is worse, and the launches that came and went, in words."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from normbench.display.units import shorten
from normbench.testing.structure import Kind, Structure

MOST_LINES = 25
"""Of a message."""
_ROWS = 6
_HINTS = 2
_WIDTH = 240

SAME, BETTER, WORSE, OTHER = "same", "better", "worse", "other"
"""No more and no less; less of one thing and no more of any; more of something; as much, by launches of other kinds."""


@dataclass(frozen=True)
class Difference:
    """Launches that only one of two programs has.

    Attributes:
      gone, new: by kind, with their number.
      resized: (before, after) of launches that do the same to another number of bytes.
    """

    gone: tuple[tuple[Kind, int], ...]
    new: tuple[tuple[Kind, int], ...]
    resized: tuple[tuple[Kind, Kind], ...]


def verdict(before: Structure, after: Structure, tolerance: float) -> str:
    """Whether a program is worse than its snapshot.

    Args:
      tolerance: share of the bytes by which they may differ.
    """
    counted = [(after.launches, before.launches), (after.executed, before.executed)]
    if any(now > then for now, then in counted) or after.bytes > before.bytes * (1 + tolerance):
        return WORSE
    if any(now < then for now, then in counted) or after.bytes < before.bytes * (1 - tolerance):
        return BETTER
    return SAME if before.kinds == after.kinds else OTHER


def difference(before: Structure, after: Structure, tolerance: float) -> Difference:
    """Launch by launch; those whose bytes differ by less than the tolerance are the same."""
    gone, new = _expanded(before.counter - after.counter), _expanded(after.counter - before.counter)
    resized: list[tuple[Kind, Kind]] = []
    for then in list(gone):
        alike = [now for now in new if now.work == then.work]
        if not alike:
            continue
        now = min(alike, key=lambda one: abs(one.bytes - then.bytes))
        gone.remove(then)
        new.remove(now)
        if abs(now.bytes - then.bytes) > tolerance * then.bytes:
            resized.append((then, now))
    return Difference(_counted(gone), _counted(new), tuple(resized))


def _expanded(counts: Counter[Kind]) -> list[Kind]:
    return sorted(counts.elements(), key=lambda kind: -kind.bytes)


def _counted(kinds: Iterable[Kind]) -> tuple[tuple[Kind, int], ...]:
    return tuple(sorted(Counter(kinds).items(), key=lambda item: -item[0].bytes * item[1]))


def summary(before: Structure, after: Structure) -> str:
    """What differs in sum: "3 → 5 launches, 134.2 → 201.3 MB (+50 %)"."""
    parts = [
        f"{then:,} → {now:,} {noun}"
        for then, now, noun in (
            (before.launches, after.launches, "launches"),
            (before.executed, after.executed, "executed"),
        )
        if then != now and not (noun == "executed" and (then, now) == (before.launches, after.launches))
    ]
    if before.bytes != after.bytes:
        parts.append(_bytes_change(before.bytes, after.bytes))
    if before.kinds != after.kinds:
        kinds = sorted({*before.kinds, *after.kinds})
        changed = [(kind, before.kinds[kind], after.kinds[kind]) for kind in kinds]
        parts.append("kinds: " + ", ".join(f"{kind} {x} → {y}" for kind, x, y in changed if x != y))
    return ", ".join(parts) or "the same launches and bytes, from other operations"


def _bytes_change(then: int, now: int) -> str:
    share = f" ({now / then - 1:+.1%})".replace("%", " %") if then else ""
    return f"{size(then)} → {size(now)}{share}"


def size(number: int) -> str:
    """134.2 MB."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= scale:
            return f"{number / scale:.1f} {unit}"
    return f"{number} B"


def row_lines(found: Difference, reasons: "Reasons") -> list[str]:
    """A line per kind of launch that came, went or moves another number of bytes; new ones with where and why."""
    gone = [f"  - {_words(kind, number)}" for kind, number in found.gone]
    new: list[list[str]] = [
        [f"  ~ {_words(now, 1)}, was {size(then.bytes)}{reasons.place(now)}", *reasons.why(now)]
        for then, now in sorted(found.resized, key=lambda pair: -abs(pair[1].bytes - pair[0].bytes))
    ]
    new += [[f"  + {_words(kind, number)}{reasons.place(kind)}", *reasons.why(kind)] for kind, number in found.new]
    lines = [*gone[:_ROWS], *_rest(gone[_ROWS:], "gone")]
    for group in new[:_ROWS]:
        lines += group[:2]
    return [shorten(line, _WIDTH) for line in [*lines, *_rest(new[_ROWS:], "new or changed")]]


def _rest(rows: Sequence[object], what: str) -> list[str]:
    return [f"  and {len(rows)} more {what}"] if rows else []


def _words(kind: Kind, number: int) -> str:
    several = f"{number} launches, " if number > 1 else ""
    runs = "" if kind.runs == 1 else " x?" if kind.runs == 0 else f" x{kind.runs}"
    ops = f" ({', '.join(kind.source_ops)})" if kind.source_ops else ""
    return f"{several}{kind.kind}{runs} {size(kind.bytes)}{shorten(ops, 100)}"


class Reasons:
    """Where the launches of a program come from, and why they are apart, by kind; says nothing by itself."""

    def place(self, kind: Kind) -> str:
        """ ", name, model.py:12", or nothing."""
        return ""

    def why(self, kind: Kind) -> list[str]:
        """Lines that say why a launch of this kind is apart from what uses its result."""
        return []


def loop_lines(before: Structure, after: Structure) -> list[str]:
    """A sentence where launches that ran in loops do so no more, or others do now."""
    then, now = (sum(number for kind, number in one.counts if kind.runs != 1) for one in (before, after))
    if then and not now:
        return [f"  no launch runs in a loop any more, {then} did: a scan that was unrolled?"]
    return [f"  {now} launches run in a loop now, none did"] if now and not then else []


def hint_lines(before: Structure, hints: Sequence[str]) -> list[str]:
    """The hints of a program that its snapshot had not."""
    new = [hint for hint in hints if hint.partition(":")[0] not in before.hints]
    return [shorten(f"  {hint}", _WIDTH) for hint in new[:_HINTS]]
