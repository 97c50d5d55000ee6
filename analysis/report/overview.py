"""The run in a few lines of text: cases by status, and a row per operator, dtype and variant."""

import textwrap

import numpy as np
import pandas as pd

from analysis.report.findings import status_counts
from analysis.report.summary import Digest
from analysis.report.units import digits, relative, shorten
from normbench.schema import CACHES


def status_lines(data: Digest, width: int) -> list[str]:
    """Number of cases by target and status."""
    counts = status_counts(data.summary)
    counts = counts.rename(columns=lambda name: str(name).replace("_", " ")).rename_axis(index="target", columns=None)
    return _aligned(counts.reset_index(), width)


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
        table[str(target)] = launches + traffic.astype(object).fillna("")
    table["ulp"] = rows.groupby(keys, sort=False)["max_ulp"].max().map(lambda ulp: digits(ulp, 2), na_action="ignore")
    return table.dropna(axis="columns", how="all").fillna("-").reset_index()


def overview_lines(data: Digest, width: int) -> list[str]:
    """The overview in lines, under a heading per operator."""
    table = overview(data)
    timed = [name for name in table if name.endswith("÷")]
    if len({name.split()[0] for name in timed}) == 1:
        table = table.rename(columns={name: name.split()[1] for name in timed})
    lines = _aligned(table.drop(columns="operator"), width)
    found: list[str] = []
    for number, operator in enumerate(table["operator"]):
        if number == 0 or operator != table["operator"].iloc[number - 1]:
            found.append(shorten(operator, width))
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
        "  ".join(
            cell.ljust(widths[name]) if name in words else cell.rjust(widths[name])
            for name, cell in zip(cells, line, strict=True)
        )
        for line in lines
    ]
    return [shorten(f"  {line.rstrip()}", width) for line in text]
