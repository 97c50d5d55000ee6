"""Studies in a process of their own, and workers and studies killed at random moments."""

import math
import os
import random
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parents[3]
SCRIPT = """
import sys
from pathlib import Path
from normbench.cases.case import Case
from normbench.kernels import Problem
from normbench.study.schedule.study import Resumption, Stopped, StudyConfig, resume, study

out, target, run = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
problems = [Problem("batch_norm", (2, 4), "nc"), Problem("batch_norm", (8,), "c", "bfloat16")]
cases = tuple(Case(problem, name) for problem in problems for name in ("naive", "pallas_triton"))
try:
    if run:
        resume(Path(run[0]), Resumption(quiet=True))
    else:
        processes = 2 if target == "cpu" else 1
        study(StudyConfig.for_preset("smoke", cases=cases, targets=(target,), out=out, processes=processes, quiet=True))
except Stopped as stopped:
    print(f"stopped: {stopped}", file=sys.stderr)
    sys.exit(3)
"""
KEYS = {
    "cases": ["case"],
    "compiled": ["case", "target", "status", "launches", "hlo_sha256"],
    "launches": ["case", "target", "index", "name", "kind", "read_bytes", "write_bytes"],
    "accuracy": ["case", "device", "status", "max_abs", "max_rel", "max_ulp"],
    "timings": ["case", "device", "stage", "clock", "cache", "process", "status"],
    "ceilings": ["device", "program", "cache", "bytes", "process"],
    "launch_times": ["case", "device", "name", "status"],
}
"""Columns of each table that do not depend on how long anything took."""
SAMPLED = ("timings", "ceilings", "launch_times")
"""A row per sample: how many there are is left to the noise."""


def begin(out: Path, target: str, run: Path | None = None) -> subprocess.Popen:
    words = [sys.executable, "-c", SCRIPT, str(out), target, *([str(run)] if run else [])]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(words, cwd=ROOT, env=variables, stderr=subprocess.PIPE, text=True)


def rows(run: Path) -> dict[str, list[tuple[str, ...]]]:
    """The rows of each table by `KEYS`, each once; fails where a row or a sample is there twice."""
    found = {}
    for name, columns in KEYS.items():
        table = pd.read_parquet(run / f"{name}.parquet")
        plain = table[columns].astype(object).fillna("").map(str)
        if name in SAMPLED:
            timed = table.dropna(subset=["seconds"])
            assert not timed.duplicated([*columns, "sample"]).any(), f"a sample of {name} is there twice"
        else:
            assert not plain.duplicated().any(), f"a row of {name} is there twice"
        found[name] = sorted(set(plain.itertuples(index=False, name=None)))
    return found


def workers_of(parent: int) -> list[int]:
    """Process numbers of the workers that a study has started."""
    listed = subprocess.run(
        ["ps", "-ww", "-eo", "pid,args"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    ours = [line for line in listed if "normbench.study.worker.main" in line and f"--parent={parent}" in line]
    return [int(line.split()[0]) for line in ours]


def carry_to_the_end(
    out: Path, target: str, worker_kills: int, study_kills: int, seed: int, longest_s: float
) -> tuple[Path, int, int]:
    """A study that is killed, or its workers, at random moments, and resumed until it is done: its folder, and how
    many workers and studies were killed.

    The moments are as often within a tenth of a second of the last as within the next second, or ten, up to
    `longest_s`: a worker is killed while it starts, compiles and measures.
    """
    generator = random.Random(seed)
    workers = studies = 0
    run = None
    for _ in range(10 + 2 * (worker_kills + study_kills)):
        study = begin(out, target, run)
        while study.poll() is None and (workers < worker_kills or studies < study_kills):
            with suppress(subprocess.TimeoutExpired):
                study.wait(math.exp(generator.uniform(math.log(0.05), math.log(longest_s))))
            if study.poll() is None and generator.randrange(worker_kills + study_kills) < study_kills:
                studies += kill(study.pid, signal.SIGKILL) if studies < study_kills else 0
                study.wait()
            elif study.poll() is None and workers < worker_kills:
                numbers = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM)
                workers += sum(kill(worker, generator.choice(numbers)) for worker in workers_of(study.pid)[:1])
        _, errors = study.communicate(timeout=600)
        run = next((one for one in out.glob("[!.]*")), None)
        if study.returncode == 0:
            assert run is not None
            return run, workers, studies
        assert study.returncode in (3, -signal.SIGKILL), errors
    raise AssertionError("the study does not end")


def kill(process: int, number: int) -> bool:
    """Whether there was such a process to kill."""
    with suppress(ProcessLookupError):
        os.kill(process, number)
        return True
    return False
