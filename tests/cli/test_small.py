"""Small things that once tripped a newcomer, each held by a test."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from normbench import kernels
from normbench.cli import main as cli
from normbench.errors import UserError
from normbench.kernels import registry
from normbench.kernels.registry import Variant, register_variant
from normbench.report.compare.verdict import REASONS
from normbench.report.findings.conclusion import resume_command
from normbench.study.doctor.doctor import failing_imports, imports_check
from normbench.study.schedule.progress import bar_of
from normbench.study.schedule.units import MAX_PROCESSES
from tests.cli.test_main import refused

ROOT = Path(__file__).resolve().parents[2]


def test_the_line_that_resumes_starts_with_what_a_shell_finds_here_and_has_the_whole_path(monkeypatch, tmp_path):
    run = tmp_path / "a run"
    run.mkdir()
    monkeypatch.chdir(tmp_path)
    program, *rest = shlex.split(resume_command(Path("a run")))
    assert rest[-3:] == ["study", "--resume", str(run)]
    done = subprocess.run([program, *rest[:-3], "--version"], capture_output=True, text=True, cwd="/")
    assert done.stdout.startswith("normbench ")


def test_the_help_of_gpu_says_its_own_default(capsys):
    with pytest.raises(SystemExit):
        cli.main(["gpu", "--help"])
    assert "(default: standard)" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (("study", "--preset", ""), "preset ''"),
        (("study", "--operator", ""), "operator ''"),
        (("study", "--operator", "batch_norm", ""), "operator ''"),
        (("study", "--target", ""), "target ''"),
        (("study", "--out", ""), "out ''"),
        (("study", "--resume", ""), "resume ''"),
        (("study", "layer_norm", "--shape", ""), "shape ''"),
        (("list", "--variant", ""), "variant ''"),
        (("report", ""), "run-folder ''"),
        (("report", ".", "--html", ""), "html ''"),
        (("compare", "", ""), "runs ''"),
        (("explain", "", "naive", "--shape", "2x3x4x4"), "operator ''"),
        (("gpu", "--budget", ""), "budget ''"),
    ],
)
def test_an_empty_text_is_refused_by_name(arguments, name, capsys):
    assert f"{name}: it is empty" in refused(capsys, *arguments)


@pytest.mark.parametrize("number", [0, -1, MAX_PROCESSES + 1, 1000])
def test_processes_beyond_reason_are_refused(number, capsys):
    line = refused(capsys, "study", "--preset", "smoke", "--target", "cpu", "--processes", str(number))
    assert f"processes {number}: allowed: 1 to {MAX_PROCESSES}" in line


def test_an_unknown_operator_names_the_nearest(capsys):
    assert "(nearest: layer_norm)" in refused(capsys, "study", "layernorm", "--shape", "8x16")
    for call in (lambda: kernels.get("layernorm", "naive"), lambda: kernels.variants("layernorm")):
        with pytest.raises(UserError, match=r"unknown operator 'layernorm'; .*\(nearest: layer_norm\)"):
            call()
    with pytest.raises(UserError, match=r"\(nearest: folded\)"):
        kernels.get("batch_norm", "fold")


def test_a_variant_is_not_replaced_silently(monkeypatch):
    kernels.operators()
    monkeypatch.setitem(registry._VARIANTS, "batch_norm", dict(registry._VARIANTS["batch_norm"]))
    naive = kernels.get("batch_norm", "naive")
    mine = Variant("batch_norm", "naive", naive.function, "Mine.")
    with pytest.raises(UserError, match="'naive' of batch_norm is registered already; give another name, or replace"):
        register_variant(mine)
    assert kernels.get("batch_norm", "naive") is naive
    assert register_variant(naive) is naive  # a module that is imported again
    assert register_variant(mine, replace=True) is kernels.get("batch_norm", "naive")


def test_goldens_of_commits_are_compared_in_a_checkout_alone(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    line = refused(capsys, "compare", "--golden", "HEAD~1", "HEAD")
    assert f"the current folder {str(tmp_path)!r} is no checkout of normbench" in line


def test_doctor_imports_what_it_vouches_for(tmp_path, monkeypatch):
    (tmp_path / "broken_module.py").write_text("raise OSError('libsomething.so: cannot open')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = failing_imports(("json", "broken_module", "no_such_module"))
    assert found.keys() == {"broken_module", "no_such_module"}
    assert "libsomething.so" in found["broken_module"]
    check = imports_check(found)
    assert check.status == "warn"
    assert "libsomething.so" in check.found
    assert failing_imports(("json",)) == {}
    assert "broken_module" not in sys.modules


def test_problems_are_counted_as_problems_and_steps_as_steps(capsys):
    with bar_of(12, 2) as bar:
        bar.update(3)
    assert capsys.readouterr().err.startswith("study: 3 of 12 steps for 2 problems, ")


def test_one_process_a_side_says_what_to_run_instead():
    assert "--processes 5" in REASONS["one_process"]


def test_readme_says_how_to_silence_jax_without_a_gpu():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "gpu-targets" in text
    assert "export JAX_PLATFORMS=cpu" in text
    assert "cuDNN" in text
