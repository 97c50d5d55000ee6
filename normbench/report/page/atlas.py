"""The atlas: one table of every operator's variants, with switches for target, pass, dtype and measure.

What it shows is made here, as rows for `atlas.js`; the mark of a row is the recommendation for just that row.
"""

import math
from typing import Any

import pandas as pd

from normbench.report.data.atlas import GROUP
from normbench.report.data.recommendation import (
    BASES,
    MEASURED,
    PREDICTED,
    SERIES,
    TRAFFIC,
    recommendations,
)
from normbench.report.data.summary import Digest

MEASURES = (
    ("time", "measured time ÷ baseline"),
    ("predicted", "predicted time ÷ baseline"),
    ("traffic", "bytes ÷ minimum bytes"),
    ("launches", "launches"),
    ("error", "largest error, ulp"),
)
"""What can be shown, the most telling first."""
_OF_BASIS = {MEASURED: "time", PREDICTED: "predicted", TRAFFIC: "traffic"}

SECTION = """
<p>Medians over the n problems of a row (of errors the largest), in brackets over how many where a variant has fewer.
<strong class="use">★</strong> is the variant to use for that row: by measured time where there is one, else by
predicted time, else by bytes, as the second column says; ~2: two others are as good, within the noise or the model's
error. The more orange, the further above the baseline or the minimum.
</p>
<form id="switches" class="switches" aria-label="What the atlas shows"></form>
<p id="atlas-key" role="status" aria-live="polite"></p>
<div class="scroll" tabindex="0" role="group" aria-label="Atlas"><table id="grid" class="atlas"></table></div>
<noscript><p>The atlas needs JavaScript; the Parquet files of the run hold the same.</p></noscript>
"""


def atlas_section(rows: dict[str, Any]) -> str:
    """The section's body; says so where nothing was compiled or timed."""
    return SECTION if rows["rows"] else "<p>No case was compiled.</p>"


def atlas_data(data: Digest) -> dict[str, Any]:
    """What the atlas shows.

    Returns: `targets`, `passes`, `dtypes`; `measures` as [name, words]; `rows`, each [target, pass, dtype, operator,
    layout, context, problems, variant to use, basis, ties, [[variant, problems, values by measure], ...]].
    """
    rows = data.summary[~data.summary["case"].isin(data.summary.loc[data.summary["status"] == "wrong", "case"])]
    values = _values(rows)
    told = {(one.target, *one.group): one for one in recommendations(data, GROUP)}
    both = values[["dtype", "param_dtype"]].drop_duplicates()
    ambiguous = set(both.loc[both["dtype"].duplicated(keep=False), "dtype"])
    made = []
    for key, part in values.groupby(["target", *GROUP], sort=False, dropna=False):
        target, operator, layout, pass_, context, dtype, param_dtype = map(str, key)
        one = told.get(tuple(map(str, key)))
        shown = f"{dtype} ({param_dtype} parameters)" if dtype in ambiguous else dtype
        cells = [
            [str(row["variant"]), int(row["n"]), [_plain(row[name]) for name, _ in MEASURES]]
            for row in part.to_dict("records")
        ]
        use = [one.variant, _OF_BASIS[one.basis], [each.variant for each in one.alike]] if one else ["", "", []]
        made.append([target, pass_, shown, operator, layout, context, int(part["n"].max()), *use, cells])
    return {
        "targets": list(dict.fromkeys(row[0] for row in made)),
        "passes": [name for name in ("forward", "backward", "forward_backward") if any(row[1] == name for row in made)],
        "dtypes": sorted({row[2] for row in made}),
        "measures": [list(each) for each in MEASURES],
        "bases": {_OF_BASIS[basis]: basis.split()[0] for basis in BASES},
        "rows": made,
    }


def _values(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per target, group and variant: `n` problems that were compiled or timed, and a column per measure."""
    table = rows[["target", "problem", *GROUP, "variant"]].assign(
        time=_first_series(rows),
        predicted=_over_baseline(rows, "predicted_s"),
        traffic=rows["traffic_ratio"].astype("float64"),
        launches=rows["launches"].astype("float64"),
        error=rows["max_ulp"].astype("float64"),
    )
    names = [name for name, _ in MEASURES]
    table = table[table[names].notna().any(axis=1) & table["target"].notna()]
    groups = table.groupby(["target", *GROUP, "variant"], sort=False, dropna=False)
    found = groups[names].median()
    found["error"] = groups["error"].max()
    found["n"] = groups["problem"].nunique()
    return found.reset_index()


def _first_series(rows: pd.DataFrame) -> pd.Series:
    """Time over the baseline's, of the first measured series that a target has."""
    found = pd.Series(math.nan, index=rows.index, dtype="float64")
    for _, part in rows.groupby("target", sort=False):
        name = next((name for name in SERIES if part[f"{name}_ratio"].notna().any()), None)
        if name is not None:
            found[part.index] = part[f"{name}_ratio"].astype("float64")
    return found


def _over_baseline(rows: pd.DataFrame, column: str) -> pd.Series:
    base = rows[rows["baseline"].fillna(False).astype(bool) & rows[column].notna()]
    base = base.drop_duplicates(["target", "problem"]).set_index(["target", "problem"])[column].astype("float64")
    keys = pd.MultiIndex.from_frame(rows[["target", "problem"]])
    return rows[column].astype("float64") / base.reindex(keys).to_numpy()


def _plain(value: float) -> float | str | None:
    if pd.isna(value):
        return None
    return float(f"{value:.5g}") if math.isfinite(value) else "inf"
