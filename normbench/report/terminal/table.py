"""The run as plain text: a block per problem with its variants side by side, then the run in figures."""

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from normbench.display.units import count, digits, printable, relative, shorten, spread, time_unit
from normbench.report.data.frames import Run
from normbench.report.data.summary import Digest, digest, series_names
from normbench.report.findings.attribution import attribution_lines
from normbench.report.findings.findings import Finding, findings
from normbench.report.findings.foretold import foretold_lines
from normbench.report.model.error import model_error_lines
from normbench.report.model.predictions import devices
from normbench.report.terminal.overview import accuracy_lines, atlas_lines, overview_lines, status_lines

MAX_LINES = 500
"""A table of more lines than this is left to the report; the overview by operator and variant is shown all the same."""

_MIN_WIDTH, _MAX_WIDTH = 60, 200
_GAP = "  "
_TIME, _RATIO, _TARGET, _ULP = 10, 5, 6, 4
_KEY = (
    "Times are medians per call, ± half the interquartile range; ÷base is the time over the baseline's (marked *) with "
    "the same cache, cold where there is one; targets show launches, and bytes moved over the minimum; ~ marks samples "
    "that fall into two groups."
)


Row = dict[str, Any]


@dataclass(frozen=True)
class _Columns:
    """What the columns show, decided once for the whole table.

    Attributes:
      devices: targets that were timed.
      series: timed series shown, e.g. ("wall_cold", "wall_warm").
      targets: targets whose launches and traffic ratio are shown.
      hidden: targets for which the width does not suffice.
      variant: width of the first column.
    """

    devices: tuple[str, ...]
    series: tuple[str, ...]
    targets: tuple[str, ...]
    hidden: tuple[str, ...]
    variant: int


def terminal_table(run: Run, width: int) -> str:
    """The whole table as text of at most `width` columns (60 to 200), with a summary below it."""
    width = min(max(width, _MIN_WIDTH), _MAX_WIDTH)
    data = digest(run)
    if data.summary.empty:
        return f"run {run.run_id}: no cases\n"
    sentences = [*attribution_lines(run), *(model_error_lines(run) if devices(run) else [])]
    told = [line for each in sentences for line in textwrap.wrap(each, width, subsequent_indent="  ")]
    return "\n".join([*_body(data, width), "", *([*told, ""] if told else []), *_totals(data, width)]) + "\n"


def _body(data: Digest, width: int) -> list[str]:
    cases, problems = data.summary["case"].nunique(), data.summary["problem"].nunique()
    if 3 * problems + cases > MAX_LINES:
        told = f"{count(problems, 'problem')} in {count(cases, 'case')} are too many to show here: see the report."
        return textwrap.wrap(told, width)
    columns = _columns(data, width)
    lines = textwrap.wrap(_KEY, width) if columns.series else []
    if columns.hidden:
        lines += textwrap.wrap(f"Not shown for lack of width: {', '.join(columns.hidden)} (see the report).", width)
    notes: dict[str, int] = {}
    for rows in _problems(data):
        lines += ["", *_block(rows, columns, width, notes)]
    return lines + _notes(notes, width)


def _problems(data: Digest) -> list[list[Row]]:
    """The rows of the summary by problem, as dictionaries in which None is what is absent."""
    frame = data.summary.astype(object)
    problems: dict[str, list[Row]] = {}
    for row in frame.where(frame.notna(), None).to_dict("records"):
        problems.setdefault(row["problem"], []).append(row)
    return list(problems.values())


