"""A sample is what its clock says it is: deterministic, with a clock and functions that are made up."""

import gc
import mmap

import jax.numpy as jnp
import pytest

from normbench.study.clocks.host import Instruments, garbage_collection_off, page_faults, pipelined, wall


class FakeMachine:
    """Work costs made-up nanoseconds when it is waited for; enqueueing costs 10; every call faults 3 pages."""

    def __init__(self, call_ns: int):
        self.call_ns = call_ns
        self.time_ns = 0
        self.faults = 0
        self.log: list[str] = []

    def call(self, name: str) -> str:
        self.time_ns += 10
        self.faults += 3
        self.log.append(f"call {name}")
        return name

    def block(self, results):
        waited = results if isinstance(results, list) else [results]
        self.time_ns += self.call_ns * len(waited)
        self.log.append(f"block {','.join(waited)}")
        return results

    def instruments(self) -> Instruments:
        return Instruments(lambda: self.time_ns, lambda: self.faults, self.block, self.block)


def test_wall_blocks_the_call_and_counts_its_page_faults():
    machine = FakeMachine(call_ns=1000)
    sample = wall(machine.call, ("a",), machine.instruments())
    assert (sample.seconds, sample.calls, sample.page_faults) == (pytest.approx(1010e-9), 1, 3)
    assert machine.log == ["call a", "block a"]


def test_pipelined_enqueues_everything_and_blocks_once():
    machine = FakeMachine(call_ns=1000)
    sample = pipelined(machine.call, [("a",), ("b",), ("c",)], machine.instruments())
    assert (sample.seconds, sample.calls, sample.page_faults) == (pytest.approx(1010e-9), 3, 9)
    assert machine.log == ["call a", "call b", "call c", "block a,b,c"]


def test_the_real_instruments_time_a_real_call():
    sample = wall(lambda x: x + 1, (jnp.ones(8),), Instruments())
    assert sample.seconds > 0
    assert sample.page_faults >= 0


def test_touching_new_memory_is_seen_as_page_faults():
    # A mapping of its own: an allocator may hand out pages that are there already.
    size = 64 * 2**20
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        before = page_faults()
        for page in range(0, size, mmap.PAGESIZE):
            memory[page] = 1
        assert page_faults() - before >= size // mmap.PAGESIZE // 512  # a huge page may stand for 512 of them


def test_garbage_collection_is_off_only_inside():
    with garbage_collection_off():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_garbage_collection_comes_back_after_an_exception():
    with pytest.raises(RuntimeError), garbage_collection_off():
        raise RuntimeError
    assert gc.isenabled()
