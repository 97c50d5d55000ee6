"""In a worker: measures all the variants of one problem, interleaved, after each has been found to be right."""

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import kernels
from benchmarks.accuracy import Error, Oracle
from benchmarks.cases import Case
from benchmarks.ceiling import Ceilings
from benchmarks.clocks import Instruments, Sample, garbage_collection_off, pipelined, wall
from benchmarks.groups import Unit
from benchmarks.memory import Rotation, Sweep, available_bytes, copies, last_level_cache_bytes, prefault, tree_bytes
from benchmarks.sampling import Series, StoppingRule, interleave, outliers, two_modes
from benchmarks.store import Tables
from benchmarks.worker_cases import (
    INTERPRETED_ELEMENTS,
    Compiled,
    Refusal,
    check,
    check_interpreted,
    compile_case,
    draw,
    inputs_of,
    outcome,
)

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

Emit = Callable[..., None]
Mark = Callable[[str | None, str], None]


class Bench:
    """What a worker process keeps from one problem to the next."""

    def __init__(self, device: str, process: int, seed: int):
        self.device = device
        self.process = process
        self.seed = seed
        self.cache_bytes = last_level_cache_bytes(device)
        self.sweep = Sweep(self.cache_bytes)
        self.ceilings = Ceilings(device, process, self.cache_bytes, self.sweep, seed)


