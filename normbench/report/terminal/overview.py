"""The run in a few lines of text: cases by status, the atlas, and a row per operator, dtype and variant."""

import textwrap

import numpy as np
import pandas as pd

from normbench.display.units import digits, relative, shorten
from normbench.report.data.accuracy import TITLE, accuracy_table
from normbench.report.data.atlas import AtlasRow, atlas_rows
from normbench.report.data.frames import Run
from normbench.report.data.summary import Digest
from normbench.report.findings.findings import status_counts
from normbench.schema import CACHES


def status_lines(data: Digest, width: int) -> list[str]:
    """Number of cases by target and status."""
    counts = status_counts(data.summary)
    counts = counts.rename(columns=lambda name: str(name).replace("_", " ")).rename_axis(index="target", columns=None)
    return _aligned(counts.reset_index(), width)


def overview(data: Digest) -> pd.DataFrame:
    """A row per operator, pass, dtype and variant that was timed or checked, as text: number n of problems, geometric
    mean of the ratio to the baseline per timed target (wall clock), and the largest error."""
    rows = data.summary
    keys = ["operator", "pass", "dtype", "variant"]
    table = pd.DataFrame({"n": rows.groupby(keys, sort=False)["problem"].nunique()})
    for target in dict.fromkeys(rows["target"].dropna()):
        mine = rows[(rows["target"] == target) & (rows["status"] == "ok")]
        for cache in CACHES:
            logs = np.log(mine[f"wall_{cache}_ratio"].astype(float)).groupby([mine[key] for key in keys], sort=False)
            table[f"{target} {cache}÷"] = np.exp(logs.mean()).map(relative, na_action="ignore")
    ulps = {key: _ulp(part, key[2]) for key, part in rows.groupby(keys, sort=False)}
    table["ulp"] = pd.Series(ulps, index=table.index, dtype="object")
    known = table.drop(columns="n").notna()
    return table.loc[known.any(axis=1), ["n", *known.columns[known.any()]]].fillna("-").reset_index()


def accuracy_lines(run: Run, width: int) -> list[str]:
    """The table of accuracy in lines, under a heading per device and operator; none where nothing was checked."""
    table = accuracy_table(run)
    lines = textwrap.wrap(TITLE, width)
    for (device, operator), part in table.groupby(["device", "operator"], sort=False):
        lines += [shorten(f"{operator}, {device}", width)]
        lines += _aligned(part.drop(columns=["device", "operator"]).sort_values("dtype", kind="stable"), width)
    return [*lines, ""] if len(table) else []


def _ulp(rows: pd.DataFrame, dtype: str) -> str | None:
    """The largest error, with the dtype whose spacing it is told in where that is not x's; None for several."""
    known = rows[rows["max_ulp"].notna()]
    units = known["ulp_dtype"].fillna(dtype).unique()
    if len(units) != 1:
        return None
    return digits(float(known["max_ulp"].max()), 2) + (f" of {units[0]}" if units[0] != dtype else "")


def overview_lines(data: Digest, width: int) -> list[str]:
    """The overview in lines, under a heading per operator; none where nothing was timed or checked."""
    table = overview(data)
    if table.empty:
        return []
    if table["pass"].nunique() == 1:
        table = table.drop(columns="pass")
    timed = [name for name in table if name.endswith("÷")]
    if len({name.split()[0] for name in timed}) == 1:
        table = table.rename(columns={name: name.split()[1] for name in timed})
    lines = _aligned(table.drop(columns="operator"), width)
    found = textwrap.wrap("Over n problems: geometric means of time ÷ baseline, and the largest error:", width)
    for number, operator in enumerate(table["operator"]):
        if number == 0 or operator != table["operator"].iloc[number - 1]:
            found.append(shorten(operator, width))
            found += lines[:1] if number == 0 else []
        found.append(lines[number + 1])
    return [*found, ""]


def atlas_lines(data: Digest, width: int) -> list[str]:
    """The atlas: per operator a table with a line per group and a column per variant; then which is fastest."""
    rows = atlas_rows(data.atlas)
    found: list[str] = []
    for operator in dict.fromkeys(row.group["operator"] for row in rows):
        mine = [row for row in rows if row.group["operator"] == operator]
        found += [shorten(operator, width), *_matrix([row for row in mine if row.cells], width)]
        for row in mine:
            if row.fastest:
                text = f"fastest, {', '.join(row.targets)} {row.label} (n {row.timed}): {row.fastest}"
                found += textwrap.wrap(text, width, initial_indent="  ", subsequent_indent="    ")
    key = _ATLAS + (_FASTEST if any(row.fastest for row in rows) else "")
    return [*textwrap.wrap(key, width), *found, ""] if found else []


_ATLAS = (
    "Atlas: median launches and bytes over the minimum, over the n problems of a line (over k where it says so); * the "
    "fewest bytes, of these the fewest launches."
)
_FASTEST = " Fastest: median of time ÷ baseline, with its 95 % interval."


def _matrix(rows: list[AtlasRow], width: int) -> list[str]:
    """The cells of the rows side by side; variants for which the width does not suffice follow below."""
    if not rows:
        return []
    labels = [f"{row.label} · {' '.join(row.targets)}" for row in rows]
    table = pd.DataFrame({"": labels, "n": [str(row.n) for row in rows]})
    for variant in dict.fromkeys(variant for row in rows for variant in row.cells):
        table[variant] = [
            row.cells.get(variant, "-") + ("*" if variant in row.best else " " if variant in row.cells else "")
            for row in rows
        ]
    room = width - 2 - max(map(len, labels)) - 2 - max(map(len, table["n"]))
    lines: list[str] = []
    chunk: list[str] = []
    used = 0
    for variant in table.columns[2:]:
        wide = 2 + max(len(variant), int(table[variant].str.len().max()))
        if chunk and used + wide > room:
            lines += _aligned(table[["", "n", *chunk]], width)
            chunk, used = [], 0
        chunk.append(variant)
        used += wide
    return lines + _aligned(table[["", "n", *chunk]], width)


def _aligned(table: pd.DataFrame, width: int) -> list[str]:
    """The table as text, words left and figures right, its header first."""
    words = [name for name in ("", "target", "pass", "dtype", "variant", "of") if name in table]
    cells = table.astype(str)
    widths = {name: max(len(name), int(cells[name].str.len().max())) for name in cells}
    lines = [list(cells), *cells.itertuples(index=False, name=None)]
    text = [
        "  ".join(
            cell.ljust(widths[name]) if name in words else cell.rjust(widths[name])
            for name, cell in zip(cells, line, strict=True)
        )
        for line in lines
    ]
    return [shorten(f"  {line.rstrip()}", width) for line in text]
