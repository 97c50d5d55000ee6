"""How long did the device work? What its own records say: the start and the length of each kernel, copy and memset.

| clock          | a sample is                                                              |
|----------------|--------------------------------------------------------------------------|
| device_kernels | the sum of the kernels of one call; gaps, copies and memsets do not count |
| device_span    | from the start of the first record of a call to the end of its last      |

Records come from one of two sources, and every number carries which: "cupti", NVIDIA's profiling interface through
JAX, which names kernels and tells how long each took but not when it began, and "trace", the trace of JAX's profiler,
which tells both, and the HLO instruction of each. A CPU has only the second.
"""

import importlib.util
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Protocol

from normbench.study.machine.environment import gpu_present
from normbench.study.machine.gpu_device import l2_cache_bytes, nvml_device

AGREEMENT = 0.05
"""The two sources may differ by this much: a profiler's own cost on short kernels is of this order."""


@dataclass(frozen=True, slots=True)
class Record:
    """One piece of work of a device.

    Attributes:
      name: of the kernel, or of the HLO instruction on a CPU.
      hlo_name: of the HLO instruction that it belongs to; None where the source does not tell.
      start_s: from an arbitrary origin; None where the source does not tell.
      duration_s: how long it took.
      kind: "kernel", "copy" or "memset".
    """

    name: str
    hlo_name: str | None
    start_s: float | None
    duration_s: float
    kind: str = "kernel"


Call = tuple[Record, ...]
"""The records of one call of a program, in the order in which they began."""


class Source(Protocol):
    """Runs a program and returns what the device recorded of each of its calls."""

    name: str

    def record(self, call: Callable[..., Any], input_sets: Sequence[tuple]) -> list[Call]: ...


def device_kernels(call: Call) -> float:
    """Seconds of all kernels of one call."""
    return sum(record.duration_s for record in call if record.kind == "kernel")


def device_span(call: Call) -> float | None:
    """Seconds from the first start to the last end of one call; None where the source tells no starts."""
    ends = [record.start_s + record.duration_s for record in call if record.start_s is not None]
    starts = [record.start_s for record in call if record.start_s is not None]
    return max(ends) - min(starts) if len(starts) == len(call) and call else None


class Trace:
    """The trace of JAX's profiler, on a GPU and on a CPU."""

    name = "trace"

    def record(self, call: Callable[..., Any], input_sets: Sequence[tuple]) -> list[Call]:
        """Records one call per input set.

        Raises:
          RuntimeError: where the trace holds other than one run for each: the driver may deny profiling.
        """
        import jax

        jax.block_until_ready(input_sets)  # what still makes them would be in the trace
        with tempfile.TemporaryDirectory() as folder:
            with jax.profiler.trace(folder):
                for inputs in input_sets:
                    jax.block_until_ready(call(*inputs))
            (file,) = Path(folder).rglob("*.xplane.pb")
            calls = calls_of(jax.profiler.ProfileData.from_file(str(file)), len(input_sets))
        if len(calls) != len(input_sets):
            raise RuntimeError(f"the profiler recorded {len(calls)} of {len(input_sets)} calls; may this user profile?")
        return calls


def calls_of(profile: Any, expected: int = 1) -> list[Call]:
    """The records of a trace, call by call.

    A GPU's are the events of its streams, a CPU's those of the host that name an HLO instruction. What tells the calls
    apart is the run that each event belongs to; copies and memsets of a stream, which name none, to the run before
    them, or to the first. Where no event names a run, `expected` calls have an equal share of the kernels each.
    """
    streams = [
        line
        for plane in profile.planes
        if plane.name.startswith("/device:GPU:")
        for line in plane.lines
        if line.name.startswith("Stream #")
    ]
    if streams:
        events = [event for line in streams for event in line.events]
    else:
        hosts = [plane for plane in profile.planes if plane.name.startswith("/host:CPU")]
        events = [event for plane in hosts for line in plane.lines for event in line.events]
        events = [event for event in events if "hlo_op" in dict(event.stats)]
    return _split(sorted(events, key=lambda one: one.start_ns), expected)


