"""What the run found, in sentences. Each is computed from the tables, names the rows that it rests on, and is absent
where the data do not bear it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from normbench.display.units import count, digits, duration, listing, relative
from normbench.report.data.frames import Run
from normbench.report.data.summary import NOT_RUN, Digest, clock_and_cache, series_names
from normbench.report.findings.noise_floor import trust
from normbench.schema import STATUSES

_SAME_BYTES = 0.01  # parameters folded into fewer arrays are not worth a sentence


@dataclass(frozen=True)
class Finding:
    """One sentence and the rows of the summary that it rests on.

    Attributes:
      kind: "status", "launches", "traffic", "speed", "fold", "error", "noise" or "cost".
      text: the sentence.
      rows: (case, target) of each row.
      strength: how much it says, to choose among findings of one kind.
    """

    kind: str
    text: str
    rows: tuple[tuple[str, str], ...]
    strength: float = 0.0


def findings(digest: Digest, kinds: Sequence[str] | None = None) -> list[Finding]:
    """The findings of a run, of these kinds or of all, in the order in which a reader wants them."""
    return [finding for kind, source in _SOURCES if kinds is None or kind in kinds for finding in source(digest)]


def _finding(kind: str, text: str, rows: pd.DataFrame, strength: float = 0.0) -> Finding:
    places = tuple(zip(rows["case"].astype(str), rows["target"].astype(str), strict=True))
    return Finding(kind, text, places, strength)


def status_counts(summary: pd.DataFrame) -> pd.DataFrame:
    """Number of cases by target (rows) and status (columns, in the order of the schema, only those that occur)."""
    if summary.empty:
        return pd.DataFrame()
    table = pd.crosstab(summary["target"].fillna("no target"), summary["status"])
    order = [status for status in (*STATUSES, NOT_RUN) if status in table.columns]
    order += [status for status in table.columns if status not in order]
    return table.loc[list(dict.fromkeys(summary["target"].fillna("no target"))), order]


def compile_cost(run: Run) -> pd.DataFrame:
    """A row per target: `cases` compiled, their mean `lower_s`, `compile_s` and `read_s`, and `study_s`: seconds per
    case as the study recorded its cost, its processes included; null where it recorded none."""
    done = run.compiled.dropna(subset=["compile_s"])
    table = done.groupby("target", sort=False)[["lower_s", "compile_s", "read_s"]].mean()
    table.insert(0, "cases", done.groupby("target", sort=False)["case"].nunique())
    recorded = (run.info.get("cost") or {}).get("compile") or {}
    per_case = {target: (recorded.get(target) or {}).get("seconds_per_case") for target in table.index}
    table["study_s"] = pd.Series(per_case, dtype="float64")
    return table.reindex([target for target in run.targets if target in table.index]).reset_index()


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
    same: dict[str, list[str]] = {}
    for target, row in status_counts(digest.summary).iterrows():
        words = [f"{number:,} {str(status).replace('_', ' ')}" for status, number in row.items() if number]
        total = count(int(row.sum()), "case")
        alone = f"all of {total} ok" if row.get("ok") == row.sum() else f"of {total} {listing(words)}"
        same.setdefault(alone, []).append(str(target))
    for alone, targets in same.items():
        rows = digest.summary[digest.summary["target"].isin(targets)]
        troubled = rows[rows["status"] != "ok"]
        text = f"On {listing(targets)}, {alone}."
        yield _finding("status", text, troubled if len(troubled) else rows, len(troubled) / max(len(rows), 1))


def _launches(digest: Digest) -> Iterator[Finding]:
    for target, operator, variant, base, part in paired_with_baseline(digest.summary, "launches"):
        saved = (part["reference"] - part["launches"]).astype(int)
        for word, changed in (("fewer", saved > 0), ("more", saved < 0)):
            if changed.any():
                amount = _amount(saved[changed].abs(), f"{word} launch", f"{word} launches")
                text = f"On {target}, {variant} {operator} makes {amount} than {base} in {_of(changed, 'problem')}."
                strength = float(saved[changed].abs().median()) * float(changed.mean())
                yield _finding("launches", text, part[changed], strength)


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
                strength = abs(float(np.log(float(factor[changed].median())))) * len(part[changed]) ** 0.5
                yield _finding("traffic", text, part[changed], strength)


def _speed(digest: Digest) -> Iterator[Finding]:
    for name in series_names():
        clock, cache = clock_and_cache(name)
        for target, operator, variant, base, part in paired_with_baseline(digest.summary, f"{name}_ratio"):
            faster, slower = part[f"{name}_ratio_high"] < 1, part[f"{name}_ratio_low"] > 1
            mean = float(np.exp(np.log(part[f"{name}_ratio"].astype(float)).mean()))
            counts = [("faster than", faster), ("slower than", slower), ("not told apart from", ~(faster | slower))]
            words = [f"{word} {base} in {int(mask.sum()):,}" for word, mask in counts if mask.any()]
            text = (
                f"On {target} ({clock} clock, {cache} cache), {variant} {operator} is {listing(words)} of "
                f"{count(len(part), 'problem')} (95 % intervals); its time over that of {base} is {relative(mean)} in "
                f"the geometric mean."
            )
            strength = abs(float(np.log(mean))) * float((faster | slower).mean()) * len(part) ** 0.5
            yield _finding("speed", text, part, strength)


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
            median = float(calls.median())
            text += f"has paid after {_amount(calls, 'call')} (median {median:g}) in {_of(pays, 'problem')}"
        else:
            text += f"is not seen to pay in any of {count(len(part), 'problem')}"
        text += f"; the call is slower than the baseline's in {int(loses.sum())}" if loses.any() else ""
        unclear = int((~part["certain"]).sum())
        text += f"; the difference is within the noise in {unclear}" if unclear else ""
        yield _finding("fold", f"{text}.", part.rename(columns={"device": "target"}), float(part["certain"].mean()))


def _error(digest: Digest) -> Iterator[Finding]:
    """A sentence per dtype in whose spacing the errors are told: an ulp of bfloat16 is 65536 of float32."""
    known = digest.summary[digest.summary["max_ulp"].notna()]
    known = known.assign(unit=known["ulp_dtype"].fillna(known["dtype"]))  # a run of before told no dtype
    for (target, operator, unit), part in known.groupby(["target", "operator", "unit"], sort=False):
        is_wrong = part["status"] == "wrong"  # its error says nothing but that
        right = part[~is_wrong].groupby("variant", sort=False)["max_ulp"]
        worst, failed = right.max(), part[is_wrong].value_counts("variant")
        words = [f"{variant} {digits(float(value))}" for variant, value in worst.items()]
        words += [f"{variant} wrong in {count(number, 'problem')}" for variant, number in failed.items()]
        text = (
            f"On {target}, the largest error of {operator} against the float64 reference, in ulp of {unit}: "
            f"{listing(words)}."
        )
        rows = pd.concat([part.loc[right.idxmax()], part[is_wrong]])
        yield _finding("error", text, rows, float(worst.max()) if len(worst) else float("inf"))


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


def _trust(digest: Digest) -> Iterator[Finding]:
    """The noise floor by the A/A test, what the device was held back by, and how else its clocks were read."""
    for text, places, strength in trust(digest.run):
        yield Finding("noise", text, tuple(places), strength)


def _identical(digest: Digest) -> Iterator[Finding]:
    """Programs that are the baseline's own, byte for byte: how far their ratio is from 1 is what the noise can do."""
    rows = digest.summary
    base = rows[rows["baseline"].fillna(False).astype(bool) & rows["hlo_sha256"].notna()]
    base = base[["target", "problem", "hlo_sha256"]]
    others = rows[~rows["baseline"].fillna(False).astype(bool)].merge(base, on=["target", "problem", "hlo_sha256"])
    for name in series_names():
        clock, cache = clock_and_cache(name)
        for target, part in others[others[f"{name}_ratio"].notna()].groupby("target", sort=False):
            low, high = (relative(float(bound)) for bound in (part[f"{name}_ratio"].min(), part[f"{name}_ratio"].max()))
            text = (
                f"On {target} ({clock} clock, {cache} cache), {count(len(part), 'case')} compiled to the very program "
                f"of the baseline, yet measured {low}{f' to {high}' if low != high else ''} times its time: the "
                f"distance from 1 is noise."
            )
            yield _finding("noise", text, part)


def _cost(digest: Digest) -> Iterator[Finding]:
    for row in compile_cost(digest.run).itertuples():
        if pd.isna(row.study_s):
            continue
        text = (
            f"Compiling for {row.target} took {duration(row.study_s)} of the study's time per case, on average over "
            f"{count(row.cases, 'case')}, with starting the processes and reading the programs."
        )
        compiled = digest.run.compiled
        yield _finding("cost", text, compiled[compiled["target"] == row.target])


def _of(mask: pd.Series, noun: str) -> str:
    return f"{int(mask.sum()):,} of {count(len(mask), noun)}"


def _amount(values: pd.Series, noun: str, plural: str | None = None) -> str:
    """1 call, 3 calls, 1 to 3 calls."""
    low, high = int(values.min()), int(values.max())
    return count(high, noun, plural) if low == high else f"{low:,} to {count(high, noun, plural)}"


_SOURCES = (
    ("status", _status),
    ("launches", _launches),
    ("traffic", _traffic),
    ("speed", _speed),
    ("fold", _fold),
    ("error", _error),
    ("noise", _trust),
    ("noise", _identical),
    ("noise", _noise),
    ("cost", _cost),
)
