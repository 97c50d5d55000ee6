"""The run in one wide frame: a row per case and target, with what was compiled, measured and checked there."""

import json
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pandas as pd

from normbench.report.data.atlas import atlas
from normbench.report.data.frames import Run
from normbench.report.data.statistics import break_even, ratios, time_statistics
from normbench.schema import CACHES, CLOCKS, DEVICE_CLOCKS

NOT_RUN = "not run"
"""The status of a case of which the run holds no row for a target: an unfinished run."""

_COMPILED = [
    "launches",
    "bytes",
    "minimum_bytes",
    "streaming_minimum_bytes",
    "traffic_ratio",
    "xla_bytes",
    "flops",
    "peak_bytes",
    "lower_s",
    "compile_s",
    "read_s",
    "bytes_s",
    "predicted_s",
    "predicted_low_s",
    "predicted_high_s",
    "hints",
    "hlo_sha256",
]
_ACCURACY = ["max_abs", "max_rel", "max_ulp", "ulp_dtype"]
_SERIES = ["median_s", "q1_s", "q3_s", "minimum_s", "n", "processes", "process_spread", "bimodal"]


@dataclass(frozen=True, eq=False)
class Digest:
    """A run with everything that is computed from it once and shown in several places.

    Attributes:
      run: the run.
      statistics: of `time_statistics`.
      ratios: of `ratios`.
      break_even: of `break_even`.
      summary: of `summary`.
      atlas: of `atlas`.
    """

    run: Run
    statistics: pd.DataFrame
    ratios: pd.DataFrame
    break_even: pd.DataFrame
    summary: pd.DataFrame
    atlas: pd.DataFrame


@lru_cache(maxsize=1)
def digest(run: Run) -> Digest:
    """Computes the statistics of a run; the terminal and the report ask for the same."""
    statistics = time_statistics(run.timings)
    compared = ratios(run.timings, run.cases)
    paid = break_even(statistics, compared)
    table = _summary(run, statistics, compared, paid)
    return Digest(run, statistics, compared, paid, table, atlas(table))


def summary(run: Run) -> pd.DataFrame:
    """A row per case and target (the device that a case was timed on counts as a target).

    Columns: those of the table `cases`; `target`; those of `compiled`; `max_abs`, `max_rel`, `max_ulp`, `ulp_dtype`;
    per clock and cache `wall_cold_median_s`, `wall_cold_q1_s`, `..._q3_s`, `..._minimum_s`, `..._n`, `..._processes`,
    `..._process_spread`, `..._bimodal`, `..._ratio`, `..._ratio_low`, `..._ratio_high`, `..._break_even_calls`,
    `..._prepare_s`, `..._ceiling_fraction`; and `status` with `reason`: the first that is not ok, in the order
    compiled, checked, timed.
    """
    return digest(run).summary


def series_names() -> tuple[str, ...]:
    """Prefixes of the columns of timed series: wall_cold, wall_warm, ..."""
    return tuple(f"{clock}_{cache}" for clock in (*CLOCKS, *DEVICE_CLOCKS) for cache in CACHES)


def clock_and_cache(series: str) -> tuple[str, str]:
    """Of a prefix of `series_names`: "device_span_cold" is ("device_span", "cold")."""
    clock, _, cache = series.rpartition("_")
    return clock, cache


def hints(cell: object) -> list[str]:
    """The sentences of a `hints` or `refusals` cell: a JSON list, or null."""
    if not isinstance(cell, str) or not cell:
        return []
    try:
        sentences = json.loads(cell)
    except ValueError:
        return [cell]
    return [str(sentence) for sentence in sentences] if isinstance(sentences, list) else [str(sentences)]


def _summary(run: Run, statistics: pd.DataFrame, compared: pd.DataFrame, paid: pd.DataFrame) -> pd.DataFrame:
    table = _places(run)
    key = ["case", "target"]
    compiled = run.compiled.drop_duplicates(key)
    accuracy = run.accuracy.rename(columns={"device": "target"}).drop_duplicates(key)
    timed = statistics.rename(columns={"device": "target"})
    table = table.merge(compiled[[*key, *_COMPILED]], on=key, how="left")
    table = table.merge(accuracy[[*key, *_ACCURACY]], on=key, how="left")
    for name in series_names():
        table = table.merge(_series(name, timed, compared, paid), on=key, how="left")
    statuses = [frame[[*key, "status", "reason"]] for frame in (compiled, accuracy, timed)]
    return _with_ceiling_fraction(table.merge(_first_trouble(statuses), on=key, how="left"), run).assign(
        status=lambda frame: frame["status"].fillna(NOT_RUN)
    )


