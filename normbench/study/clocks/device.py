"""The clocks of the device itself as series of samples, cold and warm, beside those of the host.

Both are read after the series by the host's clocks have ended, for a profiler slows the host down. Every call in
a series of "cold" takes the next inputs of the rotation.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from normbench.study.clocks.device_records import (
    Call,
    Cupti,
    Source,
    Trace,
    choose,
    device_kernels,
    device_span,
    disagreement,
)
from normbench.study.clocks.host import Sample
from normbench.study.clocks.memory import Rotation
from normbench.study.clocks.sampling import Series

CALLS = 10
MAXIMUM_SESSIONS = 3
"""Where a rotation has fewer sets than `CALLS`, it is gone through again, in another session of the profiler."""
STOP = "fixed"
NOT_READ = "the device's own clocks were not read"

Compiled = Callable[..., Any]


@dataclass(frozen=True)
class DeviceClocks:
    """Where the two clocks are read.

    Attributes:
      kernels: tells the kernels of a call.
      spans: tells their starts too; None where nothing does. Where it is another source than `kernels`, the two are
        held against each other.
      notes: what could not be used, and why.
    """

    kernels: Source
    spans: Source | None
    notes: tuple[str, ...] = ()

    @classmethod
    def find(cls, sources: Sequence[Callable[[], Source]] = (Cupti, Trace)) -> "DeviceClocks":
        """Takes the first of `sources` that works here, and for the spans the first that tells starts.

        Raises:
          RuntimeError: where none works, with the reasons.
        """
        x = jnp.ones(8)
        program = jax.jit(lambda x: x * 2 + 1).lower(x).compile()
        jax.block_until_ready(program(x))

        def starts(source: Source) -> None:
            if device_span(source.record(program, [(x,)])[0]) is None:
                raise RuntimeError("it tells no starts")

        kernels, refused = choose(lambda source: source.record(program, [(x,)]), sources)
        notes = tuple(f"{sentence}; {kernels.name} is used instead" for sentence in refused)
        try:
            spans, _ = choose(starts, sources)
        except RuntimeError as error:
            return cls(kernels, None, (*notes, f"device_span is not known: {error}"))
        if spans.name == kernels.name:
            return cls(kernels, kernels, notes)
        try:
            kernels.record(program, [(x,)])  # the interface has room for one: has the other let go of it?
        except Exception as error:
            sentence = f"{kernels.name} cannot be used beside {spans.name}: {_line(error)}"
            return cls(spans, spans, (*notes, f"{sentence}; {spans.name} is used instead"))
        return cls(kernels, spans, notes)

    def series(self, case: str, call: Compiled, rotation: Rotation) -> tuple[list[Series], str | None]:
        """The series of a program by both clocks, cold and warm; and a sentence where the sources do not agree, or
        nothing could be read."""
        try:
            return self._series_of(case, call, rotation)
        except Exception as error:
            return [], f"{NOT_READ}: {_line(error)}"

    def seconds(self, call: Compiled, input_sets: Sequence[tuple]) -> tuple[list[float], str | None]:
        """By `device_kernels`, of a call for each input set; and a sentence where nothing could be read."""
        try:
            return [device_kernels(one) for one in self.kernels.record(call, input_sets)], None
        except Exception as error:
            return [], f"{NOT_READ}: {_line(error)}"

    def _series_of(self, case: str, call: Compiled, rotation: Rotation) -> tuple[list[Series], str | None]:
        kernels = self._record(self.kernels, call, rotation)
        spans = kernels
        if self.spans is not self.kernels:
            spans = self._record(self.spans, call, rotation) if self.spans else {}
        found = []
        for cache, calls in kernels.items():
            one = self._series(case, cache, "device_kernels", self.kernels, calls, device_kernels)
            found.append(replace(one, whole=all(record.kind == "kernel" for call in calls for record in call)))
        for cache, calls in spans.items():
            assert self.spans
            found.append(self._series(case, cache, "device_span", self.spans, calls, device_span))
        differ = disagreement(kernels["cold"], spans["cold"]) if spans and spans is not kernels else None
        return found, differ

    @staticmethod
    def _record(source: Source, call: Compiled, rotation: Rotation) -> dict[str, list[Call]]:
        """By cache state. The first of the calls that are to find their inputs in the cache is not counted."""
        depth = min(CALLS, len(rotation.sets))
        found: dict[str, list[Call]] = {"cold": [], "warm": []}
        for _ in range(min(MAXIMUM_SESSIONS, -(-CALLS // depth))):
            cold, warm = rotation.take(depth), rotation.sets[0]
            calls = source.record(call, [*cold, warm, *[warm] * depth])
            found["cold"] += calls[:depth]
            found["warm"] += calls[depth + 1 :]
        return found

    @staticmethod
    def _series(
        case: str, cache: str, clock: str, source: Source, calls: list[Call], read: Callable[[Call], float | None]
    ) -> Series:
        samples = [Sample(seconds, 1, None) for one in calls if (seconds := read(one)) is not None]
        return Series(case, "call", clock, cache, list, samples, stop=STOP, source=source.name)


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
