"""The command `normbench study` on real cases: its table, its report, its exit status, and the same run resumed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from normbench.report.findings.conclusion import resume_command

ROOT = Path(__file__).resolve().parents[2]
WRONG_VARIANT = """
from normbench.kernels.registry import Variant, get, register_variant


def off_by_one(x, *parameters, **keywords):
    return get("batch_norm", "naive").function(x, *parameters, **keywords) + 1


register_variant(Variant("batch_norm", "off_by_one", off_by_one, "Wrong on purpose."))
"""


def normbench(folder, *arguments):
    variables = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join((str(ROOT), str(folder)))}
    return subprocess.run(
        [sys.executable, "-m", "normbench.cli.main", *arguments],
        cwd=folder,
        env=variables,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("study")
    (path / "wrong_variant.py").write_text(WRONG_VARIANT)
    return path


@pytest.fixture(scope="module")
def done(folder):
    return normbench(
        folder,
        *("study", "--preset", "smoke", "--operator", "batch_norm", "--variant", "naive", "off_by_one"),
        *("--target", "cpu", "--import", "wrong_variant"),
    )


def test_a_study_ends_with_its_table_and_the_path_of_its_report(done, folder):
    assert "Which variant to use" in done.stdout
    assert "off_by_one" in done.stdout
    assert len(done.stdout.splitlines()) <= 40
    assert "Traceback" not in done.stderr
    report = folder / done.stdout.splitlines()[-1].removeprefix("Report: ")
    assert report.name == "report.html"
    assert report.is_file()


def test_a_wrong_case_gives_status_1(done):
    assert done.returncode == 1, done.stderr


def test_a_run_lies_in_the_default_folder_and_knows_its_command(done, folder):
    (run,) = (folder / "results/runs").iterdir()
    info = json.loads((run / "run.json").read_text())
    assert info["status"] == "complete"
    assert info["command"].startswith("normbench study --preset smoke")
    assert info["environment"]["cpu"]["usable_cores"] >= 1


def test_resuming_a_complete_run_prints_it_again(done, folder):
    (run,) = (folder / "results/runs").iterdir()
    again = normbench(folder, "study", "--resume", str(run))
    assert again.returncode == 1, again.stderr
    assert "off_by_one" in again.stdout


def test_report_writes_where_it_is_told(done, folder):
    (run,) = (folder / "results/runs").iterdir()
    told = normbench(folder, "report", str(run), "--html", str(folder / "elsewhere.html"))
    assert told.returncode == 0, told.stderr
    assert (folder / "elsewhere.html").is_file()
    refused = normbench(folder, "report", str(run), "--html", "/proc/x.html")
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1


def test_the_line_that_resumes_works_as_it_is_printed_from_another_folder(done, folder, tmp_path):
    """The run imports a module that lies in the folder where it was made: it knows where."""
    (run,) = (folder / "results/runs").iterdir()
    variables = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    line = resume_command(run)
    again = subprocess.run(line, shell=True, cwd=tmp_path, env=variables, capture_output=True, text=True)
    assert again.returncode == 1, again.stderr  # the variant that is wrong
    assert again.stdout.splitlines()[-1] == f"Report: {run / 'report.html'}"
    assert again.stdout.count("off_by_one") >= 1
