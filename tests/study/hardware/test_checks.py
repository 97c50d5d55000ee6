"""The checks that come before a GPU's times. No GPU is here: kernels are interpreted, devices are fakes named so."""

import dataclasses
import itertools
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.experimental
import numpy as np
import pytest

from normbench import explain, kernels
from normbench.cases.case import cases
from normbench.cli import gpu as cli_gpu
from normbench.cli import main as cli
from normbench.kernels.problem import Problem
from normbench.study.hardware import runs
from normbench.study.hardware.checks import BOTH, CHECKS, DIRTY, SLICED, TOGETHER, Case, Check
from normbench.study.hardware.process import Found, checked
from normbench.study.hardware.runs import Outcome, judged
from normbench.study.schedule.gpu_plan import plan, without

READS_PROGRAMS = True
PAGE = (Path(__file__).resolve().parents[3] / "docs" / "kernels.md").read_text()
SMALL = Problem("rms_norm", (4, 136), "nc", "float32")
FIRST = "for key in sys.argv[1:]: exec(right) if key == 'two:0' else "
"""The beginning of a fake worker: it answers for the first case, and for the second one it does something else."""
TWO = Check("two", "nothing", (Case(SMALL, "naive"), Case(SMALL, "pallas_triton")))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_an_item_of_the_page_has_its_check_and_the_other_way_round(check):
    section = PAGE.partition("## Hardware checklist")[2].partition("\n## ")[0]
    assert f"### {check.name}\n" in section
    assert section.count("\n### ") == len(CHECKS)


@pytest.mark.torture
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_every_program_compiles_for_an_absent_h200(check):
    """What a lent GPU's time is not to be lost on."""
    pytest.importorskip("jax_cuda13_plugin")
    for case in check.cases:
        program = kernels.program(case.problem, case.variant)
        function, given = runs.as_asked(case.how, program.function, program.inputs)
        assert explain(function, *given, target="h200").launches is not None


@pytest.mark.parametrize("variant", BOTH)
@pytest.mark.parametrize("how", ["plain", SLICED, DIRTY, TOGETHER])
def test_interpreted_kernels_pass_however_they_are_launched(variant, how):
    found = judged(Case(SMALL, variant, how), launches=2)
    assert (found.trouble, found.not_here) == ("", "")
    assert 0 < found.worst < 1


def broken(monkeypatch, change):
    """A kernel that is broken on purpose: `change` is made to what it returns."""
    real = kernels.program(SMALL, "naive")
    wrong = dataclasses.replace(real, function=change(real))
    monkeypatch.setattr(runs, "kernels", SimpleNamespace(program=lambda problem, variant: wrong))


def test_a_row_that_a_kernel_leaves_out_is_told(monkeypatch):
    broken(monkeypatch, lambda real: lambda x, gamma: real.function(x, gamma).at[-1].set(0.0))
    assert "relative error" in judged(Case(SMALL, "naive"), launches=1).trouble


def test_other_bits_in_a_later_launch_are_told(monkeypatch):
    """A kernel that lacks a barrier is right most of the time, and its last bits are not the same."""
    count = itertools.count()

    def noisy(real):
        def function(x, gamma):
            y = real.function(x, gamma)
            late = jax.experimental.io_callback(
                lambda: np.float32(next(count) == 2), jax.ShapeDtypeStruct((), np.float32)
            )
            return y * (1 + late * np.float32(1e-6))

        return function

    broken(monkeypatch, noisy)
    assert judged(Case(SMALL, "naive"), launches=4).trouble == "launch 3 of 4 has other bits than the first"


def test_an_older_fake_device_is_told_from_one_that_fails(monkeypatch):
    class FakeDevice:
        platform, compute_capability = "gpu", "8.0"

    monkeypatch.setattr(jax, "devices", lambda *_: [FakeDevice()])
    assert "needs 9.0" in judged(Case(SMALL, "pallas_mosaic")).not_here
    eight_bits = Problem("rms_norm", (4, 128), "nc", "bfloat16", options=(("fp8_scale", 0.5),))
    assert "needs 8.9" in judged(Case(eight_bits, "pallas_triton")).not_here


def fake_worker(text):
    """A process in the place of the worker, which answers as `text` does for the cases in `sys.argv[1:]`."""
    right = """print('{"worst": 0.5, "trouble": "", "not_here": ""}', flush=True)"""
    return [sys.executable, "-c", f"import os, sys, time\nright = {right!r}\n{text}"]


@pytest.mark.parametrize(
    ("text", "words", "line"),
    [
        ("for _ in sys.argv[1:]: print('a compiler prints'); exec(right)", ["", ""], "right    two: 2 programs"),
        (FIRST + "time.sleep(60)", ["", "no answer within 2"], "FAILED   two: 1 of 2"),
        (FIRST + "os.abort()", ["", "SIGABRT"], "FAILED   two: 1 of 2"),
        ("sys.exit('no such module')", ["status 1: no such", "status 1: no such"], "FAILED   two: 2 of 2"),
    ],
    ids=["right", "hangs", "faults", "does not start"],
)  # fmt: skip
def test_a_fake_worker_costs_its_own_case_alone(text, words, line):
    (found,) = checked([TWO], {}, 2.0, fake_worker(text))
    assert len(found.outcomes) == 2
    for outcome, word in zip(found.outcomes, words, strict=True):
        assert word in outcome.trouble
        assert bool(word) == bool(outcome.trouble)
    assert found.line.startswith(line)


def test_the_worker_runs_cases_and_tells_what_raised():
    check = next(check for check in CHECKS if check.name == "alignment")
    small = Check("alignment", check.risk, check.cases[:2])  # the worker finds its cases by name
    (found,) = checked([small], {"JAX_PLATFORMS": "cpu"})
    assert found.line.startswith("right    alignment: 2 programs")


def test_what_failed_is_not_timed():
    chosen = plan(cases("smoke"), 1e6)
    left = without(chosen, {("rms_norm", "naive")})
    assert not [case for case in left.chosen if (case.operator, case.variant) == ("rms_norm", "naive")]
    assert sorted(c.slug for c in left.chosen + left.left_out) == sorted(
        c.slug for c in chosen.chosen + chosen.left_out
    )


@pytest.mark.parametrize("trouble", ["", "a fake device computes nonsense"])
def test_the_command_checks_before_it_times(monkeypatch, capsys, trouble):
    timed = []
    monkeypatch.setattr(cli_gpu, "TARGET", ("cpu",))
    monkeypatch.setattr(cli_gpu, "checked", lambda: [Found(TWO, (Outcome(0.5, trouble), Outcome(0.5)))])
    monkeypatch.setattr(cli_gpu, "_measure", lambda parsed, chosen, left_s: timed.extend(chosen.chosen) or 0)
    status = cli.main(["gpu", "--preset", "smoke", "--operator", "rms_norm", "--variant", "naive", "custom_vjp"])
    assert status == bool(trouble)
    assert {case.variant for case in timed} == ({"custom_vjp"} if trouble else {"naive", "custom_vjp"})
    out = capsys.readouterr().out
    assert ("FAILED   two" in out and "not timed: naive of rms_norm" in out) if trouble else "right    two" in out


def test_the_plan_lists_the_checks(capsys):
    assert cli.main(["gpu", "--preset", "smoke", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert all(f"checked first: {check.name}: " in out for check in CHECKS)
    assert cli.main(["gpu", "--preset", "smoke", "--dry-run", "--skip-checks"]) == 0
    assert "checked first" not in capsys.readouterr().out
