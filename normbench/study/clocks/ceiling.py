"""How fast can bytes move here? Streaming programs of each size class, timed like the cases, in the same process."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from normbench import kernels
from normbench.kernels.native.build import missing
from normbench.study.clocks.device import DeviceClocks
from normbench.study.clocks.host import Instruments, pipelined, wall
from normbench.study.clocks.memory import Rotation, Sweep, available_bytes, copies
from normbench.study.clocks.sampling import Series, StoppingRule, interleave

SMALLEST_CLASS_BYTES = 2**13
STREAMING_CLASS_BYTES = 2**23
"""Where the call itself is a small part of the time of a streaming program on a CPU."""
PAGE_BYTES = 2**12
MARGIN = 1.02
"""A case may be this much faster than the ceiling before it is impossible: the noise of two measurements."""

DEVICE_CALLS = 10
RULE = StoppingRule(minimum_samples=5, maximum_samples=40, relative_noise=0.02, time_limit_s=0.04)


def _on_native_threads(x: jax.Array, factor: jax.Array) -> jax.Array:
    """A scale and a shift by a kernel of the variant `native`, whose threads need not be woken as XLA's are."""
    rows = x.reshape(1, 64, -1)
    one, zero = jnp.ones(64, x.dtype), jnp.zeros(64, x.dtype)
    return kernels.get("batch_norm", "native")(rows, one, zero, zero, one)


PROGRAMS: dict[str, Callable[..., jax.Array]] = {
    "copy": lambda x, factor: jnp.copy(x),
    # The others cannot be simplified to a copy, which XLA hands to a single thread of memcpy on a CPU.
    "negate": lambda x, factor: -x,
    "scale": lambda x, factor: x * factor,
    "triad": lambda x, y, factor: x + y * factor,
    "native": _on_native_threads,
}
"""Streaming programs, by the names of STREAM where they have one; all but the triad read one array and write one."""
BY_DEVICE = ("scale", "triad")
"""Programs that are timed by the device's own clock too; a copy is no kernel."""


def size_class(size_bytes: int) -> int:
    """`size_bytes` rounded up to a power of two, at least `SMALLEST_CLASS_BYTES`."""
    return max(SMALLEST_CLASS_BYTES, 1 << max(size_bytes - 1, 0).bit_length())


