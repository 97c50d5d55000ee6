"""The model of the links: its figures by hand, and what has to grow with what."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from normbench.fusion.program.wires import ONE_SHOT, RING, Collective
from normbench.fusion.targets import deviceless_target
from normbench.predict.devices import device_of
from normbench.predict.links import transfer

H200 = device_of(deviceless_target("h200"))
NVLINK, NETWORK = 370e9, 47e9


def collective(kind, devices, whole, algorithm=RING, every=1):
    """One group of devices, `every` so many apart."""
    wire = (2 if kind == "all-reduce" else 1) * whole * (devices - 1) // devices
    return Collective(kind, (tuple(range(0, devices * every, every)),), whole, wire, algorithm, False)


def seconds(*arguments, **keywords):
    return transfer(collective(*arguments, **keywords), H200).seconds


def test_a_large_transfer_takes_what_its_link_attains():
    whole = 8 * 10**9
    sent = whole * 7 / 8
    assert seconds("all-gather", 8, whole) == pytest.approx(sent / NVLINK, rel=0.01)
    assert seconds("reduce-scatter", 8, whole) == pytest.approx(sent / NVLINK, rel=0.01)
    assert seconds("all-reduce", 8, whole) == pytest.approx(2 * sent / NVLINK, rel=0.01)
    assert seconds("all-gather", 64, whole) == pytest.approx(whole * 63 / 64 / NVLINK, rel=0.05)
    alone = seconds("all-gather", 8, whole, every=8)  # a device of each of eight machines: its network card alone
    assert alone == pytest.approx(sent / NETWORK, rel=0.01)


def test_a_small_one_takes_its_start_and_its_steps():
    assert seconds("all-reduce", 8, 1024) == pytest.approx(6.6e-6 + 14 * 0.6e-6, rel=0.02)
    assert seconds("all-reduce", 64, 1024) == pytest.approx(6.8e-6 + 2 * (7 * 0.6e-6 + 3 * 5.0e-6), rel=0.02)
    assert seconds("all-gather", 8, 1024) == pytest.approx(6.6e-6 + 7 * 0.6e-6, rel=0.02)
    words = transfer(collective("all-reduce", 64, 1024), H200).bound
    assert words.startswith("the start and the steps of a tree of 64")


def test_one_shot_has_no_steps_and_sends_more():
    small, large = 4096, 256 * 10**6
    assert seconds("all-reduce", 8, small, ONE_SHOT) < seconds("all-reduce", 8, small)
    assert seconds("all-reduce", 8, large, ONE_SHOT) > seconds("all-reduce", 8, large)


@given(
    st.sampled_from(["all-reduce", "all-gather", "reduce-scatter", "all-to-all"]),
    st.integers(2, 64),
    st.integers(1, 10**9),
)
def test_more_bytes_take_longer_and_nothing_is_faster_than_the_wire(kind, devices, whole):
    one = collective(kind, devices, whole)
    found = transfer(one, H200)
    assert found.seconds > one.wire_bytes / H200.link_bytes_per_s
    assert transfer(collective(kind, devices, 2 * whole), H200).seconds >= found.seconds


def test_groups_that_are_not_told_are_not_guessed():
    assert transfer(Collective("all-reduce", (), 4096, None, RING, False), H200) is None