def _split(events: Sequence[Any], expected: int) -> list[Call]:
    stats = [dict(event.stats) for event in events]
    kernels = sum(_kind(event.name) == "kernel" for event in events)
    run = next((one["run_id"] for one in stats if "run_id" in one), None)
    named = run is not None
    if not named and (kernels == 0 or kernels % expected):
        return []
    calls: dict[Any, list[Record]] = {}
    seen = 0
    for event, one in zip(events, stats, strict=True):
        kind = _kind(event.name)
        if named:
            run = one.get("run_id", run)
        else:
            run = min(seen // (kernels // expected), expected - 1)
            seen += kind == "kernel"
        record = Record(event.name, one.get("hlo_op"), event.start_ns * 1e-9, event.duration_ns * 1e-9, kind)
        calls.setdefault(run, []).append(record)
    return [tuple(records) for records in calls.values()]


def _kind(name: str) -> str:
    lowered = name.lower()
    if lowered.startswith("memset"):
        return "memset"
    return "copy" if lowered.startswith("memcpy") else "kernel"


class Cupti:
    """NVIDIA's CUPTI, through JAX; the kernels' names and lengths."""

    name = "cupti"

    def __init__(self, interface: tuple[Callable[[], None], Callable[[], list[tuple[str, float]]]] | None = None):
        """`interface`, its start and stop, stands in for JAX's in tests.

        Raises:
          ImportError: where this JAX has none.
        """
        if interface is None:
            from normbench.jax_compat.profiler import cupti

            interface = cupti()
        self._start, self._stop = interface

    def record(self, call: Callable[..., Any], input_sets: Sequence[tuple]) -> list[Call]:
        """Records one call per input set, in one session: what a call finds in the caches is what the calls before it
        have left there.

        Raises:
          RuntimeError: where CUPTI recorded nothing, or not the same kernels in every call: another profiler may hold
            it.
        """
        import jax

        jax.block_until_ready(input_sets)
        self._start()
        try:
            for inputs in input_sets:
                jax.block_until_ready(call(*inputs))
        finally:
            kernels = self._stop()
        each, rest = divmod(len(kernels), len(input_sets))
        if not each or rest:
            raise RuntimeError(f"CUPTI recorded {len(kernels)} kernels in {len(input_sets)} calls")
        calls = [kernels[start : start + each] for start in range(0, len(kernels), each)]
        if len({tuple(name for name, _ in one) for one in calls}) > 1:
            raise RuntimeError("CUPTI recorded other kernels in one call than in another")
        return [tuple(Record(name, None, None, ms * 1e-3, _kind(name)) for name, ms in one) for one in calls]


def choose(probe: Callable[[Source], Any], sources: Sequence[Callable[[], Source]] = (Cupti, Trace)):
    """The first source that can record `probe`, and a sentence for each that cannot.

    Raises:
      RuntimeError: where none can, with all the sentences.
    """
    refused = []
    for make in sources:
        try:
            source = make()
            probe(source)
        except Exception as error:
            name = getattr(make, "name", repr(make))
            refused.append(f"{name} cannot be used: {' '.join(str(error).split()) or type(error).__name__}")
            continue
        return source, tuple(refused)
    raise RuntimeError("; ".join(refused))


def disagreement(one: Sequence[Call], other: Sequence[Call]) -> str | None:
    """Why two sources do not tell the same of one program; None where they agree within `AGREEMENT`."""
    counts = [sorted({sum(r.kind == "kernel" for r in call) for call in calls}) for calls in (one, other)]
    if counts[0] != counts[1]:
        return f"the sources count {counts[0]} and {counts[1]} kernels per call"
    medians = [median(device_kernels(call) for call in calls) for calls in (one, other)]
    if abs(medians[0] - medians[1]) > AGREEMENT * max(medians):
        return f"the sources tell {medians[0] * 1e6:.2f} and {medians[1] * 1e6:.2f} us of kernels per call"
    return None


def missing() -> tuple[str, ...]:
    """What of measuring on a GPU cannot be done on this machine, a sentence each. Imports no JAX."""
    found = []
    if not gpu_present():
        found.append("no NVIDIA GPU: no device clocks, no ceilings of a GPU, no dump of its target configuration")
    if not _cupti_extension():
        found.append("no CUPTI in this JAX: device_kernels is read from the profiler's trace")
    if nvml_device() is None and shutil.which("nvidia-smi") is None:
        found.append("neither NVML nor nvidia-smi: throttling is not seen")
    if l2_cache_bytes() is None:
        found.append("the size of the L2 is not told: cold inputs are rotated for the largest there is")
    return tuple(found)


def _cupti_extension() -> bool:
    """Whether a CUDA plugin of JAX is installed with the extension that holds CUPTI."""
    folders = [
        Path(place)
        for name in ("jax_cuda13_plugin", "jax_cuda12_plugin")
        if (spec := importlib.util.find_spec(name))
        for place in spec.submodule_search_locations or ()
    ]
    return any(list(folder.glob("_mosaic_gpu_ext*")) for folder in folders)
