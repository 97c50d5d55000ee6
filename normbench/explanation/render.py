"""A report as text for a terminal: at most a screen, or everything."""

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from normbench.display.units import count, digits, predicted_text, shorten
from normbench.explanation.collectives import collective_sentences, devices_text
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
from normbench.fusion.program.barriers import is_barrier
from normbench.schema import TPU_TARGETS

if TYPE_CHECKING:
    from normbench.explanation.explain import Report

COLUMNS = (
    "#", "launch", "how often", "kind", "read MB", "write MB", "predicted us", "grid x block", "ld/st B", "from",
)  # fmt: skip
_OF_KERNELS = ("grid x block", "ld/st B")
_OPTIONAL = ("how often", "predicted us", *_OF_KERNELS)
_RIGHT = ("#", "read MB", "write MB", "predicted us")
_LINES = 3  # of a sentence where the program itself does not fit a screen
_SCOPE_WIDTH = 32
_TRIVIAL = ("convert_element_type", "broadcast_in_dim", "reshape", "squeeze", "closed_call")
_NAME_WIDTH, _FROM_WIDTH, _WIDTH = 32, 52, 120


def text_report(report: "Report", full: bool = False) -> str:
    """The launches as a table, the sum, the notes, hints and refusals.

    Args:
      full: every launch in the order of execution and every sentence; else at most a screen, equal ones together.
    """
    rows = report.rows
    shown, rest = shown_and_rest(rows, len(rows) if full else SHOWN)
    lines = [title(report), "", *_table(shown, brief=bool(rest))]
    if rest:
        lines.append(rest_line(rest, report.bytes))
    lines += ["", *textwrap.wrap(sum_line(report), _WIDTH), *footnotes(rows)]
    for heading, sentences in sections(report, full):
        lines += ["", f"{heading}:"]
        for sentence in sentences if full else sentences[:GROUPS]:
            lines += _wrapped(sentence, _LINES if rest else None)
        if not full and len(sentences) > GROUPS:
            lines.append(f"  - and {count(len(sentences) - GROUPS, 'other')}")
    if rest:
        lines += ["", "Everything: .text(full=True), .launches, .hints, .refusals; what moves most: .top(10)"]
    return "\n".join(lines)


def _wrapped(sentence: str, lines: int | None) -> list[str]:
    return textwrap.wrap(
        sentence, _WIDTH, initial_indent="  - ", subsequent_indent="    ", max_lines=lines, placeholder=" …"
    )


def title(report: "Report") -> str:
    devices = devices_text(report.compilation.reading.partition)
    return f"{report.name} on {report.target}" + (f", {devices}" if devices else "")


def sections(report: "Report", full: bool) -> list[tuple[str, list[str]]]:
    """The headings under which sentences stand, but for empty ones."""
    reading = report.compilation.reading
    hints = list(report.hints) if full else hints_together(report.hints)
    refusals = list(report.refusals) if full else refusals_together(reading.refusals, reading.launches)
    found = (
        ("notes", list(report.notes)),
        ("collectives", collective_sentences(reading, report.rows)),
        ("bound by (predicted, not measured)", list(report.bounds)),
        ("hints", hints),
        ("not fused", refusals),
    )
    return [(heading, sentences) for heading, sentences in found if sentences]


def columns(shown: Sequence[Group], brief: bool) -> tuple[str, ...]:
    """The columns that have something to say; `brief` leaves out those of the kernel, for a program's largest ones."""
    cells = [cells_of(group) for group in shown]
    told = [name for name in COLUMNS if name not in _OPTIONAL or any(row[name] for row in cells)]
    return tuple(name for name in told if not brief or name not in _OF_KERNELS)


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


def _between_barriers(report: "Report", least_bytes: int) -> str:
    """On a TPU what one launch hands to the next may stay in VMEM, and cross no memory."""
    if report.target in TPU_TARGETS and report.bytes < least_bytes:
        return f"{megabytes(least_bytes)} MB if nothing stayed in VMEM between barriers"
    return f"least between barriers {megabytes(least_bytes)} MB: {report.bytes / least_bytes:.2f} times that"


