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
SETTINGS = {"kind": "measure", "processes": 1, "memory_share": 0.9, "host": "here", "device_id": None}


class FakeWorker:
    """Times each case in ROUNDS rounds; dies once on a case called "dies"; never times one called "wrong".

    On a unit with a case called "killed" it is killed from outside, once, before its first round. It holds what the
    largest of the problems that it has begun takes, of `takes`.
    """

    takes: ClassVar[dict[str, int]] = {}
    alive: ClassVar[list["FakeWorker"]] = []
    most_held: ClassVar[list[int]] = []
    log: ClassVar[list[tuple[int, str]]] = []
    dead: ClassVar[set[tuple[int, str]]] = set()
    begun: ClassVar[list[Unit]] = []

    def __init__(self, settings):
        self.settings, self.ready = settings, False
        self.results, self._write = os.pipe()
        self._messages = deque([{"event": "ready"}])
        self._ended = False
        self._held = None
        self.alive.append(self)

    def _wake(self):
        os.write(self._write, b".")

    def begin(self, unit):
        self._unit, self._round = unit, 0
        self.begun.append(unit)
        if self.takes:
            self._held = max(self._held or 0, self.takes[unit.problem])
        self.most_held.append(sum(worker.resident_bytes() or 0 for worker in self.alive))
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
        return self._held

    def close(self):
        self.alive.remove(self)
        os.close(self.results)
        os.close(self._write)


@pytest.fixture
def worker(monkeypatch):
    monkeypatch.setattr(turns, "Worker", FakeWorker)
    monkeypatch.setattr(FakeWorker, "log", [])
    monkeypatch.setattr(FakeWorker, "dead", set())
    monkeypatch.setattr(FakeWorker, "begun", [])
    monkeypatch.setattr(FakeWorker, "most_held", [])
    yield FakeWorker
    assert not FakeWorker.alive


@pytest.fixture
def memory(monkeypatch, worker):
    """Of 10 units, of which processes that are alive together may hold 6."""
    monkeypatch.setattr(turns, "available_bytes", lambda: 10 - sum(one.resident_bytes() for one in worker.alive))
    return FakeWorker


def unit(problem, process, *cases, peer=""):
    return Unit("measure", "cpu", process, problem, cases, False, peer=peer)


def carry_out(units, untimed=lambda unit: None, told=None):
    found = []
    settings = [SimpleNamespace(**SETTINGS, process=process) for process in range(9)]
    Turns(
        units, lambda unit: settings[unit.process], 9.0, found.append, untimed, [].append if told is None else told
    ).run()
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


def of_two_libraries(problems, processes):
    return [
        unit(name, number, "a", peer=peer) for name in problems for number in range(processes) for peer in ("", "p")
    ]


def test_as_many_repetitions_are_alive_as_memory_holds_each_with_all_its_libraries(memory, monkeypatch):
    monkeypatch.setattr(memory, "takes", {"x": 1, "y": 1})
    told = []
    found = carry_out(of_two_libraries("xy", 5), told=told.append)
    assert len(found) == 20
    assert max(memory.most_held) == 6
    first, later = memory.log[: 3 * 2 * 2 * (ROUNDS + 1)], memory.log[3 * 2 * 2 * (ROUNDS + 1) :]
    assert [process for process, _ in first] == [0, 0, 1, 1, 2, 2] * 2 * (ROUNDS + 1)
    assert [process for process, _ in later] == [3, 3, 4, 4] * 2 * (ROUNDS + 1)
    assert told == ["memory holds the processes of 3 repetitions at a time; 2 are measured after them"]


def test_those_that_a_larger_problem_leaves_no_room_for_are_ended_and_go_on_after_the_others(memory, monkeypatch):
    monkeypatch.setattr(memory, "takes", {"x": 1, "y": 2, "z": 1})
    found = carry_out(of_two_libraries("xyz", 3))
    assert len(found) == 18
    assert max(memory.most_held) == 7  # the first one's libraries show one by one what y takes
    on_y = [process for process, problem in memory.log if problem.endswith("y")]
    assert on_y == [process for process in range(3) for _ in range(2 * (ROUNDS + 1))]
    on_x = [process for process, problem in memory.log if problem.endswith("x")]
    assert on_x == [0, 0, 1, 1, 2, 2] * (ROUNDS + 1)
    assert sum(one.problem == "x" for one in memory.begun) == 6  # nothing is measured twice


def test_one_repetition_goes_on_where_memory_holds_none(memory, monkeypatch):
    monkeypatch.setattr(memory, "takes", {"x": 9})
    found = carry_out(of_two_libraries("x", 2))
    assert len(found) == 4
    assert [process for process, _ in memory.log] == [0] * 2 * (ROUNDS + 1) + [1] * 2 * (ROUNDS + 1)


@pytest.mark.parametrize("room", range(1, 14))
@pytest.mark.parametrize("case", ["a", "killed", "dies", "wrong"])
def test_every_unit_is_carried_out_once_whatever_memory_holds(worker, monkeypatch, room, case):
    """Also where a process is killed or finds nothing to time, and where units of an earlier attempt are missing."""
    takes = {"w": 1, "x": 2, "y": 1, "z": 3}
    monkeypatch.setattr(worker, "takes", takes)
    monkeypatch.setattr(turns, "available_bytes", lambda: room - sum(one.resident_bytes() for one in worker.alive))
    units = [
        Unit("measure", "cpu", process, problem, ("a", case) if problem == "x" else ("b",), False, peer=peer)
        for problem in takes for process in range(3) for peer in ("", "p")
        if (problem, process, peer) not in {("w", 1, ""), ("x", 2, "p"), ("z", 0, "")}
    ]  # fmt: skip
    found = []
    settings = [SimpleNamespace(**SETTINGS, process=process) for process in range(3)]
    Turns(units, lambda unit: settings[unit.process], 9.0, found.append, lambda unit: set()).run()
    assert sorted(progress.unit.name for progress in found) == sorted(one.name for one in units)
    for progress in found:
        assert not progress.remaining
