"""A worker process, which `normbench.start` starts: it compiles or measures unit after unit, and dies with its parent.

It reads JSON lines from standard input: first its settings, then one unit a line; the end of the input ends it. While
it measures it pauses between rounds, says so, and goes on at the next line: the turns of
`normbench.study.schedule.turns`. It writes JSON lines to a descriptor of its own, as libraries write to standard
output. What it is busy with stands in a shared page that costs a timed region nothing: the parent reads it when the
worker dies or takes too long.
"""

import argparse
import ctypes
import json
import mmap
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from normbench.study.schedule.mark import Mark
from normbench.study.schedule.store import StorageError
from normbench.study.schedule.units import Unit
from normbench.study.user_modules import import_modules


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m normbench.study.worker.main", description=__doc__)
    for name in ("results", "mark", "parent"):
        parser.add_argument(f"--{name}", type=int, required=True)
    options = parser.parse_args()
    _die_with(options.parent)
    os.dup2(2, 1)
    mark = Mark(mmap.mmap(options.mark, Mark.SIZE_BYTES))
    with os.fdopen(options.results, "w") as results:

        def send(**message: Any) -> None:
            results.write(json.dumps(message) + "\n")
            results.flush()

        _serve(send, mark)


def _die_with(parent: int) -> None:
    """The kernel kills this process when its parent dies; a parent that is dead already is noticed here."""
    if sys.platform.startswith("linux"):
        set_parent_death_signal = 1
        ctypes.CDLL(None, use_errno=True).prctl(set_parent_death_signal, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _serve(send, mark: Mark) -> None:
    lines = _lines_until_parent_ends()
    settings = json.loads(next(lines))
    import_modules(settings["imports"])

    def pause() -> None:
        mark(None, "waiting")
        send(event="pause")
        next(lines)

    handle = _handler(settings, send, mark, pause)
    send(event="ready")
    for line in lines:
        unit = Unit(**{name: _tuples(value) for name, value in json.loads(line).items()})
        mark.units(unit.cases)
        try:
            handle(unit)
        except StorageError as error:
            send(event="stop", reason=f"{error.strerror or error}")
            return
        mark(None, "waiting")
        send(event="end", unit=unit.name)


def _tuples(value: Any) -> Any:
    """JSON has lists alone."""
    return tuple(_tuples(one) for one in value) if isinstance(value, list) else value


def _lines_until_parent_ends():
    """Lines of standard input; when it ends the process ends, whatever it is busy with."""
    import queue

    received: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            received.put(line)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        yield received.get()


def _handler(settings: dict[str, Any], send, mark: Mark, pause: Callable[[], None]):
    """What carries out the units of a worker's kind; what the other kinds need is not imported."""
    from normbench.study.clocks.memory import limit_memory

    run = Path(settings["run"])

    def emit(case: str | None, tables: dict[str, list], done: bool = False, right: str = "") -> None:
        send(event="rows", case=case, tables=tables, done=done, right=right)

    if settings["target"] != "gpu":  # CUDA maps more than it uses
        limit_memory(settings["memory_share"])
    if settings["kind"] == "compile":
        return _compiling(settings, run, emit, mark)
    if settings["kind"] == "attribute":
        from normbench.study.worker.attribution import attribute_unit

        return lambda unit: attribute_unit(unit, run, emit, mark)
    return _measuring(settings, run, emit, mark, pause)


def _compiling(settings: dict[str, Any], run: Path, emit, mark: Mark):
    from normbench.cache.compilations import Compilations
    from normbench.study.machine.environment import lowering_context
    from normbench.study.worker.compile import Lowerings, compile_unit

    folder = None if settings["cache"] is None else Path(settings["cache"])
    compilations = Compilations(folder, None if settings["imports"] else lowering_context())
    lowerings = Lowerings(shared=not settings["imports"])
    return lambda unit: compile_unit(unit, run, emit, mark, compilations, lowerings)


def _measuring(settings: dict[str, Any], run: Path, emit, mark: Mark, pause: Callable[[], None]):
    from normbench.study.clocks.sampling import StoppingRule
    from normbench.study.worker.bench import Bench
    from normbench.study.worker.measure import Measurement

    bench = Bench(settings["target"], settings["process"], settings["processes"], settings["seed"])
    rule = StoppingRule(**settings["rule"])
    return lambda unit: Measurement(unit, rule, bench, run, emit, mark, pause).run()


if __name__ == "__main__":
    main()
