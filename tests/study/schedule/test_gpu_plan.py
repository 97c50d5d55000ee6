"""The plan of a GPU's session: every kind of case first, and what is left out is told. Nothing here needs a GPU."""

import signal
import subprocess
from itertools import pairwise

import pytest

from normbench import kernels
from normbench.cases.case import cases
from normbench.cli import main as cli
from normbench.cli.gpu import PRECISION
from normbench.study.clocks.device_records import missing
from normbench.study.machine.gpu_target import dump_target_config
from normbench.study.schedule.gpu_plan import MEASURED_SHARE, plan, runs, seconds, stratum

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


def test_the_baseline_and_hand_written_kernels_of_a_kind_come_before_its_other_variants():
    chosen = plan(CASES, seconds("8m")).chosen
    first = {}
    for case in chosen:
        first.setdefault(case.problem_slug, []).append(case.variant)
    assert all(names[0] == kernels.variants(slug.partition(".")[0])[0] for slug, names in first.items())
    all_names = {}
    for case in CASES:
        all_names.setdefault(case.problem_slug, []).append(case.variant)
    for slug, names in first.items():
        written = [name for name in all_names[slug] if name.startswith("pallas")]
        assert set(written[: len(names) - 1]) <= set(names)


def test_what_is_not_supported_costs_no_time():
    assert not all(map(runs, CASES))
    chosen = plan(CASES, budget_s=300, seconds_per_case=1.0).chosen
    assert sum(map(runs, chosen)) <= MEASURED_SHARE * 300


def test_variants_of_a_problem_stay_together():
    slugs = [case.problem_slug for case in plan(CASES, budget_s=float("inf")).chosen]
    changes = sum(a != b for a, b in pairwise(slugs))
    assert changes + 1 == len(set(slugs))


def test_the_budget_is_kept():
    assert sum(map(runs, plan(CASES, budget_s=100, seconds_per_case=1.0).chosen)) <= 100


@pytest.mark.parametrize(("text", "value"), [("8m", 480), ("480s", 480), ("90", 90), ("1h", 3600)])
def test_a_budget_is_read(text, value):
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "m", "0", "-3m", "soon", "nan"])
def test_a_budget_that_is_none_is_refused(text, capsys):
    assert cli.main(["gpu", "--budget", text, "--dry-run"]) == 2
    assert "budget" in capsys.readouterr().err


def test_a_dry_run_prints_the_plan_and_measures_nothing(tmp_path, capsys):
    assert cli.main(["gpu", "--dry-run", "--preset", "smoke", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "left out" in out
    assert all(f"not to be had here: {sentence}" in out for sentence in missing())
    assert not list(tmp_path.iterdir())


def test_without_a_gpu_it_refuses_to_measure(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("normbench.study.machine.environment.gpu_present", lambda: False)
    assert cli.main(["gpu", "--preset", "smoke", "--out", str(tmp_path)]) == 2
    assert "has none" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_budget_that_is_over_at_once_is_refused_in_a_line(monkeypatch, tmp_path, capsys):
    def over(config):
        raise KeyboardInterrupt

    monkeypatch.setattr("normbench.cli.gpu.check_compilers", lambda targets: None)
    monkeypatch.setattr("normbench.study.schedule.study.study", over)
    for name in PRECISION:
        monkeypatch.setenv(name, "highest")
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(signal, "setitimer", lambda *_: None)
    assert cli.main(["gpu", "--preset", "smoke", "--budget", "9s", "--skip-checks", "--out", str(tmp_path)]) == 2
    assert "before a case was measured" in capsys.readouterr().err


def test_checks_that_take_the_whole_budget_end_it_in_a_line(monkeypatch, tmp_path, capsys):
    class Found:
        line, failed = "a check of a fake device: right", frozenset()

    later = iter(range(0, 100, 6))
    monkeypatch.setattr("normbench.cli.gpu.check_compilers", lambda targets: None)
    monkeypatch.setattr("normbench.cli.gpu.checked", lambda: iter([Found(), Found(), Found()]))
    monkeypatch.setattr("normbench.cli.gpu.time.monotonic", lambda: next(later))
    assert cli.main(["gpu", "--preset", "smoke", "--budget", "9s", "--out", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert out.count("a check of a fake device") == 2
    assert "the checks took all of it" in err
    assert not list(tmp_path.iterdir())


def test_the_whole_command_leaves_one_folder_that_can_be_merged(monkeypatch, tmp_path, capsys):
    """On this CPU in place of a GPU, whose numbers are thrown away: what the command does around the measurement."""

    def hangs(folder):
        raise subprocess.TimeoutExpired("python", 120)

    monkeypatch.setattr("normbench.cli.gpu.TARGET", ("cpu",))
    monkeypatch.setattr("normbench.cli.gpu.dump_target_config", hangs)  # after the measurement, which is to stay
    for name in PRECISION:
        monkeypatch.setenv(name, "highest")
    chosen = ["--operator", "rms_norm", "--variant", "naive", "--preset", "smoke", "--skip-checks"]
    assert cli.main(["gpu", *chosen, "--budget", "200s", "--out", str(tmp_path / "out")]) == 0
    out, err = capsys.readouterr()
    assert "the configuration of the target was not stored" in err
    (folder,) = (tmp_path / "out").iterdir()
    assert {"run.json", "timings.parquet", "aa.parquet", "left_out.txt", "report.html"} <= {
        path.name for path in folder.iterdir()
    }
    assert "noise floor" in out
    assert f"normbench merge {folder.name}" in out
    assert cli.main(["merge", str(folder), "--into", str(tmp_path / "results")]) == 0
    assert (tmp_path / "results" / folder.name / "timings.parquet").is_file()


def test_a_cpu_has_no_target_configuration(tmp_path):
    assert dump_target_config(tmp_path) is None
    assert not list(tmp_path.iterdir())


def test_the_default_budget_has_room_for_every_kind_and_200_cases():
    chosen = plan(CASES, seconds("8m")).chosen
    assert {stratum(case) for case in chosen} == {stratum(case) for case in CASES}
    assert len(chosen) >= 200
