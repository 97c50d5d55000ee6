"""Readings of a device, given as nvidia-smi writes them, or as NVML's functions would."""

from types import SimpleNamespace

import pytest

from normbench.schema import TABLES
from normbench.study.clocks import throttle
from normbench.study.machine import gpu_device

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


def test_the_readings_say_why_a_group_is_marked():
    assert throttle.held_back(reading(CALM), reading(HOT)) is True
    assert throttle.held_back(reading(CALM), reading(CALM)) is False
    assert throttle.held_back(None, None) is None
    rows = throttle.state_rows({"device": "gpu", "process": 0}, reading(CALM), reading(HOT))
    assert [(row["moment"], row["clock_mhz"], row["throttled"]) for row in rows] == [
        ("before", 1980, "software thermal slowdown"),
        ("after", 1605, "software thermal slowdown"),
    ]
    assert set(rows[0]) <= set(TABLES["device_states"])
    assert throttle.state_rows({}, None, None) == []


class FakeNvml:
    """NVML's functions, with the figures of a made-up device; 3 is NVML's "not supported"."""

    def __init__(self, power=0):
        self.power = power

    def nvmlInit_v2(self):
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index, handle):
        return 0 if index == 2 else 2

    def nvmlDeviceGetHandleByUUID(self, name, handle):
        return 0 if name == b"GPU-1" else 2

    def nvmlDeviceGetPowerUsage(self, handle, value):
        value._obj.value = 312_400
        return self.power

    def nvmlDeviceGetClockInfo(self, handle, kind, value):
        value._obj.value = 1605
        return 0

    def nvmlDeviceGetMaxClockInfo(self, handle, kind, value):
        value._obj.value = 1980
        return 0

    def nvmlDeviceGetTemperature(self, handle, sensor, value):
        value._obj.value = 51
        return 0

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle, value):
        value._obj.value = 0x20
        return 0


@pytest.mark.parametrize(("visible", "there"), [("2,0", True), ("GPU-1", True), ("0", False), ("", False)])
def test_nvml_is_asked_for_the_device_that_jax_sees_first(monkeypatch, visible, there):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    gpu_device.nvml_device.cache_clear()
    assert (gpu_device.nvml_device(lambda name: FakeNvml()) is not None) == there
    gpu_device.nvml_device.cache_clear()


def test_a_state_of_nvml_has_units_and_what_is_not_supported_is_absent():
    assert gpu_device.state((FakeNvml(), None)) == (1605, 1980, 312.4, 51, 0x20)
    assert gpu_device.state((FakeNvml(power=3), None))[2] is None
    assert gpu_device.state((SimpleNamespace(), None)) == (None,) * 5


def test_without_a_driver_nothing_is_told():
    def none(name):
        raise OSError(name)

    gpu_device.nvml_device.cache_clear()
    assert gpu_device.nvml_device(none) is None
    gpu_device.nvml_device.cache_clear()
    assert gpu_device.l2_cache_bytes(none) is None


def test_the_size_of_the_l2_is_that_of_cuda():
    class FakeCuda:
        def cuInit(self, flags):
            return 0

        def cuDeviceGet(self, device, index):
            return 0

        def cuDeviceGetAttribute(self, size, attribute, device):
            size._obj.value = 50 * 2**20 if attribute == 38 else 0
            return 0

    assert gpu_device.l2_cache_bytes(lambda name: FakeCuda()) == 50 * 2**20
