"""Which variant to use: the one place where that is decided, for the terminal, the report and README alike.

A measured time outranks a predicted one, and that outranks bytes moved: what is compared on a target is the best that
the run knows of it, the same for all variants, and every recommendation says which. Variants compete that were
compiled, or timed, for the most problems of their group: one that refuses the hard ones must not win by that. What
computes something else (a wider output) or loses its digits where the mean is large does not compete, and is named.
The baseline stands unless another is better by more than the noise of the times, or the model's known error.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd

from normbench import kernels
from normbench.errors import UserError
from normbench.report.data.summary import Digest, clock_and_cache
from normbench.report.findings.noise_floor import ACCEPTED, noise_floors

MEASURED, PREDICTED, TRAFFIC = BASES = ("measured time", "predicted time", "bytes moved")
BY_PASS = ("operator", "pass")
"""What a recommendation is made for, beside its target."""

SERIES = ("device_kernels_cold", "device_kernels_warm", "wall_cold", "wall_warm", "pipelined_cold", "pipelined_warm")
"""The measured series, the first that a target has is taken: the device's own records before the host's clock."""

SAME_BYTES = 0.01
"""Programs whose bytes differ by less move the same: parameters that were folded into fewer arrays."""
_LARGE_MEAN, _LOST = 1e3, 100.0
_MEASURED = {series: [f"{series}_{name}" for name in ("ratio", "ratio_low", "ratio_high")] for series in SERIES}
_PREDICTED = ["predicted_s", "predicted_low_s", "predicted_high_s"]
_TIMES = [name for names in (*_MEASURED.values(), _PREDICTED) for name in names]
_COMPARED = ["case", "target", "problem", "variant", "baseline", *_TIMES, "bytes"]
"""The columns of the summary that a recommendation rests on."""


@dataclass(frozen=True)
class Contender:
    """One variant in a comparison.

    Attributes:
      variant: its name.
      ratio: its time, or bytes, over the baseline's: the geometric mean over the problems.
      low, high: what the noise of the samples, or the model's known error, leaves of it.
      reason: why it may not be recommended; empty where it may.
    """

    variant: str
    ratio: float
    low: float
    high: float
    reason: str = ""


@dataclass(frozen=True)
class Recommendation:
    """Which variant to use on a target, for what shares the values of `group`.

    Attributes:
      target: where.
      group: values of the columns that it was asked for, e.g. ("batch_norm", "forward").
      problems: how many it rests on.
      asked: how many the run has.
      basis: of `BASES`.
      series: the measured series, e.g. "wall_cold"; empty for another basis.
      baseline: the variant that ratios are over.
      chosen: the variant to use.
      alike: those that the noise or the model's error does not tell apart from the best.
      others: all others that were compared, best first; with a reason where they do not compete.
      floor: relative, what a program differs from itself by on that target; null where it was not tried.
    """

    target: str
    group: tuple[str, ...]
    problems: int
    asked: int
    basis: str
    series: str
    baseline: str
    chosen: Contender
    alike: tuple[Contender, ...]
    others: tuple[Contender, ...]
    floor: float | None

    @property
    def variant(self) -> str:
        return self.chosen.variant

    @property
    def margin(self) -> float | None:
        """By what factor the next variant that is told apart is worse; None where there is none."""
        worse = [each.ratio for each in self.others if not each.reason and each.ratio > self.chosen.ratio]
        return min(worse) / self.chosen.ratio if worse and self.chosen.ratio > 0 else None

    @property
    def passed_over(self) -> tuple[Contender, ...]:
        """What would be better, but does not compete."""
        return tuple(each for each in self.others if each.reason and each.ratio < self.chosen.low)


def recommendations(digest: Digest, by: Sequence[str] = BY_PASS) -> tuple[Recommendation, ...]:
    """One per group of the columns `by` and target, in the order of the run; none where fewer than two variants can be
    compared. Cases whose result is wrong, on whatever device, are left out."""
    return _recommendations(digest, tuple(by))


@lru_cache(maxsize=2)  # of one digest: the terminal and the page ask for the same, the atlas by its own columns
def _recommendations(digest: Digest, by: tuple[str, ...]) -> tuple[Recommendation, ...]:
    rows = digest.summary
    rows = rows[~rows["case"].isin(rows.loc[rows["status"] == "wrong", "case"])]
    rows = rows.loc[rows["target"].notna(), list(dict.fromkeys([*by, *_COMPARED]))]
    floors = noise_floors(digest.run)
    order = {target: place for place, target in enumerate(dict.fromkeys(rows["target"]))}
    found = []
    for key, part in rows.groupby(list(by), sort=False):
        targets = sorted(part.groupby("target", sort=False), key=lambda item: order[item[0]])
        made = (_recommend(str(target), tuple(map(str, key)), mine, floors) for target, mine in targets)
        found += [one for one in made if one is not None]
    return tuple(found)


def _recommend(
    target: str, group: tuple[str, ...], rows: pd.DataFrame, floors: dict[tuple[str, str, str], float]
) -> Recommendation | None:
    for basis, series, values in _known(rows):
        contenders, problems, baseline = _contenders(rows, values)
        able = [each for each in contenders if not each.reason]
        if len(contenders) < 2 or not able:
            continue
        floor = floors.get((target, *clock_and_cache(series))) if series else None
        chosen, alike = _choose(able, baseline, basis, floor)
        left = [each for each in contenders if each is not chosen and each not in alike]
        others = tuple(sorted(left, key=lambda each: each.ratio))
        asked = int(rows["problem"].nunique())
        return Recommendation(target, group, problems, asked, basis, series, baseline, chosen, alike, others, floor)
    return None


def _known(rows: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """What the run knows of a target, best first: the basis, its series, and `value`, `low`, `high` by case."""
    for series, names in _MEASURED.items():
        if rows[names[0]].notna().any():
            yield MEASURED, series, _values(rows, names)
    if rows["predicted_s"].notna().any():
        yield PREDICTED, "", _values(rows, _PREDICTED)
    if rows["bytes"].notna().any():
        yield TRAFFIC, "", _values(rows, ["bytes"] * 3)


def _values(rows: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    numbers = [rows[name].astype("float64").to_numpy(na_value=math.nan) for name in names]
    table = pd.DataFrame(dict(zip(("value", "low", "high"), numbers, strict=True)))
    for name in ("case", "problem", "variant", "baseline"):
        table[name] = rows[name].to_numpy()
    table["low"], table["high"] = table["low"].fillna(table["value"]), table["high"].fillna(table["value"])
    return table[table["value"] > 0].drop_duplicates("case")


def _contenders(rows: pd.DataFrame, values: pd.DataFrame) -> tuple[list[Contender], int, str]:
    """The variants with a value for the most problems, over those problems; and the baseline's name."""
    counts = values.groupby("variant", sort=False)["problem"].nunique()
    competing = list(counts[counts == counts.max()].index)
    columns = pd.Index(competing).get_indexer(values["variant"])
    mine, columns = values[columns >= 0], columns[columns >= 0]
    places, problems = pd.factorize(mine["problem"])
    logs = np.full((3, len(problems), len(competing)), math.nan)
    logs[:, places, columns] = np.log(mine[["low", "value", "high"]].to_numpy().T)
    logs = logs[:, ~np.isnan(logs[1]).any(axis=1)]
    common = logs.shape[1]
    if not common:
        return [], 0, ""
    bases = list(dict.fromkeys(rows.loc[rows["baseline"].fillna(False).astype(bool), "variant"]))
    baseline = next((name for name in bases if name in competing), competing[0])
    ratios = np.exp((logs - logs[1][:, [competing.index(baseline)]]).mean(axis=1)).T
    cases = mine["case"].to_numpy()
    found = []
    for column, (variant, (low, ratio, high)) in enumerate(zip(competing, ratios.tolist(), strict=True)):
        reason = next(filter(None, map(_unfit, cases[columns == column])), "")
        found.append(Contender(str(variant), ratio, low, high, reason))
    return found, common, str(baseline)


