"""What the run found, in sentences. Each is computed from the tables, names the rows that it rests on, and is absent
where the data do not bear it."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.report.summary import NOT_RUN, Digest, series_names
from analysis.report.units import count, digits, duration, listing, relative
from normbench.schema import STATUSES

_SAME_BYTES = 0.01  # parameters folded into fewer arrays are not worth a sentence
COMPILE_STAGES = ("lower_s", "compile_s", "read_s")


@dataclass(frozen=True)
class Finding:
    """One sentence and the rows of the summary that it rests on.

    Attributes:
      kind: "status", "launches", "traffic", "speed", "fold", "error", "noise" or "cost".
      text: the sentence.
      rows: (case, target) of each row.
    """

    kind: str
    text: str
    rows: tuple[tuple[str, str], ...]


def findings(digest: Digest) -> list[Finding]:
    """All findings of a run, in the order in which a reader wants them."""
    return [finding for source in _SOURCES for finding in source(digest)]


def _finding(kind: str, text: str, rows: pd.DataFrame) -> Finding:
    return Finding(kind, text, tuple(zip(rows["case"].astype(str), rows["target"].astype(str), strict=True)))


def status_counts(summary: pd.DataFrame) -> pd.DataFrame:
    """Number of cases by target (rows) and status (columns, in the order of the schema, only those that occur)."""
    if summary.empty:
        return pd.DataFrame()
    table = pd.crosstab(summary["target"].fillna("no target"), summary["status"])
    order = [status for status in (*STATUSES, NOT_RUN) if status in table.columns]
    order += [status for status in table.columns if status not in order]
    return table.loc[list(dict.fromkeys(summary["target"].fillna("no target"))), order]


def compile_cost(compiled: pd.DataFrame) -> pd.DataFrame:
    """Mean seconds per compiled case, by target: `cases`, `lower_s`, `compile_s`, `read_s`, and their sum `total_s`."""
    done = compiled.dropna(subset=["compile_s"])
    means = done.groupby("target", sort=False)[list(COMPILE_STAGES)].mean()
    means.insert(0, "cases", done.groupby("target", sort=False)["case"].nunique())
    means["total_s"] = means[list(COMPILE_STAGES)].sum(axis=1)
    return means.reset_index()


def paired_with_baseline(rows: pd.DataFrame, column: str) -> Iterator[tuple[str, str, str, str, pd.DataFrame]]:
    """For every target, operator and variant but the baseline: (target, operator, variant, baseline, frame), where the
    frame has the variant's rows of problems of which both have `column`, and the baseline's value in `reference`."""
    known = rows[rows[column].notna() & (rows["status"] == "ok")]
    base = known[known["baseline"].fillna(False).astype(bool)]
    base = base[["target", "problem", "variant", column]].rename(columns={"variant": "base", column: "reference"})
    paired = known[~known["baseline"].fillna(False).astype(bool)].merge(base, on=["target", "problem"])
    for (target, operator, variant), part in paired.groupby(["target", "operator", "variant"], sort=False):
        yield target, operator, variant, str(part["base"].iloc[0]), part


def _status(digest: Digest) -> Iterator[Finding]:
    for target, row in status_counts(digest.summary).iterrows():
        words = [f"{number:,} {str(status).replace('_', ' ')}" for status, number in row.items() if number]
        rows = digest.summary[digest.summary["target"] == target]
        troubled = rows[rows["status"] != "ok"]
        text = f"On {target}, of {count(int(row.sum()), 'case')} {listing(words)}."
        yield _finding("status", text, troubled if len(troubled) else rows)


def _launches(digest: Digest) -> Iterator[Finding]:
    for target, operator, variant, base, part in paired_with_baseline(digest.summary, "launches"):
        saved = (part["reference"] - part["launches"]).astype(int)
        for word, changed in (("fewer", saved > 0), ("more", saved < 0)):
            if changed.any():
                amount = saved[changed].abs()
                text = (
                    f"On {target}, {variant} {operator} makes {_range(amount)} {word} "
                    f"{'launch' if amount.max() == 1 else 'launches'} than {base} in {_of(changed, 'problem')}."
                )
                yield _finding("launches", text, part[changed])


def _traffic(digest: Digest) -> Iterator[Finding]:
    known = digest.summary[digest.summary["traffic_ratio"].notna() & (digest.summary["status"] == "ok")]
    for (target, operator), part in known.groupby(["target", "operator"], sort=False):
        medians = part.groupby("variant", sort=False)["traffic_ratio"].median()
        words = [f"{variant} {value:.2f}" for variant, value in medians.items()]
        text = f"On {target}, {operator} moves, over the minimum bytes (median over problems): {listing(words)}."
        yield _finding("traffic", text, part)
    for target, operator, variant, base, part in paired_with_baseline(digest.summary, "bytes"):
        factor = part["bytes"] / part["reference"]
        for word, changed in (("fewer", factor < 1 - _SAME_BYTES), ("more", factor > 1 + _SAME_BYTES)):
            if changed.any():
                text = (
                    f"On {target}, {variant} {operator} moves {word} bytes than {base} in {_of(changed, 'problem')} "
                    f"({relative(float(factor[changed].median()))} times as many in the median of these)."
                )
                yield _finding("traffic", text, part[changed])


def _speed(digest: Digest) -> Iterator[Finding]:
    for name in series_names():
        clock, cache = name.split("_")
        for target, operator, variant, base, part in paired_with_baseline(digest.summary, f"{name}_ratio"):
            faster, slower = part[f"{name}_ratio_high"] < 1, part[f"{name}_ratio_low"] > 1
            mean = float(np.exp(np.log(part[f"{name}_ratio"].astype(float)).mean()))
            text = (
                f"On {target} ({clock} clock, {cache} cache), {variant} {operator} is faster than {base} in "
                f"{_of(faster, 'problem')} and slower in {int(slower.sum())}, by intervals that exclude 1; "
                f"it takes {relative(mean)} times as long in the geometric mean."
            )
            yield _finding("speed", text, part)


def _fold(digest: Digest) -> Iterator[Finding]:
    paid = digest.break_even.merge(digest.summary[["case", "operator", "variant"]].drop_duplicates(), on="case")
    for (device, operator, variant, clock, cache), part in paid.groupby(
        ["device", "operator", "variant", "clock", "cache"], sort=False
    ):
        pays = part["certain"] & part["calls"].notna()
        loses = part["certain"] & part["calls"].isna()
        text = f"On {device} ({clock} clock, {cache} cache), the work ahead of {variant} {operator} "
        if pays.any():
            calls = part.loc[pays, "calls"]
            text += f"has paid after {_range(calls)} calls (median {float(calls.median()):g}) in {_of(pays, 'problem')}"
        else:
            text += f"is not seen to pay in any of {count(len(part), 'problem')}"
        text += f"; the call is slower than the baseline's in {int(loses.sum())}" if loses.any() else ""
        unclear = int((~part["certain"]).sum())
        text += f"; the difference is within the noise in {unclear}" if unclear else ""
        yield _finding("fold", f"{text}.", part.rename(columns={"device": "target"}))


def _error(digest: Digest) -> Iterator[Finding]:
    known = digest.summary[digest.summary["max_ulp"].notna()]
    for (target, operator), part in known.groupby(["target", "operator"], sort=False):
        worst = part.groupby("variant", sort=False)["max_ulp"].max()
        words = [f"{variant} {digits(float(value))}" for variant, value in worst.items()]
        text = f"On {target}, the largest error of {operator} against the float64 reference, in ulp: {listing(words)}."
        yield _finding("error", text, part.loc[part.groupby("variant", sort=False)["max_ulp"].idxmax()])


def _noise(digest: Digest) -> Iterator[Finding]:
    timed = digest.statistics[digest.statistics["n"] > 0].rename(columns={"device": "target"})
    bimodal = timed[timed["bimodal"]]
    if len(bimodal):
        text = f"{len(bimodal):,} of {count(len(timed), 'series', 'series')} of samples fall into two groups"
        yield _finding("noise", f"{text}: their medians depend on chance.", bimodal)
    apart = timed[(timed["processes"] > 1) & (timed["process_spread"] > 0.1)]
    if len(apart):
        several = int((timed["processes"] > 1).sum())
        text = (
            f"In {len(apart):,} of {count(several, 'series', 'series')} timed by several processes, the medians of the "
            f"processes differ by more than 10 %."
        )
        yield _finding("noise", text, apart)


def _cost(digest: Digest) -> Iterator[Finding]:
    for row in compile_cost(digest.run.compiled).itertuples():
        text = (
            f"Compiling for {row.target} took {duration(row.total_s)} per case on average over "
            f"{count(row.cases, 'case')} (lowering {duration(row.lower_s)}, compiling {duration(row.compile_s)}, "
            f"reading the program {duration(row.read_s)})."
        )
        rows = digest.run.compiled
        yield _finding("cost", text, rows[(rows["target"] == row.target) & rows["compile_s"].notna()])


def _of(mask: pd.Series, noun: str) -> str:
    return f"{int(mask.sum()):,} of {count(len(mask), noun)}"


def _range(values: pd.Series) -> str:
    low, high = int(values.min()), int(values.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


_SOURCES = (_status, _launches, _traffic, _speed, _fold, _error, _noise, _cost)
