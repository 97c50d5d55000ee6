"""Readings of a device, given as nvidia-smi writes them, and the A/A test."""

import numpy as np
import pytest

from benchmarks import throttle
from benchmarks.device_noise import floor, suspicious

CALM = "1980, 1980, 312.4, 51, 0x0000000000000000\n"
HOT = "1605, 1980, 690.1, 87, 0x0000000000000020\n"
SLOW = "900, 1980, 400.0, 60, 0x0000000000000000\n"
IDLE = "345, 1980, 70.0, 30, 0x0000000000000001\n"


def reading(line):
    return throttle.read(lambda: line)


def test_a_reading_has_units_and_reasons():
    assert reading(CALM) == throttle.Reading(1980, 1980, 312.4, 51, 0)


def test_what_is_not_told_is_absent():
    assert reading("[N/A], 1980, [N/A], 51, [N/A]").clock_mhz is None
    assert reading("") is None
    assert reading("an error") is None


@pytest.mark.parametrize(
    ("before", "after", "word"), [(CALM, HOT, "thermal"), (HOT, CALM, "thermal"), (CALM, SLOW, "clock 900")]
)
def test_throttling_is_seen_before_and_after(before, after, word):
    assert word in throttle.throttled(reading(before), reading(after))


@pytest.mark.parametrize("after", [CALM, IDLE])
def test_a_calm_or_idle_device_is_not_throttled(after):
    assert throttle.throttled(reading(CALM), reading(after)) is None


def test_a_throttled_sample_is_marked():
    rows = throttle.mark([{"seconds": 1.0}, {"status": "failed"}], reading(CALM), reading(HOT))
    assert rows == [{"seconds": 1.0, "throttled": True}, {"status": "failed"}]
    assert throttle.mark([{"seconds": 1.0}], reading(CALM), reading(CALM)) == [{"seconds": 1.0, "throttled": False}]
    assert throttle.mark([{"seconds": 1.0}], None, None) == [{"seconds": 1.0}]


def test_the_noise_floor_is_the_largest_difference_of_a_program_from_itself():
    found = floor([([1.0, 1.0], [1.01, 1.01]), ([2.0], [2.06])])
    assert found.ratio == pytest.approx(0.03)
    assert found.pairs == 2
    assert found.exceeded_by(1.0, 1.05)
    assert not found.exceeded_by(1.0, 1.02)
    assert floor([]) is None


def test_an_a_a_difference_above_what_is_accepted_is_reported():
    rng = np.random.default_rng(1)
    a = 1 + 0.001 * rng.random(50)
    assert "under two names differs by 5" in suspicious(a, 1.05 * a, accepted=0.02)
    assert suspicious(a, 1.01 * a, accepted=0.02) is None


def test_a_difference_within_the_scatter_is_not_reported():
    a, b = np.array([1.0, 1.4, 1.0, 1.4, 1.0]), np.array([1.4, 1.0, 1.4, 1.0, 1.4])
    assert suspicious(a, b, accepted=0.02) is None
