"""Two runs side by side: what became slower or faster, what is fused in another way, what lost accuracy."""

import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from analysis.report.compare_verdict import DEFAULT_THRESHOLD, VERDICTS, Floor, Samples, floor_of, judge
from analysis.report.frames import Run
from analysis.report.units import digits

_TIMED = ("case", "device", "clock", "cache")
_ERROR_CHANGE = 0.1
"""Relative; results on one device are deterministic, but for the order in which threads add."""
_FACTS = ("normbench", "python", "libc", "cpu_model", "nvidia_driver")
_FACT_GROUPS = ("packages", "variables", "git")
Row = dict[str, Any]


@dataclass(frozen=True)
class Comparison:
    """What two runs differ in.

    Attributes:
      a, b: the runs' ids.
      threshold: smallest relative change of time that counts.
      times: a row per case, device, clock and cache that both runs have, with its verdict.
      fusion: a row per case and target whose program changed.
      errors: a row per case and device whose error changed.
      only_a, only_b: cases of one run.
      environment: what differs, as (name, in A, in B).
    """

    a: str
    b: str
    threshold: float
    times: tuple[Row, ...]
    fusion: tuple[Row, ...]
    errors: tuple[Row, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    environment: tuple[tuple[str, Any, Any], ...]

    def count(self, verdict: str) -> int:
        return sum(row["verdict"] == verdict for row in self.times)

    def document(self) -> dict[str, Any]:
        """For JSON; what is not known is null."""
        counts = {verdict.lower(): self.count(verdict) for verdict in VERDICTS}
        return _without_nan({**asdict(self), "counts": counts})


def compare(a: Run, b: Run, threshold: float = DEFAULT_THRESHOLD) -> Comparison:
    """Compares run B with run A, the earlier one."""
    cases_a, cases_b = list(a.cases["case"]), list(b.cases["case"])
    shared = set(cases_a) & set(cases_b)
    return Comparison(
        a.run_id,
        b.run_id,
        threshold,
        tuple(_times(a, b, shared, threshold)),
        tuple(_fusion(a, b, shared)),
        tuple(_errors(a, b, shared)),
        tuple(case for case in cases_a if case not in shared),
        tuple(case for case in cases_b if case not in shared),
        tuple(_environment(a, b)),
    )


def _times(a: Run, b: Run, shared: set[str], threshold: float) -> list[Row]:
    series_a, series_b = _series(a), _series(b)
    floors_a, floors_b = _floors(a, series_a), _floors(b, series_b)
    rows = []
    for key in dict.fromkeys((*series_a, *series_b)):
        if key[0] not in shared:
            continue
        place = key[1:]
        samples = series_a.get(key, {}), series_b.get(key, {})
        floors = floors_a.get(place, Floor()), floors_b.get(place, Floor())
        found = judge(*samples, floors, threshold)
        row = {**dict(zip(_TIMED, key, strict=True)), **asdict(found)}
        for side, values in zip("ab", samples, strict=True):
            row[f"median_{side}_s"] = _median(values)
            row[f"samples_{side}"] = sum(map(len, values.values()))
            row[f"processes_{side}"] = len(values)
        rows.append(row)
    _say_where_clocks_differ(rows)
    return rows


def _series(run: Run) -> dict[tuple, Samples]:
    """Seconds by process, by case, device, clock and cache; empty for a series that could not be timed."""
    calls = run.timings[run.timings["stage"] == "call"]
    found: dict[tuple, Samples] = {}
    for key, group in calls.groupby(list(_TIMED), sort=False):
        good = group[group["seconds"].notna() & (group["status"].fillna("ok") == "ok")]
        parts = good.groupby(good["process"].fillna(0))["seconds"]
        found[key] = {int(process): seconds.to_numpy() for process, seconds in parts}
    return found


def _median(samples: Samples) -> float | None:
    return float(pd.concat([pd.Series(values) for values in samples.values()]).median()) if samples else None


def _floors(run: Run, series: dict[tuple, Samples]) -> dict[tuple, Floor]:
    """The noise floor per device, clock and cache."""
    twins = _identical_programs(run)
    floors = {}
    for place in dict.fromkeys(key[1:] for key in series):
        own = {key[0]: samples for key, samples in series.items() if key[1:] == place and samples}
        pairs = [(own[x], own[y]) for device, x, y in twins if device == place[0] and x in own and y in own]
        floors[place] = floor_of(own.values(), pairs)
    return floors


def _identical_programs(run: Run) -> list[tuple[str, str, str]]:
    """Device and two cases of one problem that the compiler turned into the same program."""
    known = run.compiled.dropna(subset=["hlo_sha256"]).merge(run.cases[["case", "problem"]], on="case")
    twins = []
    for (target, _, _), group in known.groupby(["target", "hlo_sha256", "problem"]):
        first, *others = group["case"]
        twins += [(target, first, other) for other in others]
    return twins


def _say_where_clocks_differ(rows: list[Row]) -> None:
    """Adds `clocks`: "agree", or the verdict by each clock."""
    by_series: dict[tuple, list[Row]] = {}
    for row in rows:
        by_series.setdefault((row["case"], row["device"], row["cache"]), []).append(row)
    for group in by_series.values():
        words = {row["clock"]: row["verdict"] for row in group}
        alike = len(set(words.values())) == 1
        text = "agree" if alike else ", ".join(f"{clock} {word}" for clock, word in words.items())
        for row in group:
            row["clocks"] = text if len(words) > 1 else "one clock"


def _fusion(a: Run, b: Run, shared: set[str]) -> Iterator[Row]:
    kinds_a, kinds_b = _kinds(a), _kinds(b)
    for key, before, after in _pairs(a.compiled, b.compiled, "target", shared):
        changes = program_changes(
            {**before, "kinds": kinds_a.get(key, {})},
            {**after, "kinds": kinds_b.get(key, {})},
        )
        if changes:
            yield {"case": key[0], "target": key[1], "changes": changes}


def _kinds(run: Run) -> dict[Any, Counter]:
    return {key: Counter(group["kind"].dropna()) for key, group in run.launches.groupby(["case", "target"])}


def program_changes(before: Row, after: Row) -> list[str]:
    """Says in words how a compiled program differs: status, launches, kinds, bytes, ratio, or its text alone.

    Args:
      before, after: columns of the table "compiled", and `kinds`: launches by kind.
    """
    status = [row.get("status") or "ok" for row in (before, after)]
    if status[0] != status[1]:
        reason = after.get("reason") or before.get("reason")
        return [f"{status[0]} → {status[1]}" + (f": {reason}" if reason else "")]
    changes = []
    if _differ(before, after, "launches"):
        changes.append(f"{_number(before, 'launches')} → {_number(after, 'launches')} launches")
    if kinds := _kind_changes(before.get("kinds") or {}, after.get("kinds") or {}):
        changes.append(f"kinds: {kinds}")
    if _differ(before, after, "traffic_ratio"):
        changes.append(f"{_number(before, 'traffic_ratio')} → {_number(after, 'traffic_ratio')} × the minimum bytes")
    if _differ(before, after, "bytes"):
        changes.append(f"{_number(before, 'bytes')} → {_number(after, 'bytes')} bytes")
    if not changes and _differ(before, after, "hlo_sha256"):
        changes.append("another program with the same launches and bytes")
    return changes


def _kind_changes(before: dict[str, int], after: dict[str, int]) -> str:
    counts = {kind: (before.get(kind, 0), after.get(kind, 0)) for kind in sorted({*before, *after})}
    return ", ".join(f"{kind} {x} → {y}" for kind, (x, y) in counts.items() if x != y)


def _errors(a: Run, b: Run, shared: set[str]) -> Iterator[Row]:
    for key, before, after in _pairs(a.accuracy, b.accuracy, "device", shared):
        status = [row.get("status") or "ok" for row in (before, after)]
        ulps = before.get("max_ulp"), after.get("max_ulp")
        change = f"{status[0]} → {status[1]}" if status[0] != status[1] else _ulp_change(*ulps)
        if change:
            yield {"case": key[0], "device": key[1], "change": change, "max_ulp_a": ulps[0], "max_ulp_b": ulps[1]}


def _ulp_change(before: float | None, after: float | None) -> str:
    if before is None or after is None or abs(after - before) <= _ERROR_CHANGE * max(before, after):
        return ""
    return f"{digits(before)} → {digits(after)} ulp"


def _pairs(a: pd.DataFrame, b: pd.DataFrame, place: str, shared: set[str]) -> Iterator[tuple[tuple, Row, Row]]:
    """Rows of both tables for the same case and place, missing values as None."""
    rows_a, rows_b = (
        {(row["case"], row[place]): row for row in json.loads(table.to_json(orient="records", double_precision=15))}
        for table in (a, b)
    )
    for key, row in rows_a.items():
        if key[0] in shared and key in rows_b:
            yield key, row, rows_b[key]


def _differ(before: Row, after: Row, name: str) -> bool:
    x, y = before.get(name), after.get(name)
    if isinstance(x, float) and isinstance(y, float):
        return not math.isclose(x, y, rel_tol=1e-3)
    return x != y


def _number(row: Row, name: str) -> str:
    value = row.get(name)
    if value is None:
        return "unknown"
    return digits(value) if name == "traffic_ratio" else f"{int(value):,}"


def _environment(a: Run, b: Run) -> Iterator[tuple[str, Any, Any]]:
    left, right = _facts(a), _facts(b)
    for name in dict.fromkeys((*left, *right)):
        if left.get(name) != right.get(name):
            yield name, left.get(name), right.get(name)


def _facts(run: Run) -> dict[str, Any]:
    """What a change of time may come from, other than the kernels."""
    environment = run.info.get("environment") or {}
    facts = {name: environment.get(name) for name in _FACTS}
    for group in _FACT_GROUPS:
        for name, value in (environment.get(group) or {}).items():
            if isinstance(value, str | int | bool):
                facts[f"{group} {name}"] = value
    return {name: value for name, value in facts.items() if value is not None}


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
