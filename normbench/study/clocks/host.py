"""How long does a call take? Two clocks that are never mixed, and what each sample carries.

| clock     | a sample is                                                     |
|-----------|-----------------------------------------------------------------|
| wall      | one call, from before it is enqueued until its result is ready  |
| pipelined | N calls enqueued, then blocked for once; seconds are total / N  |
"""

import gc
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax


@dataclass(frozen=True, slots=True)
class Sample:
    """One reading of a clock: seconds per call, the calls in it, and the page faults of the process meanwhile, which
    a device's own clock does not tell."""

    seconds: float
    calls: int
    page_faults: int | None


@dataclass(frozen=True, slots=True)
class Instruments:
    """What a clock reads; replaced by fakes in tests.

    Attributes:
      now_ns: a monotonic clock in nanoseconds.
      page_faults: page faults of this process so far.
      block: waits until every array of a pytree is ready.
      wait: the same of what one call returns, in the way that costs least.
    """

    now_ns: Callable[[], int] = time.perf_counter_ns
    page_faults: Callable[[], int] = lambda: page_faults()
    block: Callable[[Any], Any] = jax.block_until_ready
    wait: Callable[[Any], Any] = jax.block_until_ready


def page_faults() -> int:
    """Page faults of this process so far, minor and major, of all its threads."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_minflt + usage.ru_majflt


def wall(call: Callable[..., Any], inputs: tuple, instruments: Instruments) -> Sample:
    """Times one call until its result is ready. The result is dropped after the clock has stopped."""
    now_ns, wait = instruments.now_ns, instruments.wait
    faults = instruments.page_faults()
    start = now_ns()
    result = wait(call(*inputs))
    stop = now_ns()
    faults = instruments.page_faults() - faults
    del result
    return Sample((stop - start) * 1e-9, 1, faults)


def pipelined(call: Callable[..., Any], input_sets: Sequence[tuple], instruments: Instruments) -> Sample:
    """Times `len(input_sets)` calls that are enqueued one after the other and waited for together.

    Every result is kept until the end: on a CPU the calls may overlap, and the last to be enqueued need not be the
    last to be ready.
    """
    now_ns, block = instruments.now_ns, instruments.block
    faults = instruments.page_faults()
    start = now_ns()
    results = [call(*inputs) for inputs in input_sets]
    block(results)
    stop = now_ns()
    faults = instruments.page_faults() - faults
    calls = len(results)
    del results
    return Sample((stop - start) * 1e-9 / calls, calls, faults)


@contextmanager
def garbage_collection_off() -> Iterator[None]:
    """Keeps Python's collector out of the timed regions."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
