"""Sampling ends by its rule, interleaves at random, flags and never deletes."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from normbench.study.clocks.host import Sample
from normbench.study.clocks.sampling import Series, StoppingRule, interleave, outliers, relative_noise, two_modes

RULE = StoppingRule(minimum_samples=5, maximum_samples=20, relative_noise=0.01, time_limit_s=1.0)


class FakeTime:
    """Every reading is a tenth of a second after the one before."""

    def __init__(self):
        self.now_s = 0.0

    def __call__(self) -> float:
        self.now_s += 0.1
        return self.now_s


def series_of(case, values):
    values = iter(values)
    return Series(case, "call", "wall", "warm", lambda: [Sample(next(values), 1, 0)])


def test_quiet_samples_end_by_noise_after_the_minimum():
    assert RULE.reason_to_stop([1.0] * 4, 0.0) is None
    assert RULE.reason_to_stop([1.0] * 5, 0.0) == "noise"


def test_noisy_samples_end_by_number_or_by_time():
    noisy = [1.0, 2.0] * 10
    assert RULE.reason_to_stop(noisy[:10], 0.5) is None
    assert RULE.reason_to_stop(noisy, 0.5) == "max_samples"
    assert RULE.reason_to_stop(noisy[:10], 1.0) == "time"


def test_a_slow_case_still_gets_two_samples():
    assert RULE.reason_to_stop([5.0], 5.0) is None
    assert RULE.reason_to_stop([5.0, 5.0], 10.0) == "time"


def test_relative_noise_shrinks_with_the_square_root_of_the_number():
    few, many = [1.0, 2.0, 3.0] * 3, [1.0, 2.0, 3.0] * 300
    assert relative_noise(few) / relative_noise(many) == pytest.approx(10)
    assert relative_noise([1.0]) == math.inf


@given(st.lists(st.floats(1e-6, 10.0), min_size=2, max_size=50))
def test_relative_noise_does_not_depend_on_the_unit(seconds):
    scaled = [1000 * value for value in seconds]
    assert relative_noise(scaled) == pytest.approx(relative_noise(seconds), abs=1e-9)


def test_outliers_are_flagged_in_place():
    assert outliers([1.0, 1.1, 0.9, 1.0, 5.0, 1.05]) == [False, False, False, False, True, False]
    assert outliers([1.0]) == [False]


def test_interleaving_takes_every_series_to_its_end_and_stores_the_rule():
    quiet, noisy = series_of("a", [1.0] * 50), series_of("b", [1.0, 2.0] * 50)
    interleave([quiet, noisy], RULE, np.random.default_rng(0), now=FakeTime())
    assert (len(quiet.samples), quiet.stop) == (5, "noise")
    assert (len(noisy.samples), noisy.stop) == (10, "time")


def test_interleaving_visits_all_in_each_round_in_an_order_that_changes():
    order = []
    all_series = [series_of(name, [1.0] * 50) for name in "abcd"]
    interleave(all_series, RULE, np.random.default_rng(0), before=lambda one: order.append(one.case))
    rounds = ["".join(order[start : start + 4]) for start in range(0, len(order), 4)]
    assert all(sorted(one) == list("abcd") for one in rounds)
    assert len(set(rounds)) > 1


def test_the_same_seed_gives_the_same_order():
    def order(seed):
        seen = []
        many = [series_of(name, [1.0] * 50) for name in "abcdef"]
        interleave(many, RULE, np.random.default_rng(seed), before=lambda one: seen.append(one.case))
        return seen

    assert order(3) == order(3) != order(4)


def test_an_error_ends_all_series_of_its_case_and_no_other():
    def fail():
        raise ValueError("boom")

    broken = Series("a", "call", "wall", "cold", fail)
    sibling, other = series_of("a", [1.0] * 50), series_of("b", [1.0] * 50)
    interleave([broken, sibling, other], RULE, np.random.default_rng(0))
    assert isinstance(broken.error, ValueError)
    assert sibling.error is broken.error
    assert (other.error, other.stop) == (None, "noise")


def test_two_modes_are_named():
    seconds = [0.0010, 0.00101, 0.00102, 0.0072, 0.00721, 0.0071, 0.001, 0.0072]
    assert two_modes(seconds) == "bimodal: 4 of 8 samples near 1.01 ms, 4 near 7.2 ms"


@pytest.mark.parametrize("seed", range(5))
def test_one_mode_is_not_two(seed):
    rng = np.random.default_rng(seed)
    assert two_modes(rng.normal(1.0, 0.05, 60)) is None
    assert two_modes(rng.uniform(0.5, 1.5, 60)) is None
    assert two_modes([*rng.normal(1.0, 0.01, 60), 9.0]) is None  # an outlier is not a mode
    assert two_modes([1.0, 7.0]) is None
