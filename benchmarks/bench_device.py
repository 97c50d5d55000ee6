"""How long does the GPU work on a call? asv samples it with a clock that only device time advances."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.bench_support import SLUGS, asv, labels, prepare_timing, slug_of
from normbench.study.machine.environment import gpu_present


class DeviceClock:
    """Seconds that the device has worked for `run` so far; it stands still otherwise.

    Given to asv as `timer`, it makes a `time_*` benchmark record device time, with samples and their statistics.
    """

    def __init__(self, measure: Callable[[Callable, tuple], float]):
        self._measure = measure
        self._now_s = 0.0

    def __call__(self) -> float:
        return self._now_s

    def run(self, call: Callable, inputs: tuple) -> None:
        self._now_s += self._measure(call, inputs)


def device_seconds(call: Callable, inputs: tuple) -> float:
    """Seconds of the kernels and copies of one call on the GPU's streams, as JAX's profiler records them."""
    import jax

    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(call(*inputs))
        (trace,) = Path(folder).rglob("*.xplane.pb")
        return stream_seconds(jax.profiler.ProfileData.from_file(str(trace)))


def stream_seconds(profile: Any) -> float:
    """The sum over all events of the streams of a trace's GPU.

    Raises:
      RuntimeError: where the trace has none: the driver may deny profiling.
    """
    planes = [plane for plane in profile.planes if plane.name.startswith("/device:GPU:")]
    lines = [line for plane in planes for line in plane.lines if line.name.startswith("Stream #")]
    durations_ns = [event.duration_ns for line in lines for event in line.events]
    if not durations_ns:
        raise RuntimeError("the profiler recorded nothing on the GPU; may this user profile it?")
    return sum(durations_ns) * 1e-9


class DeviceLatency:
    """Device time of one call on the GPU, warm cache; compiled and checked ahead. Only where there is a GPU."""

    params = (labels(SLUGS),)
    param_names = ("case",)
    version = "1"
    timeout = 300
    number = 1
    repeat = (10, 30, 5.0)
    warmup_time = 0.2
    timer = DeviceClock(device_seconds)

    def setup(self, case):
        self.call, self.inputs = prepare_timing(slug_of(case), "gpu")

    @asv(skip_benchmark=not gpu_present())
    def time_device(self, case):
        self.timer.run(self.call, self.inputs)