class Measurement:
    """One unit of measurement. `emit(case, tables, done)` hands over rows; `mark(case, step)` says what is next."""

    def __init__(self, unit: Unit, rule: StoppingRule, bench: Bench, run: Path, emit: Emit, mark: Mark):
        self.unit = unit
        self.rule = rule
        self.bench = bench
        self.run_folder = run
        self.emit = emit
        self.mark = mark
        self.first = unit.process == 0

    def run(self) -> None:
        cases = [Case.from_slug(slug) for slug in self.unit.cases]
        compiled = [one for case in cases if (one := self._compile(case))]
        if not compiled:
            return
        self.mark(None, "drawing inputs")
        oracle = self._draw(compiled)
        if oracle is None:
            return
        ready = [(one, inputs) for one in compiled if (inputs := self._check(one, oracle)) is not None]
        if ready:
            self._time(ready, oracle)

    def _compile(self, case: Case) -> Compiled | Case | None:
        """Returns the compiled case, the case itself where it can be interpreted only, None where that was the end."""
        self.mark(case.slug, "compiling")
        try:
            compiled, tables = compile_case(case, self.unit.target, self.run_folder)
        except Exception as error:
            status, reason = outcome(error)
            if status == "unsupported" and self._interpreted(case):
                return case
            self._end(case.slug, status, reason, compiled=True, accuracy=True)
            return None
        if self.first:
            self.emit(case.slug, tables)
        return compiled

    def _interpreted(self, case: Case) -> bool:
        return self.unit.target == "cpu" and kernels.get(case.operator, case.variant).interpreted_on_cpu

    def _draw(self, compiled: list[Compiled | Case]) -> Oracle | None:
        cases = [_case_of(one) for one in compiled]
        try:
            return draw(cases[0])
        except Exception as error:
            for case in cases:
                self._end(case.slug, *outcome(error), accuracy=True)
            return None

    def _check(self, one: Compiled | Case, oracle: Oracle) -> tuple | None:
        """Returns the inputs of a case that gave the right result."""
        case = _case_of(one)
        self.mark(case.slug, "checking")
        try:
            if isinstance(one, Case):
                self._check_interpreted(case, oracle)
                return None
            inputs = inputs_of(one.program, oracle)
            error = check(one, inputs, oracle, self.unit.target)
            if not error.ok:
                self._emit_accuracy(case, error, "wrong", error.reason)
                raise Refusal("wrong", error.reason)
        except Exception as error:
            self._end(case.slug, *outcome(error), accuracy=not _is_wrong(error))
            return None
        self._emit_accuracy(case, error, "ok", None)
        return inputs

    def _check_interpreted(self, case: Case, oracle: Oracle) -> None:
        reason = kernels.get(case.operator, case.variant).supports(case.problem, "cpu")
        error = check_interpreted(case, oracle) if self.first else None
        if error is None:
            too_large = f"interpreted on a CPU, and checked there up to {INTERPRETED_ELEMENTS} elements"
            self._emit_accuracy(case, None, "unsupported", too_large)
        else:
            self._emit_accuracy(case, error, "ok" if error.ok else "wrong", None if error.ok else error.reason)
        self._end(case.slug, "unsupported", reason, compiled=True)

    def _emit_accuracy(self, case: Case, error: Error | None, status: str, reason: str | None) -> None:
        if not self.first:
            return
        figures = {name: getattr(error, name) for name in ("max_abs", "max_rel", "max_ulp")} if error else {}
        row = {"case": case.slug, "device": self.unit.target, **figures, "status": status, "reason": reason}
        self.emit(case.slug, {"accuracy": [row]})

    def _end(self, slug: str, status: str, reason: str, *, compiled: bool = False, accuracy: bool = False) -> None:
        """Ends a case with a row that says why in each table that has none yet."""
        tables = {"timings": [{**self._timing_key(slug), "status": status, "reason": reason}]}
        if self.first and compiled:
            tables["compiled"] = [{"case": slug, "target": self.unit.target, "status": status, "reason": reason}]
        if self.first and accuracy:
            tables["accuracy"] = [{"case": slug, "device": self.unit.target, "status": status, "reason": reason}]
        self.emit(slug, tables, done=True)

    def _timing_key(self, slug: str) -> dict[str, Any]:
        return {"case": slug, "device": self.unit.target, "process": self.unit.process}

    # Timing.

    def _time(self, ready: list[tuple[Compiled, tuple]], oracle: Oracle) -> None:
        seed = int.from_bytes(hashlib.sha256(self.unit.name.encode()).digest()[:8], "big") ^ self.bench.seed
        series: list[Series] = []
        pools = _Pools(self.bench, len({_pool_key(one) for one, _ in ready}))
        for one, inputs in ready:
            self.mark(one.case.slug, "preparing the timing of")
            try:
                series += _series(one, pools.rotation(one, inputs), oracle)
            except Exception as error:
                self._end(one.case.slug, *outcome(error))
        prefault(min(max(_working_bytes(one) for one, _ in ready), int(POOL_SHARE * available_bytes())))
        self.mark(None, "measuring the ceiling for")
        rows = [row for one, _ in ready for row in self.bench.ceilings.measure(one.minimum_bytes)]
        with garbage_collection_off():
            interleave(series, self.rule, np.random.default_rng(seed), before=lambda one: self.mark(one.case, "timing"))
        rows += self._confirm_ceilings(ready, series)
        self.emit(None, {"ceilings": rows})
        for one, _ in ready:
            own = [item for item in series if item.case == one.case.slug]
            if own:
                self.emit(one.case.slug, {"timings": self._rows(one, own)}, done=True)

    def _confirm_ceilings(self, ready: list[tuple[Compiled, tuple]], series: list[Series]) -> list[dict[str, Any]]:
        """Measures a ceiling again where a case was faster: it may be the ceiling that was disturbed."""
        sizes = {one.case.slug: one.minimum_bytes for one, _ in ready}
        faster = {sizes[item.case] for item in series if self._impossible(sizes[item.case], item)}
        if faster:
            self.mark(None, "measuring the ceiling for")
        return [row for size in sorted(faster) for row in self.bench.ceilings.measure(size, again=True)]

    def _rows(self, one: Compiled, series: list[Series]) -> Tables:
        rows = []
        for item in series:
            key = {**self._timing_key(item.case), "stage": item.stage, "clock": item.clock, "cache": item.cache}
            rows += self._sample_rows(key, item, self._verdict(one, item))
            if item.error:
                status, reason = outcome(item.error)
                rows.append({**key, "status": status, "reason": reason})
        return rows

    def _verdict(self, one: Compiled, item: Series) -> dict[str, Any]:
        """Status and reason of a series that has samples."""
        if len(item.samples) == 0:
            return {}
        impossible = self._impossible(one.minimum_bytes, item)
        return {"status": "impossible" if impossible else "ok", "reason": impossible or two_modes(item.seconds)}

    def _impossible(self, minimum_bytes: int, item: Series) -> str | None:
        if item.cache != "cold" or item.stage != "call" or not item.samples:
            return None
        return self.bench.ceilings.impossible(minimum_bytes, float(np.median(item.seconds)))

    def _sample_rows(self, key: dict[str, Any], item: Series, verdict: dict[str, Any]) -> list[dict[str, Any]]:
        if not item.samples:
            return []
        flags = outliers(item.seconds)
        return [
            {
                **key, "sample": index, "seconds": sample.seconds, "calls": sample.calls,
                "page_faults": sample.page_faults, "outlier": flag, "stop": item.stop, **verdict,
            }
            for index, (sample, flag) in enumerate(zip(item.samples, flags, strict=True))
        ]  # fmt: skip


