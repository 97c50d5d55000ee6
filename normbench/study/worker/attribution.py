"""In a worker: which launch of a program takes how long? From the profiler's trace, apart from the other clocks.

Each instruction's events within one call are added up. On a GPU the worker runs without command buffers, in which the
instructions would not be told apart. On a CPU an event lasts from the start of an instruction to its end, waiting for
threads included.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from normbench.cases.case import Case
from normbench.study.clocks.device_records import Call, Record, Source, Trace
from normbench.study.schedule.units import Unit
from normbench.study.worker.compiled_case import compile_case, draw, inputs_of, outcome

CALLS = 5
WARM_UP_CALLS = 2


def attribute_unit(unit: Unit, run: Path, emit: Callable[..., None], mark: Callable[[str | None, str], None]) -> None:
    """Emits the rows of "launch_times" of each case."""
    source = Trace()
    oracle = None
    for slug in unit.cases:
        key = {"case": slug, "device": unit.target, "source": source.name}
        mark(slug, "attributing the time of")
        try:
            case = Case.from_slug(slug)
            oracle = oracle or draw(case)
            compiled, _ = compile_case(case, unit.target, run)
            rows = measure(source, compiled.call, inputs_of(compiled.program, oracle))
            rows = [{**key, **row, "status": "ok"} for row in rows]
        except Exception as error:
            status, reason = outcome(error)
            rows = [{**key, "status": status, "reason": reason}]
        emit(slug, {"launch_times": rows}, done=True)


def measure(source: Source, call: Callable[..., Any], inputs: tuple, calls: int = CALLS) -> list[dict[str, Any]]:
    """Runs a program a few times, warm, and returns a row per instruction and call."""
    for _ in range(WARM_UP_CALLS):
        jax.block_until_ready(call(*inputs))
    return launch_rows(source.record(call, [inputs] * calls))


def launch_rows(calls: Sequence[Call]) -> list[dict[str, Any]]:
    """The seconds of each HLO instruction in each call, and the names of its kernels; what the source gives no
    instruction is left out."""
    rows = []
    for sample, call in enumerate(calls):
        found: dict[str, list[Record]] = {}
        for record in call:
            if record.hlo_name is not None:
                found.setdefault(record.hlo_name, []).append(record)
        for name, records in found.items():
            kernels = ",".join(dict.fromkeys(record.name for record in records))
            seconds = sum(record.duration_s for record in records)
            rows.append({"name": name, "sample": sample, "seconds": seconds, "kernels": kernels})
    return rows
