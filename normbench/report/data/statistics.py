"""What the samples say: medians with their spread, ratios to the baseline, and when a fold has paid.

Every statistic uses all samples; those flagged as outliers are counted, not dropped. Clocks and caches are never mixed.
"""

import math
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import pandas as pd

from normbench.report.data.frames import is_ok

SERIES = ["case", "device", "stage", "clock", "cache"]
"""What one series of samples is measured for."""

_CALLS = ["case", "device", "clock", "cache"]
COMPARED = ["problem", "device", "clock", "cache"]
"""Series of calls that agree in these are compared with the baseline."""

_STATISTICS = {
    **dict.fromkeys(SERIES, "string"),
    **dict.fromkeys(["median_s", "q1_s", "q3_s", "minimum_s"], "float64"),
    **dict.fromkeys(["n", "outliers", "processes"], "int64"),
    "process_spread": "float64",
    "bimodal": "bool",
    "status": "string",
    "reason": "string",
}
_DRAWS = 400
_SEED = 20_240_501
_MIN_BIMODAL_SAMPLES = 10
_MIN_MODE_SHARE = 0.15
_MIN_MODE_RATIO = 1.1
_MIN_EXPLAINED = 0.85


def time_statistics(timings: pd.DataFrame) -> pd.DataFrame:
    """A row per case, device, stage, clock and cache.

    Columns: `median_s`, `q1_s`, `q3_s`, `minimum_s`, `n` samples, `processes`, `outliers`, `process_spread` (slowest
    over fastest process median, minus 1), `bimodal`, and `status` and `reason`: the first that is not ok, if any.
    A series that could not be timed has a row without numbers.
    """
    if timings.empty:  # pandas cannot take quantiles of no groups
        return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in _STATISTICS.items()})
    series = _numbers(timings[SERIES])
    groups = timings.groupby(series)
    seconds = groups["seconds"]
    by_process = timings["seconds"].dropna().groupby([series, timings["process"]], dropna=False).median()
    levels = by_process.groupby(level=0)
    troubled = timings.loc[~is_ok(timings["status"]), ["status", "reason"]].astype("string").groupby(series)
    table = (
        timings.loc[~series.duplicated(), SERIES]
        .reset_index(drop=True)
        .assign(
            median_s=seconds.median(),
            q1_s=seconds.quantile(0.25),
            q3_s=seconds.quantile(0.75),
            minimum_s=seconds.min(),
            n=seconds.count(),
            outliers=groups["outlier"].sum(),
            processes=levels.count().reindex(range(len(seconds)), fill_value=0),
            process_spread=levels.max() / levels.min() - 1,
            bimodal=[is_bimodal(part) for part in _parts(timings["seconds"], series)],
            status=troubled["status"].first(),
            reason=troubled["reason"].first(),
        )
    )
    return table.fillna({"status": "ok"}).astype(_STATISTICS)


def is_bimodal(seconds: np.ndarray) -> bool:
    """True where the samples fall into two groups: the best cut of their logarithms explains most of the variance
    (a uniform distribution reaches 0.75, a normal one 0.64), neither group is a handful, and their centres differ
    by more than a tenth."""
    values = np.sort(np.log(seconds[seconds > 0]))
    n = len(values)
    if n < _MIN_BIMODAL_SAMPLES or values[-1] - values[0] <= math.log(_MIN_MODE_RATIO):
        return False
    total = np.sum((values - values.mean()) ** 2)
    sizes = np.arange(1, n)
    lower = np.cumsum(values)[:-1]
    means = lower / sizes, (values.sum() - lower) / (n - sizes)
    between = sizes * (n - sizes) / n * (means[1] - means[0]) ** 2
    cut = int(np.argmax(between))
    share = min(sizes[cut], n - sizes[cut]) / n
    apart = _middle(values[cut + 1 :]) - _middle(values[: cut + 1])
    separate = apart > math.log(_MIN_MODE_RATIO) and between[cut] > _MIN_EXPLAINED * total
    return bool(separate and share >= _MIN_MODE_SHARE)


