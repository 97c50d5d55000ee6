"""How fast can bytes move here? Streaming programs of each size class, timed like the cases, in the same process."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.clocks import Instruments, pipelined, wall
from benchmarks.memory import Rotation, Sweep, available_bytes, copies
from benchmarks.sampling import Series, StoppingRule, interleave

SMALLEST_CLASS_BYTES = 2**13
MARGIN = 1.02
"""A case may be this much faster than the ceiling before it is impossible: the noise of two measurements."""

RULE = StoppingRule(minimum_samples=5, maximum_samples=40, relative_noise=0.02, time_limit_s=0.04)
PROGRAMS = {
    # Neither can be simplified to a copy, which XLA hands to a single thread of memcpy on a CPU.
    "negate": lambda x, factor: -x,
    "scale": lambda x, factor: x * factor,
}


def size_class(size_bytes: int) -> int:
    """`size_bytes` rounded up to a power of two, at least `SMALLEST_CLASS_BYTES`."""
    return max(SMALLEST_CLASS_BYTES, 1 << max(size_bytes - 1, 0).bit_length())


class Ceilings:
    """The fastest streaming by size class in this process; each class is measured when it is first asked for."""

    def __init__(self, device: str, process: int, cache_bytes: int, sweep: Sweep, seed: int):
        self.device = device
        self.process = process
        self._cache_bytes = cache_bytes
        self._sweep = sweep
        self._rng = np.random.default_rng(seed)
        self._best: dict[int, float] = {}
        self._samples: dict[int, int] = {}

    def measure(self, size_bytes: int, again: bool = False) -> list[dict[str, Any]]:
        """Measures the two size classes that bracket `size_bytes`, those that were measured only `again`.

        Returns the rows of the table "ceilings".
        """
        upper = size_class(size_bytes)
        classes = [size for size in (upper // 2, upper) if again or size not in self._best]
        return [row for size in classes for row in self._measure_class(size)]

    def bytes_per_second(self, size_bytes: int) -> float:
        """The best single sample of any program in the two classes that bracket `size_bytes`."""
        upper = size_class(size_bytes)
        return max(self._best[upper // 2], self._best[upper])

    def impossible(self, minimum_bytes: int, median_s: float) -> str | None:
        """The reason why a cold call that has to move `minimum_bytes` cannot have taken `median_s`, or None."""
        implied, ceiling = minimum_bytes / median_s, self.bytes_per_second(minimum_bytes)
        if implied <= MARGIN * ceiling:
            return None
        return f"implies {implied / 1e9:.3g} GB/s; the ceiling measured for its size is {ceiling / 1e9:.3g} GB/s"

    def _measure_class(self, size_bytes: int) -> list[dict[str, Any]]:
        x = jnp.full(size_bytes // 8, 1.5, jnp.float32)  # read once and written once, 4 bytes each
        count = Rotation.count(size_bytes // 2, self._cache_bytes, available_bytes() // 4)
        factor = jnp.float32(1.25)
        rotation = Rotation([(copy, factor) for copy in copies(x, count)], self._cache_bytes, self._sweep)
        series = [one for name in PROGRAMS for one in self._series(name, rotation, x, factor)]
        interleave(series, RULE, self._rng)
        fastest = size_bytes / min(second for one in series for second in one.seconds)
        self._best[size_bytes] = max(fastest, self._best.get(size_bytes, 0.0))
        first = self._samples.get(size_bytes, 0)
        self._samples[size_bytes] = first + max(len(one.samples) for one in series)
        return [self._row(one.case, size_bytes, *item) for one in series for item in enumerate(one.seconds, first)]

    def _series(self, name: str, rotation: Rotation, x: jax.Array, factor: jax.Array) -> list[Series]:
        call = jax.jit(PROGRAMS[name]).lower(x, factor).compile()
        jax.block_until_ready(call(x, factor))
        instruments = Instruments()
        several = min(len(rotation.sets), 16)
        return [
            Series(name, "call", "wall", "cold", lambda: [wall(call, rotation.take(1)[0], instruments)]),
            Series(
                f"{name}, pipelined", "call", "pipelined", "cold",
                lambda: [pipelined(call, rotation.take(several), instruments)],
            ),
        ]  # fmt: skip

    def _row(self, program: str, size_bytes: int, sample: int, seconds: float) -> dict[str, Any]:
        return {
            "device": self.device, "program": program, "cache": "cold", "bytes": size_bytes,
            "process": self.process, "sample": sample, "seconds": seconds,
        }  # fmt: skip