def _columns(data: Digest, width: int) -> _Columns:
    rows = data.summary
    series = [name for name in series_names() if name.startswith("wall") and rows[f"{name}_median_s"].notna().any()]
    timed = rows[rows[[f"{name}_median_s" for name in series_names()]].notna().any(axis=1)]
    devices = tuple(timed["target"].unique())
    longest = rows["variant"].str.len().max() + 2
    if len(devices) > 1:
        longest += max(len(device) for device in devices) + 2
    variant = int(min(longest, width // 3))
    room = width - variant - len(series) * (len(_GAP) + _TIME) - (len(_GAP) + _RATIO) * bool(series)
    room -= (len(_GAP) + _ULP) if rows["max_ulp"].notna().any() else 0
    compiled = set(rows[rows["launches"].notna()]["target"])
    targets = [target for target in data.run.targets if target in compiled]
    fitting = max(0, room // (len(_GAP) + _TARGET))
    return _Columns(devices, tuple(series), tuple(targets[:fitting]), tuple(targets[fitting:]), variant)


def _block(rows: list[Row], columns: _Columns, width: int, notes: dict[str, int]) -> list[str]:
    known = [row[f"{name}_median_s"] for row in rows for name in columns.series]
    unit, scale = time_unit(min((value for value in known if value is not None), default=1.0))
    lines = textwrap.wrap(printable(_heading(rows[0])), width, subsequent_indent="    ")
    lines.append(shorten(_header(rows, columns, unit), width))
    for variant in dict.fromkeys(row["variant"] for row in rows):
        mine = [row for row in rows if row["variant"] == variant]
        for device in columns.devices or (None,):
            mark = "* " if any(row["baseline"] for row in mine) else "  "
            label = f"{mark}{printable(str(variant))}" + (f" @{device}" if len(columns.devices) > 1 else "")
            lines.append(shorten(_line(label, mine, device, columns, scale, _unit(rows)), width))
        lines += [shorten(f"    {text}", width) for text in _troubles(mine, notes)]
    return lines


def _heading(row: Row) -> str:
    words = [row["operator"], row["pass"], row["context"], f"{row['shape']} {row['layout']}", row["dtype"]]
    if row["param_dtype"] != row["dtype"]:
        words[-1] = f"{words[-1]} ({row['param_dtype']} parameters)"
    return " · ".join(str(word) for word in (*words, row["options"], row["model"]) if word not in ("alone", "", None))


def _header(rows: list[Row], columns: _Columns, unit: str) -> str:
    cells = ["".ljust(columns.variant)]
    cells += [f"{name.split('_')[1]} {unit}".rjust(_TIME) for name in columns.series]
    cells += ["÷base".rjust(_RATIO)] if columns.series else []
    cells += [target[:_TARGET].rjust(_TARGET) for target in columns.targets]
    cells += ["ulp".rjust(_ULP)] if any(row["max_ulp"] is not None for row in rows) else []
    return _GAP.join(cells)


def _unit(rows: list[Row]) -> str | None:
    """The dtype in whose spacing the errors of a problem are told: the baseline's."""
    return next((row["ulp_dtype"] for row in rows if row["max_ulp"] is not None), None)


def _line(label: str, mine: list[Row], device: str | None, columns: _Columns, scale: float, unit: str | None) -> str:
    here = [row for row in mine if device is None or row["target"] == device]
    row = here[0] if here else {}
    cells = [shorten(label, columns.variant).ljust(columns.variant)]
    cells += [_time(row, name, scale).rjust(_TIME) for name in columns.series]
    if columns.series:
        shown = [row[f"{name}_ratio"] for name in columns.series if row.get(f"{name}_ratio") is not None]
        cells.append((relative(shown[0]) if shown else "").rjust(_RATIO))
    by_target = {row["target"]: row for row in mine}
    cells += [_target(by_target.get(target, {})).rjust(_TARGET) for target in columns.targets]
    errors = [row["max_ulp"] for row in here if row["max_ulp"] is not None and row["ulp_dtype"] == unit]
    cells.append((digits(max(errors), 2) if errors else "").rjust(_ULP))
    return _GAP.join(cells).rstrip()


def _time(row: Row, series: str, scale: float) -> str:
    median = row.get(f"{series}_median_s")
    if median is None:
        return ""
    mark = "~" if row[f"{series}_bimodal"] else ""
    return f"{mark}{digits(median / scale)} {spread(row[f'{series}_q1_s'], median, row[f'{series}_q3_s'])}"


def _target(row: Row) -> str:
    if row.get("launches") is None:
        return "-"
    return f"{row['launches']}" + (f" {row['traffic_ratio']:.2f}" if row["traffic_ratio"] is not None else "")


def _troubles(mine: Iterable[Row], notes: dict[str, int]) -> list[str]:
    """A text per status that is not ok, with the targets that share it and the number of the note with its reason."""
    found: dict[tuple[str, str | None], list[str]] = {}
    for row in mine:
        if row["status"] != "ok":
            found.setdefault((row["status"], row["reason"]), []).append(row["target"])
    texts = []
    for (status, reason), targets in found.items():
        where = ", ".join(target for target in targets if target)
        note = f" [{notes.setdefault(reason, len(notes) + 1)}]" if reason else ""
        texts.append(f"{status.replace('_', ' ')}{f' on {where}' if where else ''}{note}")
    return texts


def _notes(notes: dict[str, int], width: int) -> list[str]:
    lines = [""] if notes else []
    for reason, number in notes.items():
        text = f"[{number}] {printable(reason)}"
        lines += textwrap.wrap(text, width, subsequent_indent="    ", max_lines=4, placeholder=" …")
    return lines


def _totals(data: Digest, width: int) -> list[str]:
    run = data.run
    state = "" if run.complete else f" ({run.info.get('status') or 'unfinished'}: not all rows are there yet)"
    lines = textwrap.wrap(f"run {run.run_id}{state}: {count(len(run.cases), 'case')}", width)
    lines += [*status_lines(data, width), "", *atlas_lines(data, width), *_foretold(data, width)]
    lines += [*overview_lines(data, width), *accuracy_lines(run, width)]
    wanted = sorted((finding for finding in findings(data, _TOLD)), key=_place)
    for finding in wanted:
        lines += textwrap.wrap(finding.text, width, initial_indent="- ", subsequent_indent="  ")
    return lines


def _foretold(data: Digest, width: int) -> list[str]:
    """Which variant is predicted to be the fastest, beside the one with the fewest bytes."""
    told = foretold_lines(data.summary)
    if not told:
        return []
    lines = textwrap.wrap(_FORETOLD, width)
    for line in told:
        lines += textwrap.wrap(line, width, initial_indent="  ", subsequent_indent="    ")
    return [*lines, ""]


_FORETOLD = (
    "Predicted from the compiled code, not measured; what cannot be told apart is said to be within the model's error:"
)
_TOLD = ("cost", "fold", "noise")


def _place(finding: Finding) -> int:
    return _TOLD.index(finding.kind)
