"""Killed workers and killed studies cost time, and no row."""

import time

import pandas as pd
import pytest

from normbench.run_folder import check_run
from tests.study.schedule.kills import begin, carry_to_the_end, rows

LONGEST_S = 10.0
"""Between two kills: on an idle machine a study takes about as long, and on a busy one nobody waits for more."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """target -> the rows of a study that nobody disturbs, and how long it takes."""
    found = {}

    def of(target):
        if target not in found:
            out = tmp_path_factory.mktemp("undisturbed")
            began_s = time.monotonic()
            assert begin(out, target).wait() == 0
            found[target] = rows(next(out.glob("[!.]*"))), time.monotonic() - began_s
        return found[target]

    return of


def disturb(tmp_path, target, worker_kills, study_kills, seed, undisturbed):
    expected, took_s = undisturbed(target)
    run, workers, studies = carry_to_the_end(
        tmp_path / "out", target, worker_kills, study_kills, seed, min(took_s, LONGEST_S)
    )
    assert rows(run) == expected, f"{workers} workers and {studies} studies were killed, seed {seed}"
    assert check_run(run).damaged == ()
    return run, workers, studies


def test_killed_workers_and_studies_cost_no_row(tmp_path, undisturbed):
    run, workers, studies = disturb(tmp_path, "cpu", 4, 2, 1, undisturbed)
    assert workers + studies > 0
    attempts = pd.read_parquet(run / "timings.parquet")["attempts"]
    assert attempts.ge(1).all()


@pytest.mark.torture
@pytest.mark.parametrize("seed", range(2, 9))
@pytest.mark.parametrize("target", ["cpu", "h200"])
def test_200_killed_workers_and_50_killed_studies_cost_no_row(tmp_path, undisturbed, target, seed):
    """Of 14 times 15 workers and 4 studies; where a study ends before they are killed, in another."""
    workers = studies = 0
    while workers < 15 or studies < 4:
        more = 15 - workers, 4 - studies
        folder = tmp_path / f"{workers}-{studies}"
        _, more_workers, more_studies = disturb(folder, target, *more, 100 * seed + workers, undisturbed)
        workers, studies = workers + more_workers, studies + more_studies
    print(f"{target}, seed {seed}: {workers} workers and {studies} studies were killed")
