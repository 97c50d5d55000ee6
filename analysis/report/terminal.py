"""The run as plain text: a block per problem with its variants side by side, then the run in figures."""

import textwrap
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.report.findings import compile_cost, findings, status_counts
from analysis.report.frames import Run
from analysis.report.summary import Digest, digest, series_names
from analysis.report.units import count, digits, duration, relative, spread, time_unit
from normbench.schema import CACHES

MAX_LINES = 500
"""A table of more lines than this is left to the report; the overview by operator and variant is shown all the same."""

_MIN_WIDTH, _MAX_WIDTH = 60, 200
_GAP = "  "
_KEY = (
    "Times are medians per call, ± half the interquartile range; ÷base is the time over the baseline's (marked *) with "
    "the same cache, cold where there is one; targets show launches, and bytes moved over the minimum; ~ marks samples "
    "that fall into two groups."
)


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
    body = _body(data, width)
    return "\n".join([*body, "", *_totals(data, width)]) + "\n"


def _body(data: Digest, width: int) -> list[str]:
    columns = _columns(data, width)
    lines = [] if not columns.series else textwrap.wrap(_KEY, width)
    if columns.hidden:
        lines += textwrap.wrap(f"Not shown for lack of width: {', '.join(columns.hidden)} (see the report).", width)
    problems, cases = data.summary["problem"].nunique(), data.summary["case"].nunique()
    if 3 * problems + cases > MAX_LINES:
        told = f"{count(problems, 'problem')} in {count(cases, 'case')} are too many to show here: see the report."
        return textwrap.wrap(told, width)
    blocks = (_block(part, columns, width) for _, part in data.summary.groupby("problem", sort=False))
    return lines + [line for block in blocks for line in ("", *block)]


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
    compiled = rows[rows["launches"].notna()]["target"].unique()
    targets = [target for target in data.run.targets if target in compiled]
    fitting = max(0, room // (len(_GAP) + _TARGET))
    return _Columns(devices, tuple(series), tuple(targets[:fitting]), tuple(targets[fitting:]), variant)


_TIME, _RATIO, _TARGET, _ULP = 11, 5, 8, 5


def _block(part: pd.DataFrame, columns: _Columns, width: int) -> list[str]:
    first = part.iloc[0]
    unit, scale = time_unit(_smallest(part, columns.series))
    lines = textwrap.wrap(_heading(first), width, subsequent_indent="    ")
    lines.append(_cut(_header(part, columns, unit), width))
    devices = columns.devices or (None,)
    for _, mine in part.groupby("variant", sort=False):
        for device in devices:
            label = ("* " if bool(first_true(mine["baseline"])) else "  ") + str(mine["variant"].iloc[0])
            label += f" @{device}" if len(devices) > 1 else ""
            lines.append(_cut(_line(label, mine, device, columns, scale), width))
        lines += _troubles(mine, width)
    return lines


def first_true(values: pd.Series) -> bool:
    return bool(values.fillna(False).astype(bool).any())


def _heading(row: pd.Series) -> str:
    words = [row["operator"], row["pass"], row["context"], f"{row['shape']} {row['layout']}", row["dtype"]]
    if row["param_dtype"] != row["dtype"]:
        words[-1] += f" ({row['param_dtype']} parameters)"
    words += [row[name] for name in ("options", "model") if isinstance(row[name], str) and row[name]]
    return " · ".join(str(word) for word in words if word != "alone")


def _header(part: pd.DataFrame, columns: _Columns, unit: str) -> str:
    cells = ["".ljust(columns.variant)]
    cells += [f"{name.split('_')[1]} {unit}".rjust(_TIME) for name in columns.series]
    cells += ["÷base".rjust(_RATIO)] if columns.series else []
    cells += [target[:_TARGET].rjust(_TARGET) for target in columns.targets]
    cells += ["ulp".rjust(_ULP)] if part["max_ulp"].notna().any() else []
    return _GAP.join(cells)


def _line(label: str, mine: pd.DataFrame, device: str | None, columns: _Columns, scale: float) -> str:
    here = mine[mine["target"] == device] if device is not None else mine
    row = here.iloc[0] if len(here) else mine.iloc[0]
    cells = [_shorten(label, columns.variant).ljust(columns.variant)]
    cells += [_time(row, name, scale).rjust(_TIME) for name in columns.series]
    if columns.series:
        shown = [row[f"{name}_ratio"] for name in columns.series if pd.notna(row[f"{name}_ratio"])]
        cells.append((relative(float(shown[0])) if shown else "").rjust(_RATIO))
    cells += [_target(mine[mine["target"] == target]).rjust(_TARGET) for target in columns.targets]
    errors = here["max_ulp"].dropna() if device is not None else mine["max_ulp"].dropna()
    cells.append((digits(float(errors.max()), 2) if len(errors) else "").rjust(_ULP))
    return _GAP.join(cells).rstrip()


def _time(row: pd.Series, series: str, scale: float) -> str:
    median = row[f"{series}_median_s"]
    if pd.isna(median):
        return ""
    mark = "~" if row[f"{series}_bimodal"] is True or row[f"{series}_bimodal"] == True else ""  # noqa: E712
    return f"{mark}{digits(median / scale)} {spread(row[f'{series}_q1_s'], median, row[f'{series}_q3_s'])}"


def _target(rows: pd.DataFrame) -> str:
    if rows.empty or pd.isna(rows["launches"].iloc[0]):
        return "-"
    ratio = rows["traffic_ratio"].iloc[0]
    return f"{int(rows['launches'].iloc[0])}" + (f" {ratio:5.2f}" if pd.notna(ratio) else "")


def _troubles(mine: pd.DataFrame, width: int) -> list[str]:
    """A line per status that is not ok, with the targets that share it and its reason."""
    lines = []
    troubled = mine[mine["status"] != "ok"].fillna({"reason": ""})
    for (status, reason), part in troubled.groupby(["status", "reason"], sort=False):
        where = ", ".join(str(target) for target in part["target"].dropna())
        text = f"{str(status).replace('_', ' ')} on {where}" + (f": {printable(str(reason))}" if reason else "")
        lines += textwrap.wrap(text, width, initial_indent="    ", subsequent_indent="      ", max_lines=3)
    return lines


def printable(text: str) -> str:
    """One line without control characters: what a compiler says may hold any byte."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def _smallest(part: pd.DataFrame, series: tuple[str, ...]) -> float:
    values = part[[f"{name}_median_s" for name in series]].to_numpy(dtype=float)
    values = values[np.isfinite(values)]
    return float(values.min()) if values.size else 1.0


def _shorten(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _cut(line: str, width: int) -> str:
    return _shorten(line, width)


def _totals(data: Digest, width: int) -> list[str]:
    run = data.run
    state = "" if run.complete else f" ({run.info.get('status') or 'unfinished'}: not all rows are there yet)"
    lines = [*textwrap.wrap(f"run {run.run_id}{state}: {count(len(run.cases), 'case')}", width)]
    counts = status_counts(data.summary)
    counts = counts.rename(columns=lambda name: str(name).replace("_", " ")).rename_axis(index="target", columns=None)
    lines += _aligned(counts.reset_index(), width)
    lines += ["", *_overview(data, width), ""]
    for row in compile_cost(run.compiled).itertuples():
        lines.append(_cut(f"  compiling for {row.target}: {duration(row.total_s)} per case", width))
    wanted = [finding for finding in findings(data) if finding.kind in _TOLD]
    for finding in wanted:
        lines += textwrap.wrap(finding.text, width, initial_indent="- ", subsequent_indent="  ")
    return lines


_TOLD = ("fold", "noise")


def overview(data: Digest) -> pd.DataFrame:
    """A row per operator, dtype and variant, as text: number n of problems, geometric mean of the ratio to the baseline
    per timed target (wall clock), medians of launches and traffic ratio per target, and the largest error."""
    rows = data.summary
    keys = ["operator", "dtype", "variant"]
    table = pd.DataFrame({"n": rows.groupby(keys, sort=False)["problem"].nunique()})
    for target in dict.fromkeys(rows["target"].dropna()):
        mine = rows[(rows["target"] == target) & (rows["status"] == "ok")]
        groups = mine.groupby(keys, sort=False)
        for cache in CACHES:
            logs = np.log(mine[f"wall_{cache}_ratio"].astype(float)).groupby([mine[key] for key in keys], sort=False)
            table[f"{target} {cache}÷"] = np.exp(logs.mean()).map(relative, na_action="ignore")
        launches = groups["launches"].median().astype(float).map("{:g}".format, na_action="ignore")
        traffic = groups["traffic_ratio"].median().map(" {:5.2f}".format, na_action="ignore")
        table[str(target)] = launches + traffic.fillna("")
    table["ulp"] = rows.groupby(keys, sort=False)["max_ulp"].max().map(lambda ulp: digits(ulp, 2), na_action="ignore")
    return table.dropna(axis="columns", how="all").fillna("-").reset_index()


def _overview(data: Digest, width: int) -> list[str]:
    """The overview in lines, under a heading per operator."""
    table = overview(data)
    timed = [name for name in table if name.endswith("÷")]
    if len({name.split()[0] for name in timed}) == 1:
        table = table.rename(columns={name: name.split()[1] for name in timed})
    lines = _aligned(table.drop(columns="operator"), width)
    found: list[str] = []
    for number, operator in enumerate(table["operator"]):
        if number == 0 or operator != table["operator"].iloc[number - 1]:
            found.append(_cut(operator, width))
            found += lines[:1] if number == 0 else []
        found.append(lines[number + 1])
    told = (
        "Over n problems: geometric means of time ÷ baseline, medians of launches and of bytes over the minimum per "
        "target, the largest error:"
    )
    return [*textwrap.wrap(told, width), *found]


def _aligned(table: pd.DataFrame, width: int) -> list[str]:
    """The table as text, words left and figures right, its header first."""
    words = [name for name in ("target", "dtype", "variant") if name in table]
    cells = table.astype(str)
    widths = {name: max(len(name), int(cells[name].str.len().max())) for name in cells}
    lines = [list(cells), *cells.itertuples(index=False, name=None)]
    text = [
        _GAP.join(
            cell.ljust(widths[name]) if name in words else cell.rjust(widths[name])
            for name, cell in zip(cells, line, strict=True)
        )
        for line in lines
    ]
    return [_cut(f"  {line.rstrip()}", width) for line in text]