def ratios(timings: pd.DataFrame, cases: pd.DataFrame) -> pd.DataFrame:
    """A row per case, device, clock and cache that has a timed baseline of the same problem.

    Columns: `case`, `problem`, `device`, `clock`, `cache`, `baseline_case`, `ratio` (time over the baseline's time:
    below 1 is faster), and its 95 % bootstrap interval `ratio_low`, `ratio_high`.

    The ratio is the median over processes of the ratio of the two medians within the process, because variants of one
    problem are interleaved within a process; processes that timed only one of the two are left out, unless none timed
    both.
    """
    ok = timings["seconds"].notna() & is_ok(timings["status"])
    calls = timings.loc[ok & (timings["stage"] == "call"), [*_CALLS, "process", "seconds"]].dropna(subset=_CALLS)
    samples = _samples(calls)
    known = cases.drop_duplicates("case").set_index("case")[["problem", "baseline"]]
    known["baseline"] = known["baseline"].fillna(False).astype(bool)
    series = calls[[*_CALLS]].drop_duplicates().join(known, on="case", how="inner")
    baselines: dict[tuple, list[str]] = {}
    for key, case, baseline in _keyed(series):
        baselines.setdefault(key, []).extend([case] if baseline else [])
    rows = []
    for key, case, _ in _keyed(series):
        if len(baselines[key]) != 1:
            continue
        base = baselines[key][0]
        pair = samples[(case, *key[1:])], samples[(base, *key[1:])]
        value, low, high = ratio(*pair) if case != base else (1.0, 1.0, 1.0)
        rows.append((case, *key, base, value, low, high))
    columns = ["case", *COMPARED, "baseline_case", "ratio", "ratio_low", "ratio_high"]
    return pd.DataFrame(rows, columns=columns)


def _keyed(series: pd.DataFrame) -> Iterator[tuple[tuple, str, bool]]:
    """For each series what it is compared by, its case, and whether that is the baseline."""
    keys = series[COMPARED].itertuples(index=False, name=None)
    return zip(keys, series["case"], series["baseline"], strict=True)


def _samples(calls: pd.DataFrame) -> dict[tuple, dict[int, np.ndarray]]:
    """Seconds by process, by case, device, clock and cache."""
    calls = calls.assign(process=calls["process"].fillna(0))
    keys = [*_CALLS, "process"]
    parts = _parts(calls["seconds"], _numbers(calls[keys]))
    samples: dict[tuple, dict[int, np.ndarray]] = {}
    distinct = calls[keys].drop_duplicates()
    for (*key, process), seconds in zip(distinct.itertuples(index=False, name=None), parts, strict=True):
        samples.setdefault(tuple(key), {})[int(process)] = np.sort(seconds)
    return samples


def _numbers(keys: pd.DataFrame) -> pd.Series:
    """Of each row the number of its group, 0, 1, ..., in the order in which the groups appear."""
    return keys.groupby(list(keys), sort=False, dropna=False, observed=True).ngroup()


def _parts(values: pd.Series, numbers: pd.Series) -> list[np.ndarray]:
    """Values by the number of their group, 0, 1, ...; many times faster than iterating over a pandas groupby."""
    order = np.argsort(numbers.to_numpy(), kind="stable")
    ends = np.flatnonzero(np.diff(numbers.to_numpy()[order])) + 1
    return np.split(values.to_numpy()[order], ends) if len(values) else []