class Ceilings:
    """The fastest streaming by size class in this process; each class is measured when it is first asked for.

    Attributes:
      notes: sentences on what the device's own clock did not tell.
    """

    def __init__(
        self,
        device: str,
        process: int,
        cache_bytes: int,
        sweep: Sweep,
        seed: int,
        clocks: DeviceClocks | None = None,
    ):
        self.device = device
        self.process = process
        self._cache_bytes = cache_bytes
        self._sweep = sweep
        self._rng = np.random.default_rng(seed)
        self._clocks = clocks
        self.notes: list[str] = []
        self._best: dict[int, float] = {}
        self._best_by_device: dict[int, float] = {}
        self._samples: dict[int, int] = {}

    def measure(self, size_bytes: int, again: bool = False) -> list[dict[str, Any]]:
        """Measures the two size classes that bracket `size_bytes`, and on a CPU one that streams; those that were
        measured only `again`, and then `size_bytes` too: between two classes may lie what a cache just holds.

        Returns the rows of the table "ceilings".
        """
        upper = size_class(size_bytes)
        wanted = {upper // 2, upper, *([STREAMING_CLASS_BYTES] if self.device == "cpu" else [])}
        if again:
            wanted.add(-(-size_bytes // PAGE_BYTES) * PAGE_BYTES)
        classes = [size for size in sorted(wanted) if again or size not in self._best]
        return [row for size in classes for row in self._measure_class(size)]

    def bytes_per_second(self, size_bytes: int, by_device: bool = False) -> float | None:
        """The best single sample of any program; None where there is none.

        By the clocks of the host that of the class below `size_bytes` and of all larger ones: a small call's time is
        largely the call's own and what it takes to wake threads, which another program, library or kernel may not
        need. By the device's own, which do not count launching, that of the two classes that bracket it.
        """
        upper = size_class(size_bytes)
        if by_device:
            found = self._best_by_device.items()
            return max((rate for size, rate in found if upper // 2 <= size <= upper), default=None)
        return max((rate for size, rate in self._best.items() if size >= upper // 2), default=None)

    def impossible(self, minimum_bytes: int, median_s: float, by_device: bool = False) -> str | None:
        """The reason why a cold call that has to move `minimum_bytes` cannot have taken `median_s`, or None."""
        ceiling = self.bytes_per_second(minimum_bytes, by_device)
        if ceiling is None or minimum_bytes <= MARGIN * ceiling * median_s:
            return None
        implied = minimum_bytes / median_s if median_s else float("inf")
        return f"implies {implied / 1e9:.3g} GB/s; the ceiling that was measured is {ceiling / 1e9:.3g} GB/s"

    def _measure_class(self, size_bytes: int) -> list[dict[str, Any]]:
        rotations = {arrays: self._rotation(size_bytes, arrays) for arrays in set(self._programs().values())}
        series: list[Series] = []
        device_rows: list[tuple[str, int, float]] = []
        first = self._samples.get(size_bytes, 0)
        for name, arrays in self._programs().items():
            rotation = rotations[arrays]
            call = jax.jit(PROGRAMS[name]).lower(*rotation.sets[0]).compile()
            jax.block_until_ready(call(*rotation.sets[0]))
            series += self._series(name, rotation, call)
            if self._clocks and name in BY_DEVICE:
                device_rows += self._by_device(name, size_bytes, first, call, rotation)
        interleave(series, RULE, self._rng)
        fastest = size_bytes / min(second for one in series for second in one.seconds)
        self._best[size_bytes] = max(fastest, self._best.get(size_bytes, 0.0))
        taken = [sample + 1 - first for _, sample, _ in device_rows] + [len(one.samples) for one in series]
        self._samples[size_bytes] = first + max(taken)
        rows = [self._row(one.case, size_bytes, *item) for one in series for item in enumerate(one.seconds, first)]
        return rows + [self._row(name, size_bytes, sample, seconds) for name, sample, seconds in device_rows]

    def _programs(self) -> dict[str, int]:
        """The names of the programs, and how many arrays each reads and writes."""
        if self.device == "gpu":
            return {"copy": 2, "scale": 2, "triad": 3}
        # Others than the first process leave out the triad, which is no faster there, and takes time.
        native = {} if missing() else {"native": 2}
        return {"negate": 2, "scale": 2, **native, **({} if self.process else {"triad": 3})}

    def _rotation(self, size_bytes: int, arrays: int) -> Rotation:
        """Inputs of programs that read all but one of `arrays` arrays and write the last, of 4-byte numbers."""
        x = jnp.full(-(-size_bytes // (4 * arrays)), 1.5, jnp.float32)
        factor = jnp.float32(1.25)
        read = tuple(x for _ in range(arrays - 1))
        count = Rotation.count((arrays - 1) * x.nbytes, self._cache_bytes, available_bytes() // 8)
        return Rotation([(*copy, factor) for copy in copies(read, count)], self._cache_bytes, self._sweep)

    def _series(self, name: str, rotation: Rotation, call: Callable) -> list[Series]:
        instruments = Instruments()
        several = min(len(rotation.sets), 16)
        return [
            Series(name, "call", "wall", "cold", lambda: [wall(call, rotation.take(1)[0], instruments)]),
            Series(
                f"{name}, pipelined", "call", "pipelined", "cold",
                lambda: [pipelined(call, rotation.take(several), instruments)],
            ),
        ]  # fmt: skip

    def _by_device(
        self, name: str, size_bytes: int, first: int, call: Callable, rotation: Rotation
    ) -> list[tuple[str, int, float]]:
        assert self._clocks
        seconds, note = self._clocks.seconds(call, rotation.take(min(len(rotation.sets), DEVICE_CALLS)))
        if note or not all(seconds):
            self.notes.append(note or f"{name}: the device recorded no kernel")
            return []
        fastest = size_bytes / min(seconds)
        self._best_by_device[size_bytes] = max(fastest, self._best_by_device.get(size_bytes, 0.0))
        return [(f"{name}, device_kernels", sample, one) for sample, one in enumerate(seconds, first)]

    def _row(self, program: str, size_bytes: int, sample: int, seconds: float) -> dict[str, Any]:
        return {
            "device": self.device, "program": program, "cache": "cold", "bytes": size_bytes,
            "process": self.process, "sample": sample, "seconds": seconds,
        }  # fmt: skip
