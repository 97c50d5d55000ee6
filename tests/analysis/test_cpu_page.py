"""The comparison with PyTorch: who counts, who is ahead, and what `kernels.best` is told."""

from types import SimpleNamespace

import pandas as pd
import pytest

from analysis.pages import cpu
from normbench.cases.case import Case
from normbench.errors import UserError
from normbench.kernels.problem import Problem

SMALL = Problem("layer_norm", (4, 64), "nc")
LARGE = Problem("layer_norm", (4, 4096), "nc", "bfloat16")


@pytest.fixture
def run(monkeypatch):
    times = {
        SMALL: {"naive": 4e-6, "native": 2e-6, "one_pass": 1e-6, "torch_eager": 3e-6, "torch_compile": 5e-6},
        LARGE: {"naive": 9e-6, "native": 8e-6, "torch_compile": 4e-6},
    }
    rows = [
        {
            "case": Case(problem, variant).slug,
            "problem": Case(problem, variant).problem_slug,
            "target": "cpu",
            "status": "ok",
            "wall_cold_median_s": seconds,
            "wall_warm_median_s": seconds / 2,
        }
        for problem, variants in times.items()
        for variant, seconds in variants.items()
    ]
    monkeypatch.setattr("normbench.report.summary", lambda run: pd.DataFrame(rows))
    return SimpleNamespace(info={}, aa=pd.DataFrame(columns=["seconds", "device", "clock", "cache", "program", "name"]))


def test_the_best_sound_variant_stands_beside_the_better_of_pytorchs(run):
    last, first = cpu.compared(run, "cold")
    assert (last.best, last.rival, last.factor) == ("native", "torch_compile", 0.5)
    assert (first.best, first.rival, first.factor) == ("native", "torch_eager", 1.5)  # one_pass cancels
    ahead, mean, least = cpu.shares([last, first])
    assert (ahead, least) == (0.5, 0.5)
    assert mean == pytest.approx(0.75**0.5)


def test_the_table_has_both_caches_and_a_row_for_each_problem(run):
    lines = cpu.table(run).splitlines()
    assert lines[2].startswith("| cold | 2 | 50.0% | 0.87 | 0.50 |")
    assert lines[3].startswith("| warm | 2 | 50.0% | 0.87 | 0.50 |")
    assert [line.split(" | ")[2][:10] for line in lines if "layer_norm" in line] == ["layer_norm"] * 2


def test_best_is_told_the_times_of_sound_variants_alone(run):
    small = next(row for row in cpu.choices(run)["problems"] if row["elements"] == 256)
    assert small["variants"] == {"naive": 2.0, "native": 1.0}
    assert (small["pass"], small["last"], small["dtype"]) == ("forward", True, "float32")


def test_a_run_without_pytorch_is_refused_in_a_line():
    with pytest.raises(UserError, match="is PyTorch installed"):
        cpu.shares([])
