"""In a worker: how one case is timed, with its inputs, under each clock and cache state."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from normbench.study.check.accuracy import Oracle
from normbench.study.clocks.host import Instruments, Sample, pipelined, wall
from normbench.study.clocks.memory import Rotation, Sweep, available_bytes, copies, tree_bytes
from normbench.study.clocks.sampling import Series
from normbench.study.worker.compiled_case import Compiled

BURST_S = 0.005
MAXIMUM_BURST = 10
PIPELINE_S = 0.004
MAXIMUM_PIPELINE = 64
PIPELINE_BYTES = 256 * 2**20
"""Results that a pipelined sample keeps at once."""
CALLS_UNTIL_FREED = 12
"""JAX has freed a result at the latest so many calls after it was dropped (9 were seen)."""
POOL_SHARE = 0.25
"""Share of the available memory that may hold input sets."""


def pool_key(one: Compiled) -> str:
    """Variants that take the operator's arrays as they are share their input sets, those of JAX and of NumPy; a
    framework of its own has its own."""
    if one.program.has_setup or one.program.variant.host is not None:
        return one.case.variant
    return "" if one.program.variant.is_jax else "numpy"


class Pools:
    """The rotating input sets of one problem; there are `pools` to share the memory, in all processes."""

    def __init__(self, pools: int, cache_bytes: int, sweep: Sweep):
        self._cache_bytes = cache_bytes
        self._sweep = sweep
        self._budget_bytes = int(POOL_SHARE * available_bytes()) // pools
        self._rotations: dict[str, Rotation] = {}

    def rotation(self, one: Compiled, inputs: tuple) -> Rotation:
        key = pool_key(one)
        if key not in self._rotations:
            count = Rotation.count(tree_bytes(inputs), self._cache_bytes, self._budget_bytes)
            sets = one.block(copies(inputs, count, one.hosted.copy) if one.hosted else copies(inputs, count))
            self._rotations[key] = Rotation(sets, self._cache_bytes, self._sweep)
        return self._rotations[key]


def series_of(one: Compiled, rotation: Rotation, oracle: Oracle) -> list[Series]:
    """Warms a case up and returns its series: each clock with each cache state, and what it prepares."""
    instruments = Instruments(block=one.block, wait=one.wait)
    warm = rotation.sets[0]
    output_bytes = tree_bytes(one.blocking(*warm))
    call = one.direct_call
    estimate_s = min(wall(call, warm, instruments).seconds for _ in range(2))
    burst = _clamp(BURST_S / estimate_s, 1, MAXIMUM_BURST)
    depth = _clamp(PIPELINE_S / estimate_s, 2, min(MAXIMUM_PIPELINE, max(2, PIPELINE_BYTES // max(output_bytes, 1))))
    pipelined(call, [warm] * depth, instruments)  # the allocator gets its memory now
    cold_depth = min(depth, len(rotation.sets))

    def wall_cold() -> list[Sample]:
        return [wall(call, rotation.take(1)[0], instruments) for _ in range(burst)]

    def wall_warm() -> list[Sample]:
        wall(call, warm, instruments)
        return [wall(call, warm, instruments) for _ in range(burst)]

    def pipelined_cold() -> list[Sample]:
        return [pipelined(call, rotation.take(cold_depth), instruments)]

    def pipelined_warm() -> list[Sample]:
        wall(call, warm, instruments)
        return [pipelined(call, [warm] * depth, instruments)]

    new = partial(Series, one.case.slug, "call")
    series = [
        new("wall", "cold", wall_cold),
        new("wall", "warm", wall_warm),
        new("pipelined", "cold", pipelined_cold),
        new("pipelined", "warm", pipelined_warm),
    ]
    if one.program.prepare is not None:
        series.append(_prepare_series(one, one.program.prepare, oracle))
    return series


def working_bytes(one: Compiled) -> int:
    """What calls in flight hold, and calls whose results are still to be freed."""
    output_bytes, temporary_bytes = one.memory_bytes()
    in_flight_bytes = min(PIPELINE_BYTES, MAXIMUM_PIPELINE * output_bytes)
    return in_flight_bytes + CALLS_UNTIL_FREED * (output_bytes + temporary_bytes)


def _prepare_series(one: Compiled, prepare: Callable[..., tuple], oracle: Oracle) -> Series:
    """The work ahead of the call: parameters in, folded parameters out."""
    parameters = tuple(jnp.asarray(array) for array in oracle.arrays[1:])
    call = jax.jit(prepare).lower(*parameters).compile()
    instruments = Instruments()
    wall(call, parameters, instruments)

    def burst() -> list[Sample]:
        wall(call, parameters, instruments)
        return [wall(call, parameters, instruments) for _ in range(MAXIMUM_BURST)]

    return Series(one.case.slug, "prepare", "wall", "warm", burst)


def _clamp(value: float, least: int, most: int) -> int:
    return int(max(least, min(value, most)))
