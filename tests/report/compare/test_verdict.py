"""Verdicts on made-up samples with known shifts: a level per process, scatter within it, and slow outliers.

How small a shift can be found depends on the noise. At three processes of ten samples a side, 5 % is found in 95 of 100
where samples scatter by 1.2 % and process levels by 0.3 %, as here; in about 78 where samples scatter by 2 %; in about
55 where process levels differ by 0.6 % besides; and hardly ever where samples scatter by 10 %.
"""

import numpy as np
import pytest

from normbench.report.compare.verdict import AMBIGUOUS, FASTER, SAME, SLOWER, Noise, judge, noise_of

PROCESSES, SAMPLES, SERIES, TWINS = 3, 10, 20, 12
QUIET = {"within": 0.01, "between": 0.001}
STILL = {"within": 0.002, "between": 0.0005}
FAINT = {"within": 0.012, "between": 0.003}


def draw(rng, shift=1.0, within=0.03, between=0.007, processes=PROCESSES, samples=SAMPLES):
    """Seconds by process: each process has a level of its own, one sample in twenty is slow."""
    series = {}
    for process in range(processes):
        level = 1e-3 * shift * rng.lognormal(0, between)
        slow = np.where(rng.random(samples) < 0.05, rng.uniform(1.2, 3.0, samples), 1.0)
        series[process] = level * rng.lognormal(0, within, samples) * slow
    return series


def noise(rng, drift=1.0, **noise):
    """The noise of two runs of several series each; `drift` is how much slower the machine was in B."""
    pairs = [(draw(rng, **noise), draw(rng, drift, **noise)) for _ in range(SERIES)]
    return noise_of(pairs, [(draw(rng, **noise), draw(rng, drift, **noise)) for _ in range(TWINS)])


def verdicts(seed, count, shift=1.0, **kind):
    """Pairs of runs of ten series each."""
    rng = np.random.default_rng(seed)
    found = []
    for index in range(count):
        if index % 10 == 0:
            known = noise(rng, **kind)
        found.append(judge(draw(rng, **kind), draw(rng, shift, **kind), known))
    return found


@pytest.mark.parametrize("kind", [{}, {"within": 0.1}, {"between": 0.03}, QUIET, STILL])
def test_equal_programs_are_never_called_faster_or_slower(kind):
    assert {found.verdict for found in verdicts(1, 200, **kind)} <= {SAME, AMBIGUOUS}


def test_equal_programs_are_called_the_same_where_nothing_disturbs():
    """All of them, at a fifth of the threshold's noise; at a third, most; the others are not called anything else."""
    assert {found.verdict for found in verdicts(2, 100, **STILL)} == {SAME}
    quiet = [found.verdict for found in verdicts(2, 100, **QUIET)]
    assert quiet.count(SAME) >= 80
    assert set(quiet) <= {SAME, AMBIGUOUS}


@pytest.mark.parametrize(("shift", "expected"), [(1.05, SLOWER), (1 / 1.05, FASTER)])
def test_five_percent_is_found_at_thirty_samples_a_side(shift, expected):
    found = verdicts(3, 100, shift, **FAINT)
    assert [verdict.verdict for verdict in found].count(expected) >= 95
    assert all(verdict.low < verdict.change < verdict.high for verdict in found)


def test_overlapping_sides_are_ambiguous_and_say_why():
    found = verdicts(4, 100, 1.06, within=0.03, between=0.05)
    assert {verdict.verdict for verdict in found} == {AMBIGUOUS}
    assert {verdict.reason for verdict in found} <= {"intervals_overlap", "dispersed", "drift"}


def test_a_shift_below_the_threshold_is_not_a_change():
    for found in verdicts(5, 20, 1.01, **STILL):
        assert (found.verdict, found.reason) == (SAME, "within_threshold")
        assert found.change == pytest.approx(0.01, abs=0.005)


