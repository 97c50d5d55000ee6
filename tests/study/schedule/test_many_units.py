"""What the parent does for a unit does not grow with their number, and a worker is replaced for its memory alone."""

import os
import sys
from types import SimpleNamespace

import pytest

from normbench.study.schedule import compiling, turns
from normbench.study.schedule.compiling import WorkerPool, worn_out
from normbench.study.schedule.progress import Log, bar_of
from normbench.study.schedule.store import Store
from normbench.study.schedule.study import StudyConfig, Watch, _sweep
from normbench.study.schedule.turns import Turns
from normbench.study.schedule.units import Unit


class FakeWorker:
    """Does a unit at once: a row for each case; of a measurement after one pause."""

    def __init__(self, settings):
        self.settings, self.ready = settings, True
        self.results, self._write = os.pipe()
        self._messages = [{"event": "ready"}] if settings.kind == "compile" else []
        self._wake()

    def _wake(self):
        os.write(self._write, b".")

    def begin(self, unit):
        self._unit = unit
        self._messages += self._done() if unit.kind == "compile" else [{"event": "pause"}]
        self._wake()

    def go_on(self):
        self._messages += self._done()
        self._wake()

    def _done(self):
        table = "compiled" if self._unit.kind == "compile" else "timings"
        rows = [
            {"event": "rows", "case": case, "tables": {table: [{"case": case, "status": "ok"}]}, "done": True}
            for case in self._unit.cases
        ]
        return [*rows, {"event": "end"}]

    def receive(self):
        os.read(self.results, 1)
        found, self._messages = self._messages, []
        return found, False

    def watch(self, limit_s):
        pass

    def resident_bytes(self):
        return 1

    def close(self):
        os.close(self.results)
        os.close(self._write)


@pytest.fixture(autouse=True)
def fake(monkeypatch):
    for module in (compiling, turns):
        monkeypatch.setattr(module, "Worker", FakeWorker)


def calls(work):
    """How many functions are called, by Python or in C, steps of generators included."""
    count = 0

    def seen(frame, event, argument):
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(seen)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def units(kind, number, processes):
    target = "h200" if kind == "compile" else "cpu"
    return [
        Unit(kind, target, process, f"p{problem}", (f"c{problem}",), False)
        for problem in range(number)
        for process in range(processes)
    ]


def sweep(tmp_path, kind, number, untimed_known):
    """A whole sweep, as a study does it; with `untimed_known` the first process was done in an earlier attempt."""
    config = StudyConfig(cases=(), targets=("cpu",), out=tmp_path, workers=2)
    store = Store.create(tmp_path / f"{kind}-{number}-{untimed_known}", {"preset": "smoke"}, {})
    every = units(kind, number, 1 if kind == "compile" else 2)
    watch = Watch(store, bar_of(len(every), 1, quiet=True), Log(store.path), None)
    if untimed_known:
        for unit in every[::2]:
            store.write_part(unit.name, {"timings": [{"case": unit.cases[0], "seconds": 1.0}]})
    made = calls(lambda: _sweep(config, store, every, watch, None))
    assert len(store.done()) == 1 + len(every)
    return made / number


@pytest.mark.parametrize(("kind", "resumed"), [("compile", False), ("measure", False), ("measure", True)])
def test_the_parents_work_for_a_unit_is_constant(tmp_path, kind, resumed):
    few, many = (sweep(tmp_path, kind, number, resumed) for number in (25, 200))
    assert many < 1.1 * few


@pytest.mark.parametrize("pool", [WorkerPool, Turns])
def test_a_worker_is_replaced_when_it_has_grown_and_not_before(monkeypatch, pool):
    made, held = [], SimpleNamespace(bytes=0)

    class Growing(FakeWorker):
        def __init__(self, settings):
            super().__init__(settings)
            made.append(self)
            held.bytes = 0

        def begin(self, unit):
            super().begin(unit)
            held.bytes += 10

        def resident_bytes(self):
            return held.bytes

    for module in (compiling, turns):
        monkeypatch.setattr(module, "Worker", Growing)
    monkeypatch.setattr(compiling, "total_bytes", lambda: 1000)
    kind = "compile" if pool is WorkerPool else "measure"
    settings = compiling.Settings(kind, "cpu", 0, False, "", (), (), 0, 0.9, 1)
    found = []
    if pool is WorkerPool:
        WorkerPool(units(kind, 100, 1), lambda unit: settings, 1, 9.0, found.append).run()
    else:
        Turns(units(kind, 100, 1), lambda unit: settings, 9.0, found.append, lambda unit: None).run()
    assert len(found) == 100
    assert len(made) == 3, "46 units grow beyond half of nine tenths of 1000 bytes"


def test_where_memory_is_not_told_a_worker_is_replaced_for_its_age():
    settings = compiling.Settings("compile", "cpu", 0, False, "", (), (), 0, 0.9, 1)
    blind = SimpleNamespace(settings=settings, resident_bytes=lambda: None)
    assert not worn_out(blind, compiling.MOST_UNITS - 1)
    assert worn_out(blind, compiling.MOST_UNITS)
    huge = SimpleNamespace(settings=settings, resident_bytes=lambda: 2**50)
    assert not worn_out(huge, compiling.LEAST_UNITS - 1), "one that needs much from the start works all the same"
    assert worn_out(huge, compiling.LEAST_UNITS)


def test_those_who_take_turns_share_the_memory(monkeypatch):
    monkeypatch.setattr(compiling, "total_bytes", lambda: 1000)
    for processes, replaced in ((1, False), (5, True)):
        settings = compiling.Settings("measure", "cpu", 0, False, "", (), (), 0, 0.9, processes)
        worker = SimpleNamespace(settings=settings, resident_bytes=lambda: 200)
        assert worn_out(worker, 100) is replaced