def _places(run: Run) -> pd.DataFrame:
    """Every case at every target of the run, and wherever else it has rows."""
    cases = run.cases.drop_duplicates("case")
    asked = cases[["case"]].merge(pd.DataFrame({"target": list(run.targets)}, dtype="string"), how="cross")
    found = [run.compiled[["case", "target"]]]
    found += [frame[["case", "device"]].rename(columns={"device": "target"}) for frame in (run.timings, run.accuracy)]
    places = pd.concat([asked, *(one.drop_duplicates().astype("string") for one in found)]).drop_duplicates()
    return cases.merge(places, on="case", how="left")


def _series(name: str, timed: pd.DataFrame, compared: pd.DataFrame, paid: pd.DataFrame) -> pd.DataFrame:
    clock, cache = clock_and_cache(name)
    key = ["case", "target"]

    def one(frame: pd.DataFrame) -> pd.DataFrame:
        return frame[(frame["clock"] == clock) & (frame["cache"] == cache)].rename(columns={"device": "target"})

    calls = one(timed[timed["stage"] == "call"])[[*key, *_SERIES]]
    calls = calls.merge(one(compared)[[*key, "ratio", "ratio_low", "ratio_high"]], on=key, how="left")
    fold = one(paid).rename(columns={"calls": "break_even_calls"})
    calls = calls.merge(fold[[*key, "prepare_s", "break_even_calls"]], on=key, how="left")
    return calls.rename(columns={column: f"{name}_{column}" for column in calls.columns if column not in key})


def _first_trouble(frames: list[pd.DataFrame]) -> pd.DataFrame:
    key = ["case", "target"]
    rows = pd.concat([frame.assign(status=frame["status"].astype("string").fillna("ok")) for frame in frames])
    rows["trouble"] = rows["status"] != "ok"
    worst = rows.sort_values("trouble", ascending=False, kind="stable").drop_duplicates(key)
    return worst[[*key, "status", "reason"]]


def _with_ceiling_fraction(table: pd.DataFrame, run: Run) -> pd.DataFrame:
    """Adds `..._ceiling_fraction`: minimum bytes per second over the rate of the fastest streaming program that the
    run timed on that host's device, with that clock and cache, in the nearest size class; null where there is none."""
    hosts = _hosts(run.timings)
    by_host = run.ceilings.groupby(run.ceilings["host"].fillna(""), sort=False)
    rates = {(host, *key): rate for host, part in by_host for key, rate in ceiling_rates(part).items()}
    places = [hosts.get(place, "") for place in zip(table["case"], table["target"], strict=True)]
    fractions = {}
    for name in series_names():
        clock, cache = clock_and_cache(name)
        if clock == "device_span":  # the ceiling has no gaps, which a span has
            clock = "device_kernels"
        columns = (places, table["target"], table["minimum_bytes"], table[f"{name}_median_s"])
        fractions[f"{name}_ceiling_fraction"] = [
            _fraction(rates.get((host, target, clock, cache)), minimum, seconds)
            for host, target, minimum, seconds in zip(*columns, strict=True)
        ]
    return pd.concat([table, pd.DataFrame(fractions, index=table.index)], axis=1)


def _hosts(timings: pd.DataFrame) -> dict[tuple[str, str], str]:
    """Where each case was timed on each device; empty for a run that does not tell."""
    told = timings.loc[timings["host"].notna(), ["case", "device", "host"]].drop_duplicates(["case", "device"])
    return dict(zip(zip(told["case"], told["device"], strict=True), told["host"], strict=True))


def ceiling_rates(ceilings: pd.DataFrame) -> dict[tuple[str, str, str], dict[int, float]]:
    """Bytes per second of the fastest streaming program (by its median), by (device, clock, cache) and size in bytes.

    A program that was timed with another clock than `wall` says so in its name: "negate, pipelined".
    """
    rows = ceilings[ceilings["seconds"].notna()]
    clocks = rows["program"].str.extract(r", (\w+)$")[0].fillna("wall").rename("clock")
    medians = rows.groupby(["device", clocks, "cache", "bytes", "program"])["seconds"].median()
    fastest = medians.groupby(level=["device", "clock", "cache", "bytes"]).min()
    rates: dict[tuple[str, str, str], dict[int, float]] = {}
    for (device, clock, cache, count), seconds in fastest.items():
        rates.setdefault((device, clock, cache), {})[int(count)] = float(count) / seconds
    return rates


def _fraction(rates: dict[int, float] | None, minimum: Any, seconds: float) -> float:
    if not rates or pd.isna(minimum) or pd.isna(seconds) or not minimum > 0:
        return float("nan")
    nearest = min(rates, key=lambda count: abs(math.log(count / minimum)))
    return float(minimum) / seconds / rates[nearest]
