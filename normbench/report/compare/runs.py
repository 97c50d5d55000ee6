"""Two runs, or two variants, side by side: what became slower or faster, is fused in another way, lost accuracy."""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import pandas as pd

from normbench.display.units import digits
from normbench.errors import unknown
from normbench.fusion.changes import launch_facts, program_changes
from normbench.report.compare.times import compared_times
from normbench.report.compare.verdict import DEFAULT_THRESHOLD, VERDICTS
from normbench.report.data.frames import Run

_ERROR_CHANGE = 0.1
"""Relative; results on one device are deterministic, but for the order in which threads add."""
_FACTS = ("normbench", "python", "libc", "cpu_model", "nvidia_driver")
_FACT_GROUPS = ("packages", "variables", "git")
_OUR_FACTS = ("normbench", "git")
"""Facts that change no program: where no other differs, the same program should take the same time."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Comparison:
    """What two runs differ in.

    Attributes:
      a, b: the runs' ids.
      threshold: smallest relative change of time that counts.
      times: a row per case, device, clock and cache that both runs have, with its verdict.
      noise: a row per device, clock and cache: how much processes differ, and how much what did not change.
      fusion: a row per case and target whose program changed.
      errors: a row per case and device whose error changed.
      only_a, only_b: cases of one run.
      environment: what differs, as (name, in A, in B).
    """

    a: str
    b: str
    threshold: float
    times: tuple[Row, ...]
    noise: tuple[Row, ...]
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
    return _compare(a, b, (a.run_id, b.run_id), threshold, paired=False)


def compare_variants(run: Run, a: str, b: str, threshold: float = DEFAULT_THRESHOLD) -> Comparison:
    """Compares two variants of one run over the problems that both answer; `case` is then the problem.

    Raises:
      UserError: for a variant that the run does not have.
    """
    sides = _of_variant(run, a), _of_variant(run, b)
    return _compare(*sides, (f"{a} of {run.run_id}", f"{b} of {run.run_id}"), threshold, paired=True)


def _of_variant(run: Run, variant: str) -> Run:
    """The rows of one variant, each case named by its problem."""
    chosen = run.cases[run.cases["variant"] == variant]
    if chosen.empty:
        raise unknown("variant of the run", variant, sorted(run.cases["variant"].dropna().unique()))
    problems = chosen.set_index("case")["problem"]
    tables = dict(run.tables)
    for name, table in run.tables.items():
        if "case" in table:
            own = table[table["case"].isin(problems.index)]
            tables[name] = own.assign(case=own["case"].map(problems))
    return replace(run, tables=tables)


def _compare(a: Run, b: Run, names: tuple[str, str], threshold: float, paired: bool) -> Comparison:
    cases_a, cases_b = list(a.cases["case"]), list(b.cases["case"])
    shared = set(cases_a) & set(cases_b)
    environment = tuple(_environment(a, b))
    same_environment = all(name.split(" ")[0] in _OUR_FACTS for name, _, _ in environment)
    times, noise = compared_times(a, b, threshold, paired, same_environment)
    return Comparison(
        *names,
        threshold,
        tuple(times),
        tuple(noise),
        tuple(_fusion(a, b, shared)),
        tuple(_errors(a, b, shared)),
        tuple(case for case in cases_a if case not in shared),
        tuple(case for case in cases_b if case not in shared),
        environment,
    )


def _fusion(a: Run, b: Run, shared: set[str]) -> Iterator[Row]:
    facts_a, facts_b = _launch_facts(a), _launch_facts(b)
    for key, before, after in _pairs(a.compiled, b.compiled, "target", shared):
        changes = program_changes(
            {**before, **facts_a.get(key, {})},
            {**after, **facts_b.get(key, {})},
        )
        if changes:
            yield {"case": key[0], "target": key[1], "changes": changes}


def _launch_facts(run: Run) -> dict[Any, dict[str, dict[str, int]]]:
    known = run.launches[run.launches["kind"].notna()][["case", "target", "kind", "ops", "refused"]]
    known = known.astype(object).where(known.notna(), None)
    return {key: launch_facts(group.to_dict("records")) for key, group in known.groupby(["case", "target"])}


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
