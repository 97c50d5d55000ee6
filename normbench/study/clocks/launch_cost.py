"""What does a launch cost? Programs that move next to nothing, timed warm in the same process as the cases.

| program                               | is                                                                       |
|---------------------------------------|--------------------------------------------------------------------------|
| launch 1                              | one kernel on a few numbers: what a call costs that has nothing to do    |
| launch 5                              | five such kernels, one after the other, as XLA launches them by default  |
| launch 5 without command buffers      | the same five, launched one by one                                       |

A CPU has the first alone: there the five become one.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from normbench.study.clocks.device import DeviceClocks
from normbench.study.clocks.host import Instruments, garbage_collection_off, pipelined, wall
from normbench.study.clocks.memory import Rotation
from normbench.study.clocks.sampling import Series, StoppingRule, interleave

ELEMENTS = 256
DEPTH = 16
BURST = 10
RULE = StoppingRule(minimum_samples=10, maximum_samples=200, relative_noise=0.02, time_limit_s=0.04)
NO_COMMAND_BUFFERS = {"xla_gpu_enable_command_buffer": ""}


def _chain(kernels: int) -> Callable[[jax.Array], jax.Array]:
    def chain(x: jax.Array) -> jax.Array:
        for _ in range(kernels):
            x = jax.lax.optimization_barrier(x * 1.5)  # without the barrier they would be one kernel
        return x

    return chain


def programs(device: str) -> dict[str, tuple[Callable[[jax.Array], jax.Array], dict[str, Any]]]:
    """By name, the function and the options to compile it with."""
    found: dict[str, tuple[Callable, dict[str, Any]]] = {"launch 1": (_chain(1), {})}
    if device == "gpu":
        found["launch 5"] = (_chain(5), {})
        found["launch 5 without command buffers"] = (_chain(5), NO_COMMAND_BUFFERS)
    return found


def measure_launches(
    device: str, process: int, rng: np.random.Generator, clocks: DeviceClocks | None = None
) -> tuple[list[dict[str, Any]], list[str]]:
    """Returns rows of "ceilings", whose "bytes" are absent, and sentences on what could not be had."""
    x = jnp.full(ELEMENTS, 1.5, jnp.float32)
    instruments = Instruments()
    series: list[Series] = []
    notes: list[str] = []
    for name, (function, options) in programs(device).items():
        try:
            call = jax.jit(function).lower(x).compile(compiler_options=options or None)
        except Exception as error:  # an option that this compiler does not know
            notes.append(f"{name!r} was not compiled: {' '.join(str(error).split())[:200]}")
            continue
        pipelined(call, [(x,)] * DEPTH, instruments)
        series += _by_host(name, call, x, instruments)
        if clocks:
            by_device, note = clocks.series(name, call, Rotation([(x,)], 0, lambda: None))
            series += by_device
            notes += [note] if note else []
    with garbage_collection_off():
        interleave([one for one in series if one.running], RULE, rng)
    rows = [
        {
            "device": device, "program": one.case if one.clock == "wall" else f"{one.case}, {one.clock}",
            "cache": "warm", "process": process, "sample": sample, "seconds": seconds,
        }
        for one in series if one.cache == "warm"
        for sample, seconds in enumerate(one.seconds)
    ]  # fmt: skip
    return rows, notes


def _by_host(name: str, call: Callable, x: jax.Array, instruments: Instruments) -> list[Series]:
    return [
        Series(name, "call", "wall", "warm", lambda: [wall(call, (x,), instruments) for _ in range(BURST)]),
        Series(name, "call", "pipelined", "warm", lambda: [pipelined(call, [(x,)] * DEPTH, instruments)]),
    ]
