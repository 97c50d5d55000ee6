"""The time of a compiled program, launch by launch, without its device."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from normbench.fusion.compilation import Compilation
from normbench.fusion.launches import Launch, meanwhile
from normbench.fusion.machine_code.assembly import Code
from normbench.fusion.ptx import Kernel
from normbench.fusion.reading import Reading, declared_bytes
from normbench.fusion.targets import TPU, Target, deviceless_target
from normbench.own_targets import deviceless
from normbench.predict import known_error
from normbench.predict.bound import bound
from normbench.predict.devices import Device, device_of
from normbench.predict.known_error import range_of
from normbench.predict.model import Work, timing
from normbench.predict.occupancy import occupancy
from normbench.predict.rules import operations_of, ruled
from normbench.predict.sass import machine_code
from normbench.predict.tpu import ruled_on_tpu
from normbench.predict.trace import trace_of


@dataclass(frozen=True)
class LaunchPrediction:
    """What the model says of one launch with all its repetitions: a prediction, never a measurement.

    Attributes:
      seconds: of the launch; low_s and high_s: the range that the model's known error leaves.
      bound: what it waits for most, in words.
      source: what the prediction was made of: "ptx and sass", "ptx", or the name of a rule.
      kind: of `normbench.predict.known_error`, by which the range was taken.
      occupancy: share of the device's warps that are resident, 0 to 1; None for a rule.
      waves: of the grid; None for a rule.
      in_flight_bytes: of a multiprocessor; None for a rule.
    """

    seconds: float
    low_s: float
    high_s: float
    bound: str
    source: str
    kind: str
    occupancy: float | None = None
    waves: float | None = None
    in_flight_bytes: int | None = None

    def columns(self) -> dict[str, Any]:
        """The columns of the table `launches` that come from it."""
        return {
            "predicted_s": self.seconds,
            "predicted_low_s": self.low_s,
            "predicted_high_s": self.high_s,
            "predicted_from": self.source,
            "bound": self.bound,
            "occupancy": self.occupancy,
            "waves": self.waves,
            "bytes_in_flight": self.in_flight_bytes,
        }


NOTHING = dict.fromkeys(LaunchPrediction(0.0, 0.0, 0.0, "", "", "").columns())
"""The columns of a launch of which the model says nothing."""


@dataclass(frozen=True)
class Prediction:
    """Of a program: its launches in order; empty for a device of which nothing is known.

    Attributes:
      meanwhile: of each asynchronous transfer (a collective, a copy between a TPU's memories), by its index, the
        launches that run between its two halves.
    """

    launches: tuple[LaunchPrediction, ...]
    meanwhile: dict[int, tuple[int, ...]] = field(default_factory=dict)

    @property
    def seconds(self) -> float | None:
        """The sum over the launches, but for what transfers take while others run; None where nothing is known."""
        return self._sum([launch.seconds for launch in self.launches])

    @property
    def low_s(self) -> float | None:
        return self._sum([launch.low_s for launch in self.launches])

    @property
    def high_s(self) -> float | None:
        return self._sum([launch.high_s for launch in self.launches])

    def _sum(self, seconds: list[float]) -> float | None:
        return sum(added(seconds, self.meanwhile)) if self.launches else None

    def columns(self) -> dict[str, Any]:
        """The columns of the table `compiled` that come from it."""
        return {"predicted_s": self.seconds, "predicted_low_s": self.low_s, "predicted_high_s": self.high_s}


def added(seconds: Sequence[float], meanwhile: Mapping[int, Sequence[int]]) -> list[float]:
    """What each launch adds to the time of its program: of an asynchronous transfer what is left when the launches
    that run meanwhile have ended, each of which hides but one transfer at a time."""
    left, found = list(seconds), list(seconds)
    for transfer, launches in meanwhile.items():
        for index in launches:
            taken = min(found[transfer], left[index])
            left[index], found[transfer] = left[index] - taken, found[transfer] - taken
    return found


def meanwhile_of(reading: Reading) -> dict[int, tuple[int, ...]]:
    """The launches that run between the two halves of each asynchronous transfer, by its index."""
    return {one.index: launches for one in reading.launches if (launches := meanwhile(reading.launches, one))}


def predict(reading: Reading, target: str | Target) -> Prediction:
    """Predicts the launches of a program that was read after compiling for `target`, by name or by its facts.

    The prediction is empty where nothing is known of the device: the CPU, or a GPU that has no facts here.
    """
    if isinstance(target, str) and deviceless(target):
        target = deviceless_target(target)
    if not isinstance(target, Target):
        return Prediction(())
    return Prediction(
        tuple(_on_tpu(reading, target) if target.platform == TPU else _on_gpu(reading, target)),
        meanwhile_of(reading),
    )


def _on_tpu(reading: Reading, target: Target) -> Iterator[LaunchPrediction]:
    for one in reading.launches:
        found = ruled_on_tpu(one, target)
        yield _of(found.seconds, one.repetitions, found.rule, bound=found.bound, source=found.rule)


def _on_gpu(reading: Reading, target: Target) -> Iterator[LaunchPrediction]:
    device = device_of(target)
    if device is None:
        return
    operations = operations_of(reading.launches)
    for one in reading.launches:
        code = reading.assembly.code(one.name)
        yield _launch(one, reading.kernel(one), code, operations.get(one.index), device)


def predicted_rows(compilation: Compilation) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The row of the table `compiled` and those of `launches` that a compilation gives, prediction included; without
    case, status and reason."""
    start = time.perf_counter()
    prediction = predict(compilation.reading, compilation.target)
    predict_s = time.perf_counter() - start
    columns = [launch.columns() for launch in prediction.launches]
    rows = compilation.launch_rows()
    launches = [{**row, **known} for row, known in zip(rows, columns or [NOTHING] * len(rows), strict=True)]
    return {**compilation.compiled_row(), **prediction.columns(), "predict_s": predict_s}, launches


def _launch(
    launch: Launch, kernel: Kernel, code: Code | None, operations: float | None, device: Device
) -> LaunchPrediction:
    each = None if operations is None else operations / launch.repetitions
    if code is None or kernel.grid is None or kernel.block is None or each is not None:
        found = ruled(launch, each, device)
        return _of(found.seconds, launch.repetitions, found.rule, bound=found.bound, source=found.rule)
    trace = trace_of(code.ptx, kernel.grid, kernel.block, device)
    fit = occupancy(kernel.grid, kernel.block, kernel.registers, kernel.shared_bytes, device)
    machine = machine_code(code.sass) if code.sass else None
    threads = math.prod(int(size) for size in kernel.block.split("x"))
    found_timing = timing(_work(launch), trace, fit, machine, threads, device)
    seconds, words = found_timing.seconds, bound(found_timing, trace, fit, device)
    return _of(
        seconds,
        launch.repetitions,
        known_error.kind_of(launch, found_timing, trace, machine, device),
        device.assumed,
        bound=words,
        source="ptx and sass" if machine else "ptx",
        occupancy=fit.share,
        waves=fit.waves,
        in_flight_bytes=round(found_timing.in_flight_bytes),
    )


def _of(seconds: float, repetitions: int, kind: str, assumed: bool = False, **facts: Any) -> LaunchPrediction:
    known, whole = range_of(kind, assumed), seconds * repetitions
    return LaunchPrediction(whole, whole * known.low, whole * known.high, kind=kind, **facts)


def _work(launch: Launch) -> Work:
    """Of one run; what a hand-written kernel declares beyond its boundary it moves again."""
    once = launch.read_bytes + launch.write_bytes
    declared = declared_bytes(launch)
    again = max(0, declared - once) if declared is not None else 0
    times = launch.repetitions
    return Work(launch.read_bytes / times, launch.write_bytes / times, again / times)