def ratio(own: dict[int, np.ndarray], baseline: dict[int, np.ndarray]) -> tuple[float, float, float]:
    """Median over processes of own time over baseline time, with the bounds of its 95 % bootstrap interval.

    Args:
      own, baseline: sorted samples in seconds, by process.
    """
    processes = sorted(own.keys() & baseline.keys())
    pairs = [(own[p], baseline[p]) for p in processes] or [
        (np.sort(np.concatenate([*own.values()])), np.sort(np.concatenate([*baseline.values()])))
    ]
    value = float(_middle(sorted(_middle(a) / _middle(b) for a, b in pairs)))
    drawn = np.empty((len(pairs), _DRAWS))
    for place, (a, b) in enumerate(pairs):
        drawn[place] = _medians(a, 2 * place) / _medians(b, 2 * place + 1)
    chosen = np.sort(np.take_along_axis(drawn, _chosen(len(pairs)), axis=0), axis=0)
    medians = np.sort((chosen[(len(pairs) - 1) // 2] + chosen[len(pairs) // 2]) / 2)
    low, high = np.interp([0.025 * (_DRAWS - 1), 0.975 * (_DRAWS - 1)], np.arange(_DRAWS), medians)
    return value, min(value, float(low)), max(value, float(high))


def _middle(ordered: np.ndarray | list[float]) -> float:
    """The median of sorted numbers."""
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def _medians(samples: np.ndarray, stream: int) -> np.ndarray:
    """Medians of bootstrap resamples: the median of n draws lies at a quantile that is Beta((n+1)/2, (n+1)/2)."""
    return np.interp(_places(len(samples), stream), np.arange(len(samples)), samples)


@lru_cache(maxsize=1024)
def _places(n: int, stream: int) -> np.ndarray:
    """Where in n sorted samples the medians of resamples lie. Every ratio may use the same draws, but the two sides of
    one ratio, and its processes, must not: each has its own stream."""
    half = (n + 1) / 2
    return np.random.default_rng((_SEED, n, stream)).beta(half, half, _DRAWS) * (n - 1)


@lru_cache(maxsize=64)
def _chosen(processes: int) -> np.ndarray:
    """Processes of each bootstrap resample."""
    return np.random.default_rng((_SEED, processes)).integers(0, processes, (processes, _DRAWS))


def break_even(statistics: pd.DataFrame, compared: pd.DataFrame) -> pd.DataFrame:
    """A row per case with a timed stage "prepare" and a ratio: after how many calls the work done ahead has paid.

    Columns: `case`, `problem`, `device`, `clock`, `cache`, `prepare_s`, `saved_s` (per call, against the baseline;
    negative where it is slower), `calls` (prepare over saved, rounded up; null where it never pays), `certain` (the
    interval of the ratio excludes 1).

    Args:
      statistics: of `time_statistics`.
      compared: of `ratios`.
    """
    ok = statistics[(statistics["status"] == "ok") & statistics["median_s"].notna()]
    prepare = ok[ok["stage"] == "prepare"].rename(columns={"median_s": "prepare_s"})
    prepare = prepare.sort_values("clock", key=lambda clock: clock != "wall", kind="stable")
    by_cache = prepare.drop_duplicates(["case", "device", "cache"])[["case", "device", "cache", "prepare_s"]]
    by_device = prepare.drop_duplicates(["case", "device"])[["case", "device", "prepare_s"]]
    calls = ok[ok["stage"] == "call"].rename(columns={"case": "baseline_case", "median_s": "baseline_s"})
    paid = compared.merge(by_cache, on=["case", "device", "cache"], how="left")
    paid = paid.merge(by_device, on=["case", "device"], how="inner", suffixes=("", "_any"))
    paid = paid.merge(calls[["baseline_case", "device", "clock", "cache", "baseline_s"]], how="left")
    paid["prepare_s"] = paid["prepare_s"].fillna(paid["prepare_s_any"])
    paid["saved_s"] = paid["baseline_s"] * (1 - paid["ratio"])
    paid["calls"] = np.ceil(paid["prepare_s"] / paid["saved_s"].where(paid["saved_s"] > 0))
    paid["certain"] = (paid["ratio_low"] > 1) | (paid["ratio_high"] < 1)
    return paid[["case", *COMPARED, "prepare_s", "saved_s", "calls", "certain"]].astype({"calls": "Int64"})
