"""The page of norms over many devices is what its results say, and its figures come out again."""

import importlib.util

import jax
import pytest

from analysis.pages.sharding import PAGE, RESULTS, page, read
from normbench import explain, kernels
from normbench.cases.case import Case, cases

ROWS = read()


def test_the_page_is_what_the_results_say_and_has_every_case():
    assert PAGE.read_text(encoding="utf-8") == "\n".join(page(ROWS)).rstrip() + "\n"
    assert [row["case"] for row in ROWS if not row["step"]] == [case.slug for case in cases("sharding")]


@pytest.mark.skipif(importlib.util.find_spec("jax_cuda13_plugin") is None, reason="needs the extra gpu-targets")
@pytest.mark.skipif(f"\n{jax.__version__}," not in RESULTS.read_text(), reason="the results are of another JAX")
@pytest.mark.parametrize("case", ["rms_norm.hidden8", "group_norm.channels4"])
def test_figures_come_out_again(case):
    row = next(row for row in ROWS if row["case"].startswith(case) and not row["reason"])
    found = Case.from_slug(row["case"])
    program = kernels.program(found.problem, found.variant)
    report = explain(program.function, *program.inputs, target="h200")
    assert (len(report.launches), report.bytes) == (int(row["launches"]), int(row["bytes"]))
    assert int(report.collectives["wire_bytes"].sum()) == int(row["wire_bytes"])
