"""Runs of samples drawn from recorded CPU noise: see tests/data/record_noise.py."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

DATA = Path(__file__).parents[2] / "data" / "cpu_noise.parquet"
Samples = dict[int, np.ndarray]


@dataclass(frozen=True)
class Recorded:
    """One recorded run: `cases` and `streaming` hold seconds by process, by name and cache."""

    cases: dict[tuple[str, str], Samples]
    streaming: dict[tuple[str, str], Samples]


@cache
def recorded_runs() -> tuple[Recorded, ...]:
    table = pd.read_parquet(DATA)
    runs = []
    for _, run in table.groupby("run", sort=True):
        series: dict[tuple[str, str], Samples] = {}
        for (case, state, process), rows in run.groupby(["case", "cache", "process"]):
            series.setdefault((case, state), {})[int(process)] = rows["nanoseconds"].to_numpy() * 1e-9
        streaming = {key: value for key, value in series.items() if key[0].startswith("streaming.")}
        runs.append(Recorded({k: v for k, v in series.items() if k not in streaming}, streaming))
    return tuple(runs)


def resampled(rng: np.random.Generator, series: Samples, samples: int | None = None) -> Samples:
    """Samples drawn with replacement within each process."""
    return {p: rng.choice(values, samples or len(values)) for p, values in series.items()}


def dealt(rng: np.random.Generator) -> tuple[Recorded, Recorded]:
    """Two runs of two or three processes each, dealt without replacement from those of all recorded runs; samples are
    drawn anew within each."""
    runs = recorded_runs()
    places = [(run, p) for run, one in enumerate(runs) for p in sorted(set().union(*one.cases.values()))]
    order = rng.permutation(len(places))
    half = min(len(order) // 2, 3)
    return tuple(_hand(rng, runs, [places[i] for i in hand]) for hand in (order[:half], order[half : 2 * half]))


def _hand(rng: np.random.Generator, runs: tuple[Recorded, ...], places: list[tuple[int, int]]) -> Recorded:
    def of(kind: str) -> dict[tuple[str, str], Samples]:
        tables = [getattr(run, kind) for run in runs]
        return {
            key: {n: rng.choice(values, len(values)) for n, (run, p) in enumerate(places)
                  if (values := tables[run].get(key, {}).get(p)) is not None}
            for key in sorted(set.intersection(*map(set, tables)))
        }  # fmt: skip

    return Recorded(of("cases"), of("streaming"))
