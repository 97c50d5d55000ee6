"""A study that is killed at any moment and resumed ends with the rows of an undisturbed one."""

import random
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from normbench.study.schedule.study import resume

ROOT = Path(__file__).parents[3]

# Smallest study with several units, two processes, and cases that are not timed.
SCRIPT = """
import sys
from pathlib import Path
from normbench.cases.case import Case
from normbench.study.schedule.study import StudyConfig, study
from normbench.kernels import Problem

problems = [Problem("batch_norm", (2, 4), "nc"), Problem("batch_norm", (8,), "c", "bfloat16")]
cases = tuple(Case(problem, name) for problem in problems for name in ("naive", "pallas_triton"))
study(StudyConfig.for_preset("smoke", cases=cases, targets=("cpu",), out=Path(sys.argv[1]), processes=2))
"""
KEYS = {
    "cases": ["case"],
    "compiled": ["case", "target", "status", "launches", "hlo_sha256"],
    "launches": ["case", "target", "index"],
    "accuracy": ["case", "device", "status"],
    "timings": ["case", "device", "stage", "clock", "cache", "process"],
}


def begin(out):
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(out)], cwd=ROOT, stderr=subprocess.DEVNULL)


def keys(run):
    """Row keys by table; timings only once for all the samples of a series, whose number is left to the noise."""
    tables = {name: pd.read_parquet(run / f"{name}.parquet") for name in KEYS}
    rows = {name: tables[name][columns].astype(object).fillna("").values.tolist() for name, columns in KEYS.items()}
    unique = {name: sorted({tuple(map(str, row)) for row in found}) for name, found in rows.items()}
    assert all(len(unique[name]) == len(rows[name]) for name in KEYS if name != "timings"), "a row is there twice"
    samples = tables["timings"].dropna(subset=["seconds"])
    assert not samples.duplicated([*KEYS["timings"], "sample"]).any(), "a sample is there twice"
    return unique


def parts(out):
    return len(list(out.glob("[!.]*/parts/*.json.zst")))


def kill_when(child, out, ready, delay_s=0.0):
    """Kills the study without warning `delay_s` after `ready` says so; returns the folder of the run."""
    while not ready() and child.poll() is None:
        time.sleep(0.01)
    time.sleep(delay_s)
    child.kill()
    child.wait()
    return next(out.glob("[!.]*"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed")
    assert begin(out).wait() == 0
    return keys(next(out.glob("[!.]*")))


def test_a_killed_study_leaves_no_worker_and_is_resumed_to_the_same_rows(tmp_path, undisturbed):
    child = begin(tmp_path)
    finished, delay_s = random.randint(1, 4), random.uniform(0, 1)
    run = kill_when(child, tmp_path, lambda: parts(tmp_path) >= finished, delay_s)
    deadline_s = time.monotonic() + 30
    while (left := children_of_dead(child.pid)) and time.monotonic() < deadline_s:
        time.sleep(0.1)
    assert not left
    assert keys(resume(run)) == undisturbed, f"killed {delay_s:.2f} s after part {finished}"


def children_of_dead(parent):
    """Workers that were started by a process that is gone: their command line names it."""
    found = subprocess.run(["ps", "-ww", "-eo", "args"], capture_output=True, text=True, check=True).stdout.splitlines()
    return [line for line in found if "normbench.study.worker.main" in line and f"--parent={parent}" in line]


def test_resuming_goes_on_after_being_killed_itself(tmp_path, undisturbed):
    run = kill_when(begin(tmp_path), tmp_path, lambda: parts(tmp_path) >= 1)
    script = (
        "import sys; from pathlib import Path; "
        "from normbench.study.schedule.study import resume; resume(Path(sys.argv[1]))"
    )
    again = subprocess.Popen([sys.executable, "-c", script, str(run)], cwd=ROOT, stderr=subprocess.DEVNULL)
    kill_when(again, tmp_path, lambda: parts(tmp_path) >= 3)
    assert keys(resume(run)) == undisturbed