def sum_line(report: "Report") -> str:
    """The whole program in one sentence; what is predicted says so."""
    rows = report.rows
    ratio = "no minimum" if report.traffic_ratio is None else f"traffic ratio {report.traffic_ratio:.2f}"
    parts = [
        f"{_launches(rows)}, {megabytes(report.bytes)} MB",
        f"minimum {megabytes(report.minimum_bytes)} MB: {ratio}",
    ]
    between = report.least_between_barriers_bytes
    if between and any(is_barrier(launch) for launch in report.compilation.reading.launches):
        parts.append(_between_barriers(report, between))
    operations = sum(row["flops"] for row in rows if not absent(row.get("flops")))
    if operations:
        parts.append(f"{_scaled(operations)}FLOP in matrix products and convolutions")
    streaming = report.streaming_minimum_bytes
    if streaming is not None and streaming != report.minimum_bytes:
        parts.append(f"streaming minimum {megabytes(streaming)} MB")
    if report.declared_bytes is not None:
        parts.append(f"declared by the kernels {megabytes(report.declared_bytes)} MB")
    if report.predicted_s is not None:
        parts.append(predicted_text(report.predicted_s, report.predicted_range_s))
    return "; ".join(parts)


def footnotes(rows: Sequence[Row]) -> list[str]:
    """What the marks in the table mean."""
    unknown = [row for row in rows if not length_known(row)]
    return (
        [f"x?: {count(len(unknown), 'launch', 'launches')} in a loop: length unknown, counted once"] if unknown else []
    )


def megabytes(size: int) -> str:
    return f"{size / 1e6:.3f}" if size < 1e6 else f"{size / 1e6:.1f}"


def _scaled(number: float) -> str:
    unit, scale = next((pair for pair in (("T", 1e12), ("G", 1e9), ("M", 1e6)) if number >= pair[1]), ("k", 1e3))
    return f"{digits(number / scale)} {unit}"


def _launches(rows: Sequence[Row]) -> str:
    runs = executed(rows)
    return count(len(rows), "launch", "launches") + ("" if runs == len(rows) else f", {runs:,} executed")


def _from(group: Group) -> str:
    """Scope and operations; where they are long, the end of the scope and the operations that compute something."""
    operations = [word for word in words(group.first.get("source_ops")).split(",") if word]
    whole = _joined(group.scope, operations)
    if len(whole) <= _FROM_WIDTH:
        return whole
    return _joined(_end_of(group.scope), [word for word in operations if word not in _TRIVIAL] or operations)


def _joined(scope: str, operations: Sequence[str]) -> str:
    return ": ".join(part for part in (scope, ", ".join(operations)) if part)


def _end_of(scope: str) -> str:
    """The last names of a scope: …/MultiHeadDotProductAttention_*."""
    names = scope.split("/")
    while len(names) > 1 and len("/".join(names)) > _SCOPE_WIDTH:
        del names[0]
    end = "/".join(names)
    return end if end == scope else f"…/{end}"


def _widths(row: Row) -> str:
    load, store = ("-" if absent(row.get(name)) else f"{row[name]:.0f}" for name in ("load_bytes", "store_bytes"))
    return "" if load == store == "-" else f"{load}/{store}"


def _table(shown: Sequence[Group], brief: bool) -> list[str]:
    names = columns(shown, brief)
    lines: list[dict[str, Any]] = [dict(zip(names, names, strict=True)), *(cells_of(group) for group in shown)]
    widths = {name: max(len(line[name]) for line in lines) for name in names}
    return ["  ".join(_aligned(line[name], widths[name], name) for name in names).rstrip() for line in lines]


def _aligned(cell: str, width: int, column: str) -> str:
    return cell.rjust(width) if is_number(column) else cell.ljust(width)
