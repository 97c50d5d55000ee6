"""Killed workers and killed studies cost time, and no row."""

import pandas as pd
import pytest

from normbench.run_folder import check_run
from tests.study.schedule.kills import begin, carry_to_the_end, rows


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """target -> the rows of a study that nobody disturbs."""
    found = {}

    def of(target):
        if target not in found:
            out = tmp_path_factory.mktemp("undisturbed")
            assert begin(out, target).wait() == 0
            found[target] = rows(next(out.glob("[!.]*")))
        return found[target]

    return of


def disturb(tmp_path, target, worker_kills, study_kills, seed, undisturbed):
    run, workers, studies = carry_to_the_end(tmp_path / "out", target, worker_kills, study_kills, seed)
    assert rows(run) == undisturbed(target), f"{workers} workers and {studies} studies were killed, seed {seed}"
    assert check_run(run).damaged == ()
    return run, workers, studies


def test_killed_workers_and_studies_cost_no_row(tmp_path, undisturbed):
    run, workers, studies = disturb(tmp_path, "cpu", 4, 2, 1, undisturbed)
    assert workers + studies > 0
    attempts = pd.read_parquet(run / "timings.parquet")["attempts"]
    assert attempts.ge(1).all()


@pytest.mark.torture
@pytest.mark.parametrize("target", ["cpu", "h200"])
def test_200_killed_workers_and_50_killed_studies_cost_no_row(tmp_path, undisturbed, target):
    workers = studies = seed = 0
    while workers < 100 or studies < 25:
        seed += 1
        _, more_workers, more_studies = disturb(tmp_path / str(seed), target, 4, 1, seed, undisturbed)
        workers, studies = workers + more_workers, studies + more_studies
        print(f"{target}: {workers} workers and {studies} studies killed")
