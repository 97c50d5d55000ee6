"""Who gets which batch, and what becomes of a lost one: with a Ray that is made up, so that it is tested everywhere."""

import random
from collections import deque
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from normbench.errors import UserError
from normbench.study.schedule import ray as ray_study
from normbench.study.schedule.compiling import Progress
from normbench.study.schedule.ray import ATTEMPTS, Batch, RayStudy
from normbench.study.schedule.units import Unit
from normbench.study.schedule.worker_process import Settings

NAMES = ("NodeDiedError", "WorkerCrashedError", "ObjectLostError", "OutOfMemoryError", "LocalRayletDiedError")
ERRORS = {name: type(name, (Exception,), {}) for name in (*NAMES, "RayActorError")}


class Reference:
    """Of a task: what it will answer, and at which place."""

    def __init__(self, answer, number):
        self.answer, self.number = answer, number


class FakeRay:
    """Answers in a random order; a reference is what it will answer, or the error."""

    exceptions = SimpleNamespace(**ERRORS)

    def __init__(self, seed):
        self._random = random.Random(seed)

    def wait(self, references):
        ready = self._random.choice(references)
        return [ready], [one for one in references if one is not ready]

    def get(self, reference):
        if isinstance(reference.answer, Exception):
            raise reference.answer
        return reference.answer


def batch(number):
    unit = Unit("compile", "h200", 0, f"p{number}", (f"c{number}",), False)
    return Batch([unit], [Settings("compile", "h200", 0, False, "", (), (), 0, 0.9, 1, host="here")])


def drive(tmp_path, monkeypatch, seed, batches, answer, places):
    """Drives batches; `answer(place, batch)` is what comes of one, None for its result. Returns what was finished."""
    monkeypatch.setattr(ray_study, "require_ray", lambda: FakeRay(seed))
    study, found, holding = RayStudy.__new__(RayStudy), [], set()
    study._run = tmp_path

    def place(number):
        def begin(one):
            assert number not in holding, "a place has one batch at a time"
            holding.add(number)
            error = answer(number, one)
            result = ([Progress.at(unit, one.settings[0]) for unit in one.units], {})
            return Reference(result if error is None else error, number)

        return begin

    get = FakeRay.get

    def released(self, reference):
        holding.discard(reference.number)
        return get(self, reference)

    monkeypatch.setattr(FakeRay, "get", released)
    study._drive(deque(batches), [place(number) for number in range(places)], found.append)
    return found


@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 5), st.sampled_from(NAMES))
def test_every_batch_is_finished_once_whatever_is_lost_on_the_way(tmp_path_factory, seed, count, places, name):
    rng = random.Random(seed)

    def answer(place, one):
        return ERRORS[name]() if one.attempts < ATTEMPTS and rng.random() < 0.4 else None

    with pytest.MonkeyPatch.context() as monkeypatch:
        found = drive(
            tmp_path_factory.getbasetemp(),
            monkeypatch,
            seed,
            [batch(number) for number in range(count)],
            answer,
            places,
        )
    assert sorted(one.unit.problem for one in found) == sorted(f"p{number}" for number in range(count))
    assert not any(one.rows for one in found), "none of them was given up"


def test_a_lost_actors_work_is_done_by_another_and_it_gets_no_more(tmp_path, monkeypatch):
    begun = []

    def answer(place, one):
        begun.append((place, one.units[0].problem))
        return ERRORS["RayActorError"]() if place == 0 else None

    found = drive(tmp_path, monkeypatch, 1, [batch(number) for number in range(6)], answer, places=2)
    assert len(found) == 6
    assert [place for place, _ in begun].count(0) == 1
    assert {problem for place, problem in begun if place == 1} == {f"p{number}" for number in range(6)}


def test_where_the_last_actor_is_lost_the_study_says_how_to_go_on(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="lost its last node; go on with: normbench study --resume"):
        drive(tmp_path, monkeypatch, 1, [batch(0)], lambda place, one: ERRORS["RayActorError"](), places=2)


def test_what_loses_its_node_each_time_is_given_up_and_the_rest_goes_on(tmp_path, monkeypatch):
    def answer(place, one):
        return ERRORS["NodeDiedError"]() if one.units[0].problem == "p1" else None

    found = {one.unit.problem: one for one in drive(tmp_path, monkeypatch, 1, [batch(n) for n in range(3)], answer, 2)}
    assert set(found) == {"p0", "p1", "p2"}
    (row,) = found["p1"].tables()["compiled"]
    assert (row["status"], row["host"]) == ("killed", None)
    assert f"was lost {ATTEMPTS} times" in row["reason"]


def test_an_error_of_ours_is_not_taken_for_a_lost_node(tmp_path, monkeypatch):
    with pytest.raises(ZeroDivisionError):
        drive(tmp_path, monkeypatch, 1, [batch(0)], lambda place, one: ZeroDivisionError(), places=1)


def test_a_cluster_that_lends_nothing_is_one_line_and_no_waiting(monkeypatch):
    monkeypatch.setattr(ray_study, "require_ray", lambda: FakeRay(0))
    study = RayStudy.__new__(RayStudy)
    study.nodes = ()
    with pytest.raises(UserError, match="lends a CPU"):
        study.compile([], lambda unit: unit, lambda progress: None)
