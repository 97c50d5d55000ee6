"""In a worker: measures all the variants of one problem, interleaved, after each has been found to be right."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from normbench import kernels
from normbench.cases.case import Case
from normbench.errors import UserError
from normbench.kernels.pallas import tuning
from normbench.schema import DEVICE_CLOCKS
from normbench.study.check.accuracy import Error, Oracle
from normbench.study.clocks import throttle
from normbench.study.clocks.host import garbage_collection_off
from normbench.study.clocks.memory import available_bytes, prefault
from normbench.study.clocks.sampling import Series, StoppingRule, interleave, outliers, two_modes
from normbench.study.schedule.units import Unit
from normbench.study.tune import choices
from normbench.study.worker.aa import against_itself
from normbench.study.worker.bench import Bench
from normbench.study.worker.compiled_case import (
    INTERPRETED,
    Compiled,
    check_hard,
    check_interpreted,
    compile_case,
    digest_of,
    draw,
    inputs_of,
    outcome,
    outcome_of,
    run_once,
    unsupported,
)
from normbench.study.worker.series import POOL_SHARE, Pools, pool_key, series_of, working_bytes

Emit = Callable[..., None]
Mark = Callable[[str | None, str], None]


class Measurement:
    """One unit of measurement.

    `emit(case, tables, done)` hands over rows; `mark(case, step)` says what is next; `pause()` returns when it is the
    turn of this process again.
    """

    def __init__(
        self, unit: Unit, rule: StoppingRule, bench: Bench, run: Path, emit: Emit, mark: Mark, pause: Callable[[], None]
    ):
        self.unit = unit
        self.rule = rule
        self.bench = bench
        self.run_folder = run
        self.emit = emit
        self.mark = mark
        self.pause = pause
        self.first = unit.process == 0
        self.right = dict(unit.right)
        self.notes: list[dict[str, Any]] = []

    def run(self) -> None:
        cases = [Case.from_slug(slug) for slug in self.unit.cases]
        compiled = [one for case in cases if (one := self._compile(case))]
        if not compiled:
            return
        self.mark(None, "drawing inputs")
        oracle = self._draw(compiled)
        if oracle is None:
            return
        checked = [(one, self._check(one, oracle)) for one in compiled]
        ready = [(one, inputs) for one, inputs in checked if isinstance(one, Compiled) and inputs is not None]
        if ready:
            self._time(ready, oracle)

    def _compile(self, case: Case) -> Compiled | Case | None:
        """Returns the compiled case, the case itself where it can be interpreted only, None where that was the end."""
        self.mark(case.slug, "compiling")
        try:
            with tuning.asked() as kernels_of_ours:
                compiled, tables = compile_case(case, self.unit.target, self.run_folder)
        except Exception as error:
            status, reason = outcome_of(case, error)
            if status == "unsupported" and self._interpreted(case):
                if self.first:
                    self.emit(case.slug, {"compiled": [self._compiled_row(case.slug, status, reason)]})
                return case
            self._end(case.slug, status, reason, compiled=True, accuracy=True)
            return None
        if self.first:
            self.emit(case.slug, tables)
            self.notes += [{**self._place("case", case.slug), "text": text} for text in self._tuned(kernels_of_ours)]
        return compiled

    def _tuned(self, keys: Iterable[str]) -> list[str]:
        """What the block sizes of Pallas kernels rest on, on a GPU."""
        return [choices.note(jax.devices()[0].device_kind, key) for key in keys] if self.unit.target == "gpu" else []

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
            inputs = inputs_of(one.program, oracle, one.hosted)
            result = run_once(one, inputs, self.unit.target)
            digest = digest_of(result)
            if self.right.get(case.slug) == digest:
                return inputs
            found = oracle.check(one.program, result)
            hard = check_hard(one, oracle) if self.first else None
        except Exception as error:
            self._end(case.slug, *outcome_of(case, error), accuracy=True)
            return None
        self._emit_accuracy(case, found, hard)
        if reason := _wrong(found, hard):
            self._end(case.slug, "wrong", reason)
            return None
        self.emit(case.slug, {}, right=digest)
        return inputs

    def _check_interpreted(self, case: Case, oracle: Oracle) -> None:
        reason = INTERPRETED
        try:
            found = check_interpreted(case, oracle)
        except UserError as refusal:  # a dtype or a size that the kernel takes nowhere
            found, reason = None, str(refusal)
        if found:
            self._emit_accuracy(case, found)
        elif self.first:
            self.emit(case.slug, {"accuracy": [self._accuracy_row(case.slug, "unsupported", reason)]})
        self._end(case.slug, "unsupported", unsupported(case, "cpu") or INTERPRETED)

    def _emit_accuracy(self, case: Case, found: Error, hard: Error | None = None) -> None:
        if not self.first:
            return
        reason = _wrong(found, hard)
        figures = {**_figures(found), "ulp_dtype": found.ulp_dtype}
        if hard:
            figures |= {f"hard_{name}": value for name, value in _figures(hard).items()}
        row = self._accuracy_row(case.slug, "wrong" if reason else "ok", reason)
        self.emit(case.slug, {"accuracy": [{**row, **figures}]})

    def _accuracy_row(self, slug: str, status: str, reason: str | None) -> dict[str, Any]:
        return {"case": slug, "device": self.unit.target, "status": status, "reason": reason}

    def _end(self, slug: str, status: str, reason: str, *, compiled: bool = False, accuracy: bool = False) -> None:
        """Ends a case with a row that says why in each table that has none yet."""
        tables = {"timings": [{**self._timing_key(slug), "status": status, "reason": reason}]}
        if self.first and compiled:
            tables["compiled"] = [self._compiled_row(slug, status, reason)]
        if self.first and accuracy:
            tables["accuracy"] = [self._accuracy_row(slug, status, reason)]
        self.emit(slug, tables, done=True)

    def _compiled_row(self, slug: str, status: str, reason: str) -> dict[str, Any]:
        return {"case": slug, "target": self.unit.target, "status": status, "reason": reason}

    def _timing_key(self, slug: str) -> dict[str, Any]:
        return {"case": slug, "device": self.unit.target, "process": self.unit.process}

    # Timing.

    def _time(self, ready: list[tuple[Compiled, tuple]], oracle: Oracle) -> None:
        seed = int.from_bytes(hashlib.sha256(self.unit.name.encode()).digest()[:8], "big") ^ self.bench.seed
        series: list[Series] = []
        pools = Pools(
            len({pool_key(one) for one, _ in ready}) * self.bench.processes, self.bench.cache_bytes, self.bench.sweep
        )
        for one, inputs in ready:
            self.mark(one.case.slug, "preparing the timing of")
            try:
                series += series_of(one, pools.rotation(one, inputs), oracle)
            except Exception as error:
                self._end(one.case.slug, *outcome(error))
        prefault(min(max(working_bytes(one) for one, _ in ready), int(POOL_SHARE * available_bytes())))
        self.mark(None, "measuring the ceiling for")
        rows = [] if self.unit.peer else self.bench.launches()
        rows += [row for one, _ in ready for row in self.bench.ceilings.measure(one.minimum_bytes)]
        before = self.bench.state()
        with garbage_collection_off():
            interleave(
                series, self.rule, np.random.default_rng(seed),
                before=lambda one: self.mark(one.case, "timing"), between=self._pause,
            )  # fmt: skip
        after = self.bench.state()
        series += self._by_device(ready, pools, series)
        rows += self._confirm_ceilings(ready, series)
        states = throttle.state_rows(self._place("problem", self.unit.problem_name), before, after)
        self.emit(None, {"ceilings": rows, "device_states": states, "notes": self.notes})
        for one, _ in ready:
            own = [item for item in series if item.case == one.case.slug]
            if own:
                held_back = throttle.held_back(before, after)
                self.emit(one.case.slug, {"timings": self._rows(one, own, held_back)}, done=True)
        self._against_itself(ready, pools, oracle, seed)

    def _by_device(self, ready: list[tuple[Compiled, tuple]], pools: Pools, series: list[Series]) -> list[Series]:
        """The series by the device's own clocks, where there are any, of what could be timed by the host's."""
        self.notes += [{**self._place("case", None), "text": text} for text in self.bench.notes()]
        found: list[Series] = []
        timed = {item.case for item in series if not item.error}
        for one, inputs in ready:
            if self.bench.clocks is None or one.case.slug not in timed:
                continue
            self.mark(one.case.slug, "timing")
            own, note = self.bench.clocks.series(one.case.slug, one.blocking, pools.rotation(one, inputs))
            found += own
            self.notes += [{**self._place("case", one.case.slug), "text": note}] if note else []
        return found

    def _against_itself(self, ready: list[tuple[Compiled, tuple]], pools: Pools, oracle: Oracle, seed: int) -> None:
        """The A/A test of the first variant; nothing that goes wrong in it costs more than the test."""
        if not self.unit.aa:
            return
        one, inputs = ready[0]
        rng = np.random.default_rng(seed + 1)
        try:
            rows = against_itself(
                one, pools.rotation(one, inputs), oracle, self.rule, rng,
                before=lambda item: self.mark(one.case.slug, "timing"), between=self._pause, clocks=self.bench.clocks,
            )  # fmt: skip
        except Exception as error:
            text = f"the A/A test ended: {outcome(error)[1]}"
            self.emit(None, {"notes": [*self.notes, {**self._place("case", one.case.slug), "text": text}]})
            return
        place = {"device": self.unit.target, "process": self.unit.process}
        self.emit(None, {"aa": [{**place, **row} for row in rows]})

    def _place(self, column: str, value: str | None) -> dict[str, Any]:
        return {"device": self.unit.target, "process": self.unit.process, column: value}

    def _pause(self) -> None:
        self.pause()
        self.bench.sweep()  # wakes the threads, which have slept meanwhile

    def _confirm_ceilings(self, ready: list[tuple[Compiled, tuple]], series: list[Series]) -> list[dict[str, Any]]:
        """Measures a ceiling again where a case was faster: it may be the ceiling that was disturbed."""
        sizes = {one.case.slug: one.minimum_bytes for one, _ in ready}
        faster = {sizes[item.case] for item in series if self._impossible(sizes[item.case], item)}
        if faster:
            self.mark(None, "measuring the ceiling for")
        return [row for size in sorted(faster) for row in self.bench.ceilings.measure(size, again=True)]

    def _rows(self, one: Compiled, series: list[Series], held_back: bool | None) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for item in series:
            key = {**self._timing_key(item.case), "stage": item.stage, "clock": item.clock, "cache": item.cache}
            told = {"source": item.source, "throttled": held_back, "cache_ratio": self._cache_ratio(one, item)}
            known = {name: value for name, value in told.items() if value is not None}
            rows += self._sample_rows(key, item, {**known, **self._verdict(one, item)})
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
        if item.cache != "cold" or item.stage != "call" or not item.samples or not item.whole:
            return None
        by_device = item.clock in DEVICE_CLOCKS
        return self.bench.ceilings.impossible(minimum_bytes, float(np.median(item.seconds)), by_device)

    def _cache_ratio(self, one: Compiled, item: Series) -> float | None:
        """Inputs and outputs of a call over the last-level cache; None where its size is not told."""
        known = self.bench.known_cache_bytes
        return one.minimum_bytes / known if known and item.stage == "call" else None

    def _sample_rows(self, key: dict[str, Any], item: Series, verdict: dict[str, Any]) -> list[dict[str, Any]]:
        if not item.samples:
            return []
        flags = outliers(item.seconds)
        when: Sequence[tuple[float | None, float | None]] = item.bursts or [(None, None)] * len(item.samples)
        return [
            {
                **key, "sample": index, "seconds": sample.seconds, "calls": sample.calls,
                "page_faults": sample.page_faults, "outlier": flag, "stop": item.stop,
                "began_unix_s": began_unix_s, "ended_unix_s": ended_unix_s, **verdict,
            }
            for index, (sample, flag, (began_unix_s, ended_unix_s)) in enumerate(
                zip(item.samples, flags, when, strict=True)
            )
        ]  # fmt: skip


def _wrong(found: Error, hard: Error | None) -> str | None:
    """Why a result is wrong, or None; on hard data it is where it errs by more than the variant declares."""
    if not found.ok:
        return found.reason
    return f"on hard data: {hard.reason}" if hard and not hard.ok else None


def _figures(error: Error) -> dict[str, float]:
    return {"max_abs": error.max_abs, "max_rel": error.max_rel, "max_ulp": error.max_ulp, "bound": error.tolerance}


def _case_of(one: Compiled | Case) -> Case:
    return one if isinstance(one, Case) else one.case
