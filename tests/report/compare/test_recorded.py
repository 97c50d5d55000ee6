"""Verdicts on pairs that are drawn from recorded CPU noise, where nothing changed: none may be FASTER or SLOWER.

How the pairs are drawn decides which noise is in them: samples anew within the same processes (what repeats within a
process); one side from each recorded run (what the machine did meanwhile); processes dealt from all runs (both, and
what differs between processes).
"""

import json
from itertools import product

import numpy as np
import pytest

from normbench.report.compare.verdict import AMBIGUOUS, FASTER, SAME, SLOWER, judge, noise_of
from tests.report.compare.recorded_noise import DATA, Recorded, dealt, recorded_runs, resampled

PAIRS = 200
RUNS = range(len(recorded_runs()))


def from_runs(run_a, run_b):
    """Draws samples anew within the processes of two recorded runs."""

    def drawn(rng):
        return tuple(
            Recorded(*({key: resampled(rng, s) for key, s in kind.items()} for kind in (run.cases, run.streaming)))
            for run in (recorded_runs()[run_a], recorded_runs()[run_b])
        )

    return drawn


def verdicts(seed, drawn, paired=False, count=PAIRS, shift=1.0):
    """Verdicts on at least `count` pairs of series; each draw of two runs is judged against its own noise."""
    rng = np.random.default_rng(seed)
    found = []
    while len(found) < count:
        a, b = drawn(rng)
        pairs = [(series, b.cases[key]) for key, series in a.cases.items() if key in b.cases]
        twins = [(series, b.streaming[key]) for key, series in a.streaming.items() if key in b.streaming]
        noise = noise_of(pairs, [] if paired else twins, paired)
        found += [judge(x, {p: v * shift for p, v in y.items()}, noise, paired=paired) for x, y in pairs]
    return found


@pytest.mark.parametrize(("run_a", "run_b"), [*product(RUNS, RUNS)])
def test_equal_programs_are_never_called_faster_or_slower(run_a, run_b):
    assert {found.verdict for found in verdicts(1, from_runs(run_a, run_b))} <= {SAME, AMBIGUOUS}


def test_nor_where_processes_are_dealt_anew():
    assert {found.verdict for found in verdicts(1, dealt, count=5 * PAIRS)} <= {SAME, AMBIGUOUS}


@pytest.mark.parametrize("run", RUNS)
def test_nor_are_variants_of_one_run(run):
    assert {found.verdict for found in verdicts(2, from_runs(run, run), paired=True)} <= {SAME, AMBIGUOUS}


@pytest.mark.parametrize("run", RUNS)
def test_a_large_shift_is_found_within_a_run_and_never_taken_for_the_opposite(run):
    found = [one.verdict for one in verdicts(3, from_runs(run, run), paired=True, shift=4.0)]
    assert found.count(SLOWER) >= len(found) // 2
    assert FASTER not in found


def test_ambiguous_ones_say_why():
    found = verdicts(4, dealt)
    assert {one.reason for one in found if one.verdict == AMBIGUOUS} <= {
        "intervals_overlap", "dispersed", "drift", "few_samples", "ranks_overlap", "bimodal", "not_timed",
    }  # fmt: skip


def test_the_data_say_where_they_come_from():
    about = json.loads(DATA.with_suffix(".json").read_text())
    assert len(about) == len(recorded_runs()) >= 2
    for run in about.values():
        assert run["environment"]["cpu_model"]
        assert run["config"]["processes"] >= 2
    assert DATA.stat().st_size < 300_000
