"""How far off is each variant, by dtype, and how far may it be?"""

from typing import Any

import numpy as np
import pandas as pd

from normbench.display.units import digits
from normbench.report.data.frames import Run

KEYS = ["device", "operator", "dtype", "variant"]
VOID = "void"
"""What a variant declares that holds nothing on hard data."""
TITLE = (
    "Accuracy by dtype: the case nearest to its bound, its relative error and what that may be, and the same on hard "
    "data (a mean far above the deviation), where the bound is what the variant declares. The bounds follow from the "
    "dtypes, the sums and the data of each case."
)


def accuracy_table(run: Run) -> pd.DataFrame:
    """A row per device, operator, dtype and variant that was checked, as text.

    Columns: those of `KEYS`; `n` cases; `ulp`, the largest error of those that are right, in units of `of`, the dtype
    of the first output; `error` and `bound`, `hard` and `declared`: relative errors and what they may be, of the case
    in which the one is nearest to the other; `wrong`, the number of cases that are.
    """
    known = run.accuracy[run.accuracy["max_rel"].notna() | (run.accuracy["status"] == "wrong")]
    rows = known.merge(run.cases[["case", "operator", "dtype", "variant"]].drop_duplicates("case"), on="case")
    found = [dict(zip(KEYS, key, strict=True)) | _row(part) for key, part in rows.groupby(KEYS, sort=False)]
    return pd.DataFrame(found, columns=[*KEYS, "n", "ulp", "of", "error", "bound", "hard", "declared", "wrong"])


def _row(part: pd.DataFrame) -> dict[str, str]:
    right = part[part["status"] != "wrong"]
    error, bound = _nearest(right, "max_rel", "bound")
    hard, declared = _nearest(right, "hard_max_rel", "hard_bound")
    units = [str(unit) for unit in right["ulp_dtype"].dropna().unique()]
    wrong = len(part) - len(right)
    return {
        "n": str(len(part)),
        "ulp": digits(float(right["max_ulp"].max()), 2) if len(units) == 1 else "-",
        "of": units[0] if len(units) == 1 else "-",
        "error": _figure(error),
        "bound": _figure(bound),
        "hard": _figure(hard),
        "declared": VOID
        if np.isfinite(bound) and np.isfinite(hard) and not np.isfinite(declared)
        else _figure(declared),
        "wrong": str(wrong) if wrong else "-",
    }


def _nearest(rows: pd.DataFrame, error: str, bound: str) -> tuple[float, float]:
    """The error of the case that uses most of its bound, and the bound; one without a bound uses none of it."""
    known = rows[rows[error].notna()]
    if known.empty:
        return np.nan, np.nan
    limits = known[bound].astype(float)
    shares = (known[error] / limits.where(limits > 0)).fillna(0.0)
    first = int(np.lexsort((-known[error], -shares))[0])
    return float(known[error].iloc[first]), float(limits.iloc[first])


def _figure(value: Any) -> str:
    return f"{value:.1e}" if np.isfinite(value) else "-"
