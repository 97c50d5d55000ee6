"""Cold inputs come from memory, copies are copies, and the ceiling is that of the right size."""

import timeit

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from normbench.kernels.native.build import missing
from normbench.study.clocks.ceiling import SMALLEST_CLASS_BYTES, STREAMING_CLASS_BYTES, Ceilings, size_class
from normbench.study.clocks.memory import Rotation, Sweep, available_bytes, copies, last_level_cache_bytes, tree_bytes

NATIVE = () if missing() else ("native",)
"""The streaming program on the threads of the variant of that name, where it can be built."""


def rotation_of(sets, cache_bytes):
    swept = []
    arrays = [(jnp.full(256, index, jnp.float32),) for index in range(sets)]  # 1 KiB each
    return Rotation(arrays, cache_bytes, lambda: swept.append(len(swept))), swept


def values(taken):
    return [int(inputs[0][0]) for inputs in taken]


def test_a_rotation_that_fills_the_caches_never_sweeps():
    rotation, swept = rotation_of(4, cache_bytes=1024)
    assert [values(rotation.take(1))[0] for _ in range(6)] == [0, 1, 2, 3, 0, 1]
    assert values(rotation.take(3)) == [2, 3, 0]
    assert not swept


def test_a_rotation_that_is_too_small_sweeps_before_it_begins_anew():
    rotation, swept = rotation_of(3, cache_bytes=2**20)
    seen = []
    for _ in range(7):
        seen.append((values(rotation.take(1))[0], len(swept)))
    assert seen == [(0, 1), (1, 1), (2, 1), (0, 2), (1, 2), (2, 2), (0, 3)]


def test_several_at_once_do_not_wrap_around_without_a_sweep():
    rotation, swept = rotation_of(3, cache_bytes=2**20)
    assert values(rotation.take(2)) == [0, 1]
    assert values(rotation.take(2)) == [0, 1]
    assert len(swept) == 2
    with pytest.raises(ValueError, match="4 sets at once"):
        rotation.take(4)


def test_the_number_of_sets_fills_three_caches_and_keeps_to_its_bounds():
    assert Rotation.count(2**20, 2**20, 2**40) == 4
    assert Rotation.count(1024, 2**30, 2**40) == 64
    assert Rotation.count(2**30, 2**20, 2**20) == 1
    assert Rotation.count(2**20, 2**24, 2**21) == 2
    assert Rotation.count(0, 2**20, 2**20) >= 1


def test_copies_lie_in_different_memory():
    tree = (jnp.arange(64.0), {"b": jnp.ones((3, 3), jnp.bfloat16)})
    leaves = [leaf for copy in [tree, *copies(tree, 3)] for leaf in jax.tree.leaves(copy)]
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)
    assert tree_bytes(tree) == 64 * 4 + 9 * 2


def test_a_sweep_moves_three_caches():
    sweep = Sweep(2**20)
    sweep()
    assert 2 * sweep._buffer.nbytes == 3 * 2**20


def test_the_machine_says_how_much_it_has():
    assert available_bytes() > 2**20
    assert last_level_cache_bytes() >= 2**15
    assert last_level_cache_bytes("gpu") >= 2**20


@pytest.mark.parametrize(
    ("size", "expected"), [(0, 8192), (8192, 8192), (8193, 16384), (2**20, 2**20), (2**20 + 1, 2**21)]
)
def test_size_classes_are_powers_of_two(size, expected):
    assert size_class(size) == expected


@pytest.fixture(scope="module")
def ceilings():
    cache_bytes = 2**18
    return Ceilings("cpu", 0, cache_bytes, Sweep(cache_bytes), seed=0)


def test_a_class_is_measured_once_with_its_neighbour(ceilings):
    rows = ceilings.measure(100_000)
    assert {row["bytes"] for row in rows} == {65536, 131072, STREAMING_CLASS_BYTES}
    names = ("negate", "scale", "triad", *NATIVE)
    assert {row["program"] for row in rows} == {*names, *(f"{name}, pipelined" for name in names)}
    assert all(row["seconds"] > 0 and row["cache"] == "cold" for row in rows)
    assert ceilings.measure(70_000) == []
    best = max(row["bytes"] / row["seconds"] for row in rows)
    assert ceilings.bytes_per_second(100_000) == pytest.approx(best)


def test_processes_after_the_first_leave_out_the_triad_on_a_cpu():
    rows = Ceilings("cpu", 1, 2**18, Sweep(2**18), seed=0).measure(10_000)
    assert {row["program"].partition(",")[0] for row in rows} == {"negate", "scale", *NATIVE}


def test_measuring_again_can_only_raise_the_ceiling(ceilings):
    first = ceilings.measure(20_000)
    before = ceilings.bytes_per_second(20_000)
    again = ceilings.measure(20_000, again=True)
    assert ceilings.bytes_per_second(20_000) >= before
    assert {row["bytes"] for row in again} == {16384, 20480, 32768, STREAMING_CLASS_BYTES}
    keys = [(row["program"], row["bytes"], row["sample"]) for row in first + again]
    assert len(set(keys)) == len(keys)


def test_what_a_small_call_costs_is_no_ceiling(ceilings):
    """The smallest streaming programs take as long as a call does, which NumPy's do not."""
    ceilings.measure(SMALLEST_CLASS_BYTES)
    source, target = np.ones(1024, np.float32), np.empty(1024, np.float32)
    seconds = min(timeit.repeat(lambda: np.copyto(target, source), number=1000)) / 1000
    assert SMALLEST_CLASS_BYTES / seconds > ceilings._best[SMALLEST_CLASS_BYTES]
    assert ceilings.bytes_per_second(SMALLEST_CLASS_BYTES) >= ceilings._best[STREAMING_CLASS_BYTES]


def test_what_is_faster_than_the_ceiling_is_impossible(ceilings):
    ceilings.measure(100_000)
    fastest_s = 100_000 / ceilings.bytes_per_second(100_000)
    assert ceilings.impossible(100_000, 1.01 * fastest_s) is None
    assert ceilings.impossible(100_000, 0.99 * fastest_s) is None
    assert "GB/s" in ceilings.impossible(100_000, 0.9 * fastest_s)
