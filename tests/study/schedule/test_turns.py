"""Processes that measure the same problem take turns, and a crash costs one case."""

import os
from collections import deque
from types import SimpleNamespace
from typing import ClassVar

import pytest

from normbench.study.schedule import turns
from normbench.study.schedule.turns import Turns
from normbench.study.schedule.units import Unit
from normbench.study.schedule.worker_process import Death

ROUNDS = 3


class FakeWorker:
    """Times each case in ROUNDS rounds; dies once on a case called "dies"; never times one called "wrong".

    On a unit with a case called "killed" it is killed from outside, once, before its first round.
    """

    log: ClassVar[list[tuple[int, str]]] = []
    dead: ClassVar[set[tuple[int, str]]] = set()
    begun: ClassVar[list[Unit]] = []

    def __init__(self, settings):
        self.settings, self.ready = settings, False
        self.results, self._write = os.pipe()
        self._messages = deque([{"event": "ready"}])
        self._ended = False

    def _wake(self):
        os.write(self._write, b".")

    def begin(self, unit):
        self._unit, self._round = unit, 0
        self.begun.append(unit)
        self.go_on()

    def go_on(self):
        process = self._unit.process
        self.log.append((process, self._unit.problem_name))
        dies = [case for case in self._unit.cases if case == "dies" and (process, self._unit.name) not in self.dead]
        killed = "killed" in self._unit.cases and (process, self._unit.name) not in self.dead
        if (self._round == 1 and dies) or killed:
            self.dead.add((process, self._unit.name))
            self._ended = True
        elif self._round < ROUNDS:
            self._messages.append({"event": "pause"})
            if self._round == 0:
                self._messages.extendleft(self._found(case) for case in self._unit.cases)
        else:
            self._messages.extend(self._row(case, 1.0) for case in self._unit.cases if case != "wrong")
            self._messages.append({"event": "end"})
        self._round += 1
        self._wake()

    def _found(self, case):
        if case == "wrong":
            return self._row(case, None)
        return {"event": "rows", "case": case, "tables": {}, "done": False, "right": f"digest of {case}"}

    def _row(self, case, seconds):
        row = {"case": case, "seconds": seconds, "process": self._unit.process}
        return {"event": "rows", "case": case, "tables": {"timings": [row]}, "done": True}

    def receive(self):
        os.read(self.results, 100)
        found = list(self._messages)
        self._messages.clear()
        return found, self._ended

    def death(self):
        if "killed" in self._unit.cases:
            return Death(None, "killed", "SIGKILL", from_outside=True)
        return Death(self._unit.cases.index("dies"), "crashed", "SIGSEGV")

    def watch(self, limit_s):
        pass

    def resident_bytes(self):
        return None

    def close(self):
        os.close(self.results)
        os.close(self._write)


@pytest.fixture
def worker(monkeypatch):
    monkeypatch.setattr(turns, "Worker", FakeWorker)
    monkeypatch.setattr(FakeWorker, "log", [])
    monkeypatch.setattr(FakeWorker, "dead", set())
    monkeypatch.setattr(FakeWorker, "begun", [])
    return FakeWorker


def unit(problem, process, *cases):
    return Unit("measure", "cpu", process, problem, cases, False)


def carry_out(units, untimed=lambda unit: None):
    found = []
    settings = [SimpleNamespace(process=process, host="here", device_id=None) for process in range(9)]
    Turns(units, lambda unit: settings[unit.process], 9.0, found.append, untimed).run()
    return {progress.unit.name: progress for progress in found}


def test_processes_take_turns_round_by_round(worker):
    carry_out([unit("x", process, "a", "b") for process in range(3)])
    assert [process for process, _ in worker.log] == [0, 1, 2] * (ROUNDS + 1)


def test_they_are_on_the_same_problem_at_the_same_time(worker):
    carry_out([unit(problem, process, "a") for problem in ("x", "y") for process in range(2)])
    problems = [problem for _, problem in worker.log]
    assert problems == sorted(problems)


def test_they_begin_to_time_a_problem_together(worker):
    """Process 1 comes to y later, as it has x to itself."""
    carry_out([unit("x", 1, "a"), unit("y", 0, "a"), unit("y", 1, "a")], lambda unit: set())
    on_y = [process for process, problem in worker.log if problem.endswith("y")]
    assert on_y == [0, *[1, 0] * ROUNDS, 1]


def test_every_unit_is_finished_with_its_rows(worker):
    found = carry_out([unit(problem, process, "a", "b") for problem in ("x", "y") for process in range(2)])
    assert len(found) == 4
    assert all(len(progress.tables()["timings"]) == 2 for progress in found.values())


def test_what_the_first_process_could_not_time_is_not_tried_again(worker):
    found = carry_out([unit("x", process, "a", "wrong") for process in range(2)])
    assert found["measure-cpu-p0-x"].unit.cases == ("a", "wrong")
    assert found["measure-cpu-p1-x"].unit.cases == ("a",)


def test_what_it_has_found_to_be_right_is_told_to_the_others(worker):
    carry_out([unit(problem, process, "a", "wrong") for problem in ("x", "y") for process in range(2)])
    told = {(one.process, one.problem): one.right for one in worker.begun}
    for problem in ("x", "y"):
        assert told[0, problem] == ()
        assert dict(told[1, problem]) == {"a": "digest of a"}


def test_nor_what_it_could_not_time_in_an_earlier_attempt(worker):
    found = carry_out([unit("x", 1, "a", "b"), unit("y", 1, "a")], lambda unit: set(unit.cases) - {"b"})
    assert found["measure-cpu-p1-x"].unit.cases == ("b",)
    assert found["measure-cpu-p1-y"].unit.cases == ()
    assert len(worker.log) == ROUNDS + 1


def test_a_worker_that_dies_costs_one_case_and_the_turns_go_on(worker):
    found = carry_out([unit("x", process, "a", "dies", "b") for process in range(2)])
    for progress in found.values():
        rows = {row["case"]: row for row in progress.tables()["timings"]}
        assert rows["dies"]["status"] == "crashed"
        assert rows["a"]["seconds"] == rows["b"]["seconds"] == 1.0


def test_a_worker_that_others_kill_costs_nothing(worker):
    """The other process waits until the first has found out, in its second attempt, what cannot be timed."""
    found = carry_out([unit("x", process, "a", "wrong", "killed") for process in range(2)])
    assert found["measure-cpu-p1-x"].unit.cases == ("a", "killed")
    for progress in found.values():
        rows = progress.tables()["timings"]
        assert {row["case"]: row["attempts"] for row in rows} == dict.fromkeys(progress.unit.cases, 2)
        assert len(rows) == len(progress.unit.cases)
