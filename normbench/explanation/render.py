"""A report as text for a terminal: at most a screen, or everything."""

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from normbench.display.units import count, digits, shorten
from normbench.explanation.groups import (
    SHOWN,
    Group,
    Row,
    absent,
    executed,
    how_often,
    length_known,
    shown_and_rest,
    words,
)
from normbench.explanation.sentences import GROUPS, hints_together, refusals_together

if TYPE_CHECKING:
    from normbench.explanation.explain import Report

COLUMNS = (
    "#", "launch", "how often", "kind", "read MB", "write MB", "predicted us", "grid x block", "ld/st B", "from",
)  # fmt: skip
_RIGHT = ("#", "read MB", "write MB", "predicted us")
_NAME_WIDTH, _FROM_WIDTH, _WIDTH = 36, 44, 120


def text_report(report: "Report", full: bool = False) -> str:
    """The launches as a table, the sum, the notes, hints and refusals.

    Args:
      full: every launch in the order of execution and every sentence; else at most a screen, equal ones together.
    """
    rows = report.rows
    shown, rest = shown_and_rest(rows, len(rows) if full else SHOWN)
    lines = [title(report), "", *_table(shown)]
    if rest:
        lines.append(rest_line(rest, report.bytes))
    lines += ["", *textwrap.wrap(sum_line(report), _WIDTH), *footnotes(rows)]
    for heading, sentences in sections(report, full):
        lines += ["", f"{heading}:"]
        for sentence in sentences if full else sentences[:GROUPS]:
            lines += textwrap.wrap(sentence, _WIDTH, initial_indent="  - ", subsequent_indent="    ")
        if not full and len(sentences) > GROUPS:
            lines.append(f"  - and {count(len(sentences) - GROUPS, 'other')}")
    if rest:
        lines += ["", "Everything: .text(full=True), .launches, .hints, .refusals; what moves most: .top(10)"]
    return "\n".join(lines)


def title(report: "Report") -> str:
    return f"{report.name} on {report.target}"


def sections(report: "Report", full: bool) -> list[tuple[str, list[str]]]:
    """The headings under which sentences stand, but for empty ones."""
    reading = report.compilation.reading
    hints = list(report.hints) if full else hints_together(report.hints)
    refusals = list(report.refusals) if full else refusals_together(reading.refusals, reading.launches)
    found = (
        ("notes", list(report.notes)),
        ("bound by (predicted, not measured)", list(report.bounds)),
        ("hints", hints),
        ("not fused", refusals),
    )
    return [(heading, sentences) for heading, sentences in found if sentences]


def columns(shown: Sequence[Group]) -> tuple[str, ...]:
    """The columns that have something to say."""
    cells = [cells_of(group) for group in shown]
    optional = ("how often", "predicted us", "grid x block", "ld/st B")
    return tuple(name for name in COLUMNS if name not in optional or any(row[name] for row in cells))


def cells_of(group: Group) -> dict[str, str]:
    """One line of the table, by column."""
    first, seconds = group.first, group.predicted_s
    return {
        "#": str(first["index"]),
        "launch": shorten(first["name"], _NAME_WIDTH),
        "how often": how_often(group),
        "kind": words(first.get("kind")),
        "read MB": megabytes(group.read_bytes),
        "write MB": megabytes(group.write_bytes),
        "predicted us": "" if seconds is None else f"{seconds * 1e6:.1f}",
        "grid x block": "" if absent(first.get("grid")) else f"{first['grid']} x {first['block']}",
        "ld/st B": _widths(first),
        "from": shorten(_from(group), _FROM_WIDTH),
    }


def is_number(column: str) -> bool:
    """Whether a column is set to the right."""
    return column in _RIGHT


def rest_line(rest: Sequence[Row], total: int) -> str:
    """What the launches that are not shown move together."""
    moved = Group(tuple(rest)).bytes
    share = f", {100 * moved / total:.1f} % of all" if total else ""
    return f"and {_launches(rest)}: {megabytes(moved)} MB{share}"


def sum_line(report: "Report") -> str:
    """The whole program in one sentence; what is predicted says so."""
    rows, facts = report.rows, report.facts
    ratio = "no minimum" if report.traffic_ratio is None else f"traffic ratio {report.traffic_ratio:.2f}"
    parts = [
        f"{_launches(rows)}, {megabytes(report.bytes)} MB",
        f"minimum {megabytes(report.minimum_bytes)} MB: {ratio}",
    ]
    between = facts.get("least_between_barriers_bytes")
    if not absent(between) and between and between != report.minimum_bytes:
        parts.append(f"least between barriers {megabytes(between)} MB: {report.bytes / between:.2f} times that")
    streaming = report.streaming_minimum_bytes
    if streaming is not None and streaming != report.minimum_bytes:
        parts.append(f"streaming minimum {megabytes(streaming)} MB")
    if report.declared_bytes is not None:
        parts.append(f"declared by the kernels {megabytes(report.declared_bytes)} MB")
    if report.predicted_s is not None:
        parts.append(predicted_text(report.predicted_s, report.predicted_range_s))
    return "; ".join(parts)


def predicted_text(seconds: float, low_and_high_s: tuple[float, float] | None) -> str:
    """A prediction in words, with its range; nothing that could be taken for a measurement."""
    low, high = low_and_high_s or (seconds, seconds)
    return f"predicted (not measured) {_microseconds(seconds)}, between {_microseconds(low)} and {_microseconds(high)}"


def footnotes(rows: Sequence[Row]) -> list[str]:
    """What the marks in the table mean."""
    unknown = [row for row in rows if not length_known(row)]
    return (
        [f"x?: {count(len(unknown), 'launch', 'launches')} in a loop: length unknown, counted once"] if unknown else []
    )


def megabytes(size: int) -> str:
    return f"{size / 1e6:.3f}" if size < 1e6 else f"{size / 1e6:.1f}"


def _microseconds(seconds: float) -> str:
    return f"{seconds * 1e6:.1f} us" if seconds < 1e-2 else f"{digits(seconds * 1e3, 4)} ms"


def _launches(rows: Sequence[Row]) -> str:
    runs = executed(rows)
    return count(len(rows), "launch", "launches") + ("" if runs == len(rows) else f", {runs:,} executed")


def _from(group: Group) -> str:
    operations = ", ".join(word for word in words(group.first.get("source_ops")).split(",") if word)
    scope = group.scope
    return f"{scope}: {operations}" if scope and operations else scope or operations


def _widths(row: Row) -> str:
    load, store = ("-" if absent(row.get(name)) else f"{row[name]:.0f}" for name in ("load_bytes", "store_bytes"))
    return "" if load == store == "-" else f"{load}/{store}"


def _table(shown: Sequence[Group]) -> list[str]:
    names = columns(shown)
    lines: list[dict[str, Any]] = [dict(zip(names, names, strict=True)), *(cells_of(group) for group in shown)]
    widths = {name: max(len(line[name]) for line in lines) for name in names}
    return ["  ".join(_aligned(line[name], widths[name], name) for name in names).rstrip() for line in lines]


def _aligned(cell: str, width: int, column: str) -> str:
    return cell.rjust(width) if is_number(column) else cell.ljust(width)