def _case_of(one: Compiled | Case) -> Case:
    return one if isinstance(one, Case) else one.case


def _is_wrong(error: Exception) -> bool:
    return isinstance(error, Refusal) and error.status == "wrong"


def _pool_key(one: Compiled) -> str:
    """Variants that take the operator's arrays as they are share their input sets."""
    return one.case.variant if one.program.has_setup else ""


class _Pools:
    """The rotating input sets of one problem."""

    def __init__(self, bench: Bench, pools: int):
        self._bench = bench
        self._budget_bytes = int(POOL_SHARE * available_bytes()) // pools
        self._rotations: dict[str, Rotation] = {}

    def rotation(self, one: Compiled, inputs: tuple) -> Rotation:
        key = _pool_key(one)
        if key not in self._rotations:
            count = Rotation.count(tree_bytes(inputs), self._bench.cache_bytes, self._budget_bytes)
            sets = jax.block_until_ready(copies(inputs, count))
            self._rotations[key] = Rotation(sets, self._bench.cache_bytes, self._bench.sweep)
        return self._rotations[key]


def _series(one: Compiled, rotation: Rotation, oracle: Oracle) -> list[Series]:
    """Warms a case up and returns its series: each clock with each cache state, and what it prepares."""
    instruments = Instruments()
    call, warm = one.call, rotation.sets[0]
    output_bytes = tree_bytes(jax.block_until_ready(call(*warm)))
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
        series.append(_prepare_series(one, oracle))
    return series


def _working_bytes(one: Compiled) -> int:
    """What calls in flight hold, and calls whose results are still to be freed."""
    memory = one.call.memory_analysis()
    output_bytes = memory.output_size_in_bytes
    in_flight_bytes = min(PIPELINE_BYTES, MAXIMUM_PIPELINE * output_bytes)
    return in_flight_bytes + CALLS_UNTIL_FREED * (output_bytes + memory.temp_size_in_bytes)


def _prepare_series(one: Compiled, oracle: Oracle) -> Series:
    """The work ahead of the call: parameters in, folded parameters out."""
    parameters = tuple(jnp.asarray(array) for array in oracle.arrays[1:])
    call = jax.jit(one.program.prepare).lower(*parameters).compile()
    instruments = Instruments()
    wall(call, parameters, instruments)

    def burst() -> list[Sample]:
        wall(call, parameters, instruments)
        return [wall(call, parameters, instruments) for _ in range(MAXIMUM_BURST)]

    return Series(one.case.slug, "prepare", "wall", "warm", burst)


def _clamp(value: float, least: int, most: int) -> int:
    return int(max(least, min(value, most)))
