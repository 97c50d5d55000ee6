"""Resident blocks and waves against figures worked out by hand."""

import pytest

from normbench.fusion.targets import deviceless_target
from normbench.predict.devices import device_of
from normbench.predict.occupancy import occupancy
from normbench.schema import DEVICELESS_TARGETS, TPU_TARGETS

H200 = device_of(deviceless_target("h200"))


@pytest.mark.parametrize(
    ("block", "registers", "shared_bytes", "resident"),
    [
        ("128", 32, 0, 16),  # 64 warps of 4
        ("128", 128, 0, 4),  # 65536 / (128 * 128)
        ("128", 97, 0, 4),  # 97 registers count as 104: 65536 / (104 * 32) = 19 warps, of which 16 make blocks
        ("32", 16, 0, 32),  # no more than 32 blocks
        ("1024", 64, 0, 1),
        ("1024", 32, 0, 2),
        ("128", 32, 98 * 1024, 2),  # 228 KiB over 99 KiB
        ("128", 32, 227 * 1024, 1),
        ("64x8", 32, 0, 4),  # 512 threads
        ("128", None, None, 16),
    ],
)
def test_resident_blocks(block, registers, shared_bytes, resident):
    assert occupancy("100000", block, registers, shared_bytes, H200).resident == resident


def test_waves_and_share():
    fit = occupancy("2112x2", "128", 32, 0, H200)
    assert (fit.blocks, fit.warps, fit.busy) == (4224, 4, 132)
    assert fit.waves == pytest.approx(2.0)  # 132 multiprocessors of 16 blocks
    assert fit.share == pytest.approx(1.0)
    few = occupancy("40", "512", 128, 16384, H200)
    assert (few.busy, few.resident) == (40, 1)
    assert few.share == pytest.approx(16 / 64)
    assert few.waves == pytest.approx(40 / 132)


@pytest.mark.parametrize("target", [name for name in DEVICELESS_TARGETS if name not in TPU_TARGETS])
def test_every_target_has_its_device(target):
    facts = deviceless_target(target)
    device = device_of(facts)
    assert device.name == facts.device_name
    assert device.multiprocessors == facts.cores
    assert device.memory_bytes_per_s == pytest.approx(facts.memory_bandwidth, rel=2e-3)
    assert device.l2_bytes == facts.l2_bytes
    assert f"shared_memory_per_core: {device.shared_bytes}\n" in facts.config


def test_a_device_of_a_known_architecture_differs_by_what_its_target_says():
    from dataclasses import replace

    facts = replace(deviceless_target("a100"), device_name="NVIDIA A100-SXM4-40GB", memory_bandwidth=1.555e12)
    device = device_of(facts)
    assert device.memory_bytes_per_s == 1.555e12
    assert device.clock_hz == device_of(deviceless_target("a100")).clock_hz
    older = replace(facts, device_name="a card", config=facts.config.replace("major: 8", "major: 7"))
    assert device_of(older) is None
