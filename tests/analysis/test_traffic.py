"""The page of what the compiler refuses has every problem that it is made of, and its figures come out again."""

import importlib.util
import re

import jax
import pytest

from analysis.pages.traffic import PAGE, ROWS
from normbench import explain, kernels
from normbench.cases.case import Case

TEXT = PAGE.read_text(encoding="utf-8")


def test_every_problem_has_its_ratio_and_the_words_of_the_compiler():
    for row in ROWS:
        section = TEXT.split(f"## {Case(row.problem, row.variant).slug}\n")[1].split("\n## ")[0]
        assert float(re.search(r"([\d.]+) × the minimum", section)[1]) > row.wanted
        assert "was not fused into" in section


@pytest.mark.skipif(importlib.util.find_spec("jax_cuda13_plugin") is None, reason="needs the extra gpu-targets")
@pytest.mark.skipif(f"JAX {jax.__version__}:" not in TEXT, reason="the page is made with another JAX")
def test_a_figure_comes_out_again():
    row = ROWS[0]
    program = kernels.program(row.problem, row.variant)
    report = explain(program.function, *program.inputs, target="h200")
    assert f"{report.traffic_ratio:.2f} × the minimum" in TEXT
    assert set(report.refusals) <= {line.removeprefix("- ") for line in TEXT.splitlines()}
