"""The plan of a GPU's session: every kind of case first, and what is left out is told. Nothing here needs a GPU."""

from itertools import pairwise

import pytest

from benchmarks import cli
from benchmarks.cases import cases
from benchmarks.gpu_plan import plan, seconds, stratum
from benchmarks.gpu_target import dump_target_config

CASES = cases("standard")


def test_every_case_is_chosen_or_left_out_once():
    found = plan(CASES, budget_s=300)
    assert sorted(case.slug for case in found.chosen + found.left_out) == sorted(case.slug for case in CASES)


def test_every_kind_comes_before_more_of_any():
    order = plan(CASES, budget_s=float("inf")).chosen
    kinds = {stratum(case) for case in CASES}
    problems = list(dict.fromkeys(case.problem_slug for case in order))
    first = {case.problem_slug: stratum(case) for case in order}
    assert {first[slug] for slug in problems[: len(kinds)]} == kinds


def test_variants_of_a_problem_stay_together():
    slugs = [case.problem_slug for case in plan(CASES, budget_s=float("inf")).chosen]
    changes = sum(a != b for a, b in pairwise(slugs))
    assert changes + 1 == len(set(slugs))


def test_the_budget_is_kept():
    assert len(plan(CASES, budget_s=100, seconds_per_case=1.0).chosen) <= 100


@pytest.mark.parametrize(("text", "value"), [("8m", 480), ("480s", 480), ("90", 90), ("1h", 3600)])
def test_a_budget_is_read(text, value):
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "m", "0", "-3m", "soon", "nan"])
def test_a_budget_that_is_none_is_refused(text, capsys):
    assert cli.main(["gpu", "--budget", text, "--dry-run"]) == 2
    assert "budget" in capsys.readouterr().err


def test_a_dry_run_prints_the_plan_and_measures_nothing(tmp_path, capsys):
    assert cli.main(["gpu", "--dry-run", "--preset", "smoke", "--out", str(tmp_path)]) == 0
    assert "left out" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_without_a_gpu_it_refuses_to_measure(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("benchmarks.environment.gpu_present", lambda: False)
    assert cli.main(["gpu", "--preset", "smoke", "--out", str(tmp_path)]) == 2
    assert "has none" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_cpu_has_no_target_configuration(tmp_path):
    assert dump_target_config(tmp_path) is None
    assert not list(tmp_path.iterdir())


def test_the_default_budget_has_room_for_every_kind_and_200_cases():
    chosen = plan(CASES, seconds("8m")).chosen
    assert {stratum(case) for case in chosen} == {stratum(case) for case in CASES}
    assert len(chosen) >= 200