def test_what_the_machine_did_between_the_runs_is_not_blamed_on_the_program():
    rng = np.random.default_rng(6)
    slower = noise(rng, 1.2, **STILL)
    assert slower.drift == pytest.approx(np.log(1.2), abs=0.01)
    for shift in (1.2, 1.1, 1.0):
        found = judge(draw(rng, **STILL), draw(rng, shift, **STILL), slower)
        assert (found.verdict, found.reason) == (AMBIGUOUS, "drift")
    assert judge(draw(rng, **STILL), draw(rng, 1.4, **STILL), slower).verdict == SLOWER
    assert judge(draw(rng, **STILL), draw(rng, 0.9, **STILL), slower).verdict == FASTER


def test_twins_that_scatter_raise_the_bar():
    rng = np.random.default_rng(7)
    a, b = draw(rng, **STILL), draw(rng, 1.06, **STILL)
    assert judge(a, b, noise(rng, **STILL)).verdict == SLOWER
    twins = [(draw(rng, **STILL), draw(rng, shift, **STILL)) for shift in np.linspace(0.9, 1.1, TWINS)]
    scattered = noise_of([(draw(rng, **STILL), draw(rng, **STILL)) for _ in range(SERIES)], twins)
    assert judge(a, b, scattered).reason == "drift"


def test_without_twins_nothing_is_said_of_two_runs():
    rng = np.random.default_rng(8)
    alone = noise_of([(draw(rng, **STILL), draw(rng, **STILL)) for _ in range(SERIES)], [])
    for shift in (1.0, 1.5):
        found = judge(draw(rng, **STILL), draw(rng, shift, **STILL), alone)
        assert (found.verdict, found.reason) == (AMBIGUOUS, "drift_unknown")


def test_variants_of_one_process_need_no_twins():
    """The machine may drift between processes by any amount: both sides met the same."""
    rng = np.random.default_rng(9)

    def together(shift):
        levels = rng.lognormal(0, 0.3, PROCESSES)
        return tuple(
            {p: 1e-3 * s * levels[p] * rng.lognormal(0, 0.01, SAMPLES) for p in range(PROCESSES)} for s in (1, shift)
        )

    known = noise_of([together(rng.uniform(0.5, 2)) for _ in range(SERIES)], [], paired=True)
    assert {judge(*together(1.1), known, paired=True).verdict for _ in range(20)} == {SLOWER}
    assert {judge(*together(1.0), known, paired=True).verdict for _ in range(20)} <= {SAME, AMBIGUOUS}


def test_one_process_a_side_needs_other_series():
    rng = np.random.default_rng(10)
    one = {"processes": 1, "samples": 30, **STILL}
    a, b = draw(rng, **one), draw(rng, 1.2, **one)
    assert judge(a, b, Noise()).reason == "one_process"
    assert judge(a, b, noise(rng, **STILL)).verdict == SLOWER


def test_series_that_scatter_differently_are_worth_few_degrees_of_freedom():
    rng = np.random.default_rng(11)
    alike = noise_of([(draw(rng, **QUIET), draw(rng, **QUIET)) for _ in range(60)], [])
    kinds = [{"within": 0.003 * 2**k, "between": 0.001 * 2**k} for k in range(6)] * 10
    unlike = noise_of([(draw(rng, **kind), draw(rng, **kind)) for kind in kinds], [])
    assert unlike.degrees < 5 < alike.degrees


def test_few_samples_or_none_are_ambiguous():
    a = {0: np.array([1.0, 1.1]), 1: np.array([1.0, 1.2])}
    assert judge(a, a, Noise()).reason == "few_samples"
    assert judge(a, {}, Noise()).reason == "not_timed"
    assert judge(a, {2: np.ones(9)}, Noise(), paired=True).reason == "not_timed"


def test_two_groups_of_samples_are_ambiguous():
    rng = np.random.default_rng(12)
    level = np.where(np.arange(40) % 5 < 2, 1.0, 2.0)
    a = {p: level[::-1] * rng.lognormal(0, 0.005, 40) * 1e-3 for p in range(3)}
    b = {p: np.where(np.arange(40) % 5 < 3, 1.0, 2.0) * rng.lognormal(0, 0.005, 40) * 1e-3 for p in range(3)}
    found = judge(a, b, noise(rng, **STILL))
    assert (found.verdict, found.reason) == (AMBIGUOUS, "bimodal")
