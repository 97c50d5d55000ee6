"""The atlas: for every target, operator, layout and pass, which variant moves the fewest bytes, and which is fastest.

A group is what shares target, operator, layout, pass, context, dtype and parameter dtype; its problems differ in shape
and options. Within a group, variants are compared by medians over its problems, and only those compete that were
compiled (or timed) for as many problems as any other: a variant that refuses the hard ones must not win by that.
"""

from dataclasses import dataclass, replace

import pandas as pd

from normbench.display.units import relative
from normbench.schema import CACHES

GROUP = ["operator", "layout", "pass", "context", "dtype", "param_dtype"]
"""What a row of the atlas is made for, beside its target."""

_SHORT = {"float16": "f16", "bfloat16": "bf16", "float32": "f32", "float64": "f64"}
_ORDER = ["bfloat16", "float16", "float32", "float64"]


@dataclass(frozen=True)
class AtlasRow:
    """A group as it is shown; targets for which everything in it is the same share a row.

    Attributes:
      targets: for which the row holds.
      group: values of `GROUP`, by name.
      says_parameters: whether the parameter dtype tells groups of this run apart.
      label: layout, pass, context and dtypes in a few words.
      n: number of problems that were compiled.
      timed: number of problems that were timed.
      cells: by variant: median launches and traffic ratio, e.g. "2 1.51", with "of k" where it has fewer problems.
      best: variants with the fewest bytes, then the fewest launches; several where they tie.
      fastest: a sentence about measured time; empty where fewer than two variants were timed.
    """

    targets: tuple[str, ...]
    group: dict[str, str]
    says_parameters: bool
    label: str
    n: int
    timed: int
    cells: dict[str, str]
    best: tuple[str, ...]
    fastest: str


def atlas(summary: pd.DataFrame) -> pd.DataFrame:
    """A row per target, group and variant. Cases whose result is wrong, on whatever device, are left out.

    Columns: `target`, those of `GROUP`, `variant`; `n` problems with a traffic ratio; medians over them of `launches`
    and `traffic_ratio`; `best` (see `_best`); `timed` problems; `series` ("wall_cold", or "wall_warm" for a target
    without cold times); `time_ratio`, `time_low`, `time_high`: medians over problems of the time over the baseline's
    and of the bounds of its 95 % interval, so that they hold the median of the true ratios wherever all intervals hold
    their own; `fastest` and `not_told_apart` (see `_fastest`).
    """
    rows = summary[~summary["case"].isin(summary.loc[summary["status"] == "wrong", "case"])]
    parts = [_of_target(part) for _, part in rows.groupby("target", sort=False)]
    table = pd.concat(parts, ignore_index=True) if parts else _of_target(rows)
    places = {dtype: place for place, dtype in enumerate(_ORDER)}
    operators = {name: place for place, name in enumerate(dict.fromkeys(summary["operator"]))}
    table["_dtype"] = table["dtype"].map(places).fillna(len(places)).astype(float)
    table["_operator"] = table["operator"].map(operators).astype(float)
    ordered = table.sort_values(["_operator", "_dtype"], kind="stable")
    return ordered.drop(columns=["_dtype", "_operator"]).reset_index(drop=True)


def _of_target(rows: pd.DataFrame) -> pd.DataFrame:
    series = next((f"wall_{cache}" for cache in CACHES if rows[f"wall_{cache}_ratio"].notna().any()), "wall_cold")
    columns = ["traffic_ratio", "launches", *(f"{series}_{name}" for name in ("ratio", "ratio_low", "ratio_high"))]
    values = rows[columns].astype("float64").where(rows["launches"].notna() | rows[f"{series}_ratio"].notna())
    groups = pd.concat([rows[["target", *GROUP, "variant"]], values], axis=1).groupby(
        ["target", *GROUP, "variant"], sort=False, dropna=False
    )
    counts, medians = groups.count(), groups.median()
    table = pd.DataFrame(
        {
            "n": counts["traffic_ratio"],
            "launches": medians["launches"],
            "traffic_ratio": medians["traffic_ratio"],
            "timed": counts[f"{series}_ratio"],
            "series": series,
            "time_ratio": medians[f"{series}_ratio"],
            "time_low": medians[f"{series}_ratio_low"],
            "time_high": medians[f"{series}_ratio_high"],
        }
    ).reset_index()
    table = table[(table["n"] > 0) | (table["timed"] > 0)]
    by_group = [table[name] for name in GROUP]
    table["best"] = _best(table, by_group)
    table["fastest"], table["not_told_apart"] = _fastest(table, by_group)
    return table


def _least(values: pd.Series, by_group: list[pd.Series]) -> pd.Series:
    return values.groupby(by_group, sort=False, dropna=False).transform("min")


