"""Timing of calls that are no cases of a study: each in several processes, in random order, as a table of figures.

The rules are those of the study: a result is checked before it is timed, nothing compiles while the clock runs, the
order changes in every round, and the allocator is set as in the study's workers.
"""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from normbench.errors import UserError
from normbench.fusion import compile_environment
from normbench.study.clocks.host import Instruments, garbage_collection_off, pipelined, wall
from normbench.study.clocks.memory import ALLOCATOR_ENVIRONMENT, prefault
from normbench.study.clocks.sampling import Series, StoppingRule, interleave
from normbench.study.machine.environment import environment

Call = tuple[Callable[..., Any], tuple]
TIMEOUT_S = 3600
PREFAULT_BYTES = 2**29
"""More than the results and temporaries of the calls in flight, so that no call is timed with fresh pages."""


def timed(calls: Mapping[str, Call], rule: StoppingRule, burst: int, seed: int) -> list[dict[str, Any]]:
    """Returns a row per call and clock: wall, and pipelined with `burst` calls in flight.

    Columns: call, clock, median_us, low_us and high_us (the quartiles), minimum_us, samples.
    """
    instruments = Instruments()
    series = [one for name, call in calls.items() for one in _series(name, *call, burst, instruments)]
    prefault(PREFAULT_BYTES)
    with garbage_collection_off():
        interleave(series, rule, np.random.default_rng(seed))
    for one in series:
        if one.error:
            raise one.error
    return [_row(one) for one in series]


def _series(name: str, call: Callable, inputs: tuple, burst: int, instruments: Instruments) -> list[Series]:
    def walls():
        return [wall(call, inputs, instruments) for _ in range(burst)]

    def pipelines():
        return [pipelined(call, [inputs] * burst, instruments)]

    walls()
    return [
        Series(name, "call", "wall", "warm", walls),
        Series(name, "call", "pipelined", "warm", pipelines),
    ]


def _row(series: Series) -> dict[str, Any]:
    low, median, high = np.percentile(series.seconds, (25, 50, 75)) * 1e6
    figures = {"median_us": median, "low_us": low, "high_us": high, "minimum_us": min(series.seconds) * 1e6}
    rounded = {name: float(f"{value:.4g}") for name, value in figures.items()}
    return {"call": series.case, "clock": series.clock, **rounded, "samples": len(series.seconds)}


def in_processes(module: str, arguments: Sequence[str], processes: int) -> list[dict[str, Any]]:
    """Runs `python -m module --in-process ...` that many times and returns the rows that it prints, by process."""
    rows: list[dict[str, Any]] = []
    variables = {**os.environ, **compile_environment(), **ALLOCATOR_ENVIRONMENT, "JAX_PLATFORMS": "cpu"}
    for process in range(processes):
        command = [sys.executable, "-m", module, "--in-process", str(process), *arguments]
        done = subprocess.run(command, env=variables, stdout=subprocess.PIPE, text=True, timeout=TIMEOUT_S, check=False)
        if done.returncode:
            raise UserError(f"{' '.join(command[1:])} ended with {done.returncode}")
        rows += [{"process": process, **row} for row in json.loads(done.stdout.splitlines()[-1])]
    return rows


def write_csv(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    listed = list(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(listed[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(listed)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_environment(path: Path) -> None:
    """What the figures beside it were measured on, as the environment of a study's run."""
    record = environment()
    del record["command"]  # the page names it; this one names folders of the machine
    path.write_text(json.dumps(record, indent=2) + "\n")
