"""The times of two runs side by side: a verdict for each series, against the noise that the runs themselves show."""

from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import pandas as pd

from normbench.report.compare.verdict import AMBIGUOUS, FASTER, SLOWER, Noise, Samples, Sides, judge, noise_of
from normbench.report.data.frames import Run, is_ok
from normbench.report.findings.noise_floor import noise_floors

_TIMED = ("case", "device", "clock", "cache")
_PLACE = _TIMED[1:]
Row = dict[str, Any]
Series = dict[tuple, Samples]
"""By case, device, clock and cache."""


def compared_times(
    a: Run, b: Run, threshold: float, paired: bool, same_environment: bool
) -> tuple[list[Row], list[Row]]:
    """A row per series with its verdict, and a row per device, clock and cache with its noise.

    Args:
      paired: whether A and B are two variants of one run.
      same_environment: whether a program that is the same in both may be expected to take the same time.
    """
    series = _series(a), _series(b)
    identical = _identical(a, b) if same_environment else set()
    noise = dict(_noise(a, b, series, identical, paired))
    rows = []
    for key in dict.fromkeys((*series[0], *series[1])):
        if key[0] not in set(a.cases["case"]) & set(b.cases["case"]):
            continue
        sides = series[0].get(key, {}), series[1].get(key, {})
        found = asdict(judge(*sides, noise[key[1:]], threshold, paired))
        if found["verdict"] in (FASTER, SLOWER) and key[:2] in identical:
            found |= {"verdict": AMBIGUOUS, "reason": "same_program"}
        rows.append({**dict(zip(_TIMED, key, strict=True)), **found, **_sizes(sides)})
    _say_where_clocks_differ(rows)
    floors = [{**dict(zip(_PLACE, place, strict=True)), **asdict(found)} for place, found in noise.items()]
    return rows, floors


def _series(run: Run) -> Series:
    """Seconds by process; empty for a series that could not be timed."""
    calls = run.timings[run.timings["stage"] == "call"]
    found: Series = {}
    for key, group in calls.groupby(list(_TIMED), sort=False, observed=True):
        good = group[group["seconds"].notna() & is_ok(group["status"])]
        found[key] = _by_process(good)
    return found


def _by_process(rows: pd.DataFrame) -> Samples:
    parts = rows.groupby(rows["process"].fillna(0))["seconds"]
    return {int(process): seconds.to_numpy() for process, seconds in parts}


def _identical(a: Run, b: Run) -> set[tuple[str, str]]:
    """Case and device where the compiler made the same program in both."""
    columns = ["case", "target", "hlo_sha256"]
    known = a.compiled[columns].dropna().merge(b.compiled[columns].dropna(), on=columns)
    return set(zip(known["case"], known["target"], strict=True))


def _noise(
    a: Run, b: Run, series: tuple[Series, Series], identical: set[tuple[str, str]], paired: bool
) -> Iterator[tuple[tuple, Noise]]:
    """By device, clock and cache."""
    ceilings = {} if paired else _ceilings(a, b)
    floors = [noise_floors(run) for run in (a, b)]
    for place in dict.fromkeys(key[1:] for side in series for key in side):
        pairs = {key: (own, series[1].get(key, {})) for key, own in series[0].items() if key[1:] == place}
        twins = [pair for key, pair in pairs.items() if key[:2] in identical]
        found = noise_of(pairs.values(), twins + ceilings.get(place[:2], []), paired)
        yield place, replace(found, floor=max(floor.get(place, 0.0) for floor in floors))


def _ceilings(a: Run, b: Run) -> dict[tuple, list[Sides]]:
    """The streaming programs of both runs, by device and clock: the same program at any time, of any commit."""
    found: dict[tuple, list[Sides]] = {}
    sides = [dict(list(run.ceilings.groupby(["device", "program", "cache", "bytes"]))) for run in (a, b)]
    for key, rows in sides[0].items():
        if key in sides[1]:
            clock = key[1].rpartition(", ")[2] if ", " in key[1] else "wall"
            found.setdefault((key[0], clock), []).append((_by_process(rows), _by_process(sides[1][key])))
    return found


def _sizes(sides: Sides) -> Row:
    row: Row = {}
    for side, values in zip("ab", sides, strict=True):
        row[f"median_{side}_s"] = _median(values)
        row[f"samples_{side}"] = sum(map(len, values.values()))
        row[f"processes_{side}"] = len(values)
    return row


def _median(samples: Samples) -> float | None:
    return float(pd.concat([pd.Series(values) for values in samples.values()]).median()) if samples else None


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