def _most(values: pd.Series, by_group: list[pd.Series]) -> pd.Series:
    return values.groupby(by_group, sort=False, dropna=False).transform("max")


def _best(table: pd.DataFrame, by_group: list[pd.Series]) -> pd.Series:
    """True for the variants with the lowest traffic ratio, as shown with two decimals, and of these the fewest
    launches, among those that were compiled for the most problems of the group."""
    competes = (table["n"] > 0) & (table["n"] == _most(table["n"], by_group))
    ratio = table["traffic_ratio"].round(2).where(competes)
    leanest = competes & (ratio == _least(ratio, by_group))
    launches = table["launches"].where(leanest)
    return leanest & (launches == _least(launches, by_group))


def _fastest(table: pd.DataFrame, by_group: list[pd.Series]) -> tuple[pd.Series, pd.Series]:
    """True for the variant with the lowest median time ratio among those timed for the most problems, and for those
    whose interval overlaps its interval; all false where fewer than two variants were timed."""
    competes = (table["timed"] > 0) & (table["timed"] == _most(table["timed"], by_group))
    competes &= competes.groupby(by_group, sort=False, dropna=False).transform("sum") > 1
    times = table["time_ratio"].where(competes)
    fastest = competes & (times == _least(times, by_group))
    fastest &= fastest.groupby(by_group, sort=False, dropna=False).cumsum() == 1  # of equals, one
    limit = _most(table["time_high"].where(fastest), by_group)
    return fastest, competes & ~fastest & (table["time_low"] <= limit)


def atlas_rows(table: pd.DataFrame) -> list[AtlasRow]:
    """The atlas as it is shown in text, in the order of `table`."""
    same: dict[tuple, list[str]] = {}
    made: dict[tuple, AtlasRow] = {}
    ambiguous = _groups_that_differ_in_parameters_only(table)
    for key, part in table.groupby([*GROUP, "target"], sort=False, dropna=False):
        group, target = dict(zip(GROUP, map(str, key[:-1]), strict=True)), str(key[-1])
        row = _row(part, group, key[:-2] in ambiguous)
        content = (*key[:-1], row.n, tuple(row.cells.items()), row.best, row.fastest)
        made.setdefault(content, row)
        same.setdefault(content, []).append(target)
    return [replace(row, targets=tuple(same[content])) for content, row in made.items()]


def group_label(group: dict[str, str], with_parameters: bool = False) -> str:
    """nchw forward bf16, silu: a group in a few words, its operator and target left out."""
    dtype = _SHORT.get(group["dtype"], group["dtype"])
    if with_parameters:
        dtype += f"/{_SHORT.get(group['param_dtype'], group['param_dtype'])}"
    context = f", {group['context']}" if group["context"] not in ("alone", "") else ""
    return f"{group['layout']} {group['pass'].replace('forward_backward', 'fwd+bwd')} {dtype}{context}"


def _groups_that_differ_in_parameters_only(table: pd.DataFrame) -> set[tuple]:
    kinds = table[GROUP].drop_duplicates()
    repeated = kinds[kinds.duplicated(GROUP[:-1], keep=False)]
    return set(repeated[GROUP[:-1]].itertuples(index=False, name=None))


def _row(part: pd.DataFrame, group: dict[str, str], says_parameters: bool) -> AtlasRow:
    label = group_label(group, says_parameters)
    n = int(part["n"].max())
    cells = {str(row.variant): _cell(row, n) for row in part.itertuples() if row.n}
    best = tuple(map(str, part.loc[part["best"], "variant"]))
    return AtlasRow((), group, says_parameters, label, n, int(part["timed"].max()), cells, best, _fastest_words(part))


def _cell(row, n: int) -> str:
    fewer = f" of {row.n}" if row.n < n else ""
    return f"{row.launches:g} {row.traffic_ratio:.2f}{fewer}"


def _fastest_words(part: pd.DataFrame) -> str:
    """one_pass 0.81 (0.79 to 0.83), not told apart from pivoted 0.82 (0.80 to 0.84)."""
    if not part["fastest"].any():
        return ""
    words = _timed(part[part["fastest"]])
    others = _timed(part[part["not_told_apart"]].sort_values("time_ratio", kind="stable"))
    return ", ".join(words) + (f"; not told apart from {', '.join(others)}" if others else "")


def _timed(rows: pd.DataFrame) -> list[str]:
    return [
        str(row.variant)
        if row.time_low == row.time_high == 1.0
        else f"{row.variant} {relative(row.time_ratio)} ({relative(row.time_low)} to {relative(row.time_high)})"
        for row in rows.itertuples()
    ]