def _choose(
    able: list[Contender], baseline: str, basis: str, floor: float | None
) -> tuple[Contender, tuple[Contender, ...]]:
    """The baseline where the best is not told apart from it, else the best; and the others not told apart."""
    best = min(able, key=lambda each: (each.ratio, each.variant != baseline))
    alike = [each for each in able if each is best or not _apart(best, each, basis, floor)]
    chosen = next((each for each in alike if each.variant == baseline), best)
    return chosen, tuple(each for each in alike if each is not chosen)


def _apart(best: Contender, other: Contender, basis: str, floor: float | None) -> bool:
    """Whether `other` is worse than the best by more than the noise, the model's error, or parameters folded."""
    if basis == TRAFFIC:
        return other.ratio > best.ratio * (1 + SAME_BYTES)
    least = max(ACCEPTED, floor or 0.0) if basis == MEASURED else 0.0
    return other.low > best.high and other.ratio > best.ratio * (1 + least)


def _unfit(slug: str) -> str:
    """Why a variant may not be recommended: it is not the same function of all data."""
    from normbench.cases.case import Case  # which imports JAX: a report is read without it until it recommends
    from normbench.kernels.registry import COMPILERS

    try:
        case = Case.from_slug(slug)
    except UserError:  # of a run by another version, which named its cases otherwise
        return ""
    if case.operator not in kernels.operators() or case.variant not in kernels.variants(case.operator, COMPILERS):
        return ""
    variant = kernels.get(case.operator, case.variant)
    baseline = kernels.get(case.operator, kernels.variants(case.operator)[0])
    if variant.output_dtype(case.problem) != baseline.output_dtype(case.problem):
        return "its output is wider than x"
    if variant.excess(case.problem, _LARGE_MEAN) >= _LOST:
        return "it loses its digits where the mean is large beside the deviation"
    return ""
