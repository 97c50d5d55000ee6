"""Which variant to use: the terminal, the report in Chromium and README say the same, and it is what the tables say."""

import math
import re
from pathlib import Path

import pytest

from analysis.pages import variants
from normbench.report import load_run, terminal_answer
from normbench.report.data.choice import by_group, choices, group_name, grouping
from normbench.report.data.recommendation import MEASURED, PREDICTED, _unfit, recommendations
from normbench.report.data.summary import digest
from normbench.report.terminal.answer import MAX_LINES
from tests.report.browsing import CHROMIUM, REQUIRED, drive
from tests.report.conftest import KEPT
from tests.report.synthetic_runs import case_row, full_tables, timing_rows, trouble

ROOT = Path(__file__).resolve().parents[2]
THREE = ("batch norm, forward", "rms norm, both", "group norm, both")
_TABLE = """
  result.rows = [...document.querySelectorAll("table.answer tbody tr")].map((row) =>
    [...row.cells].map((cell) => cell.querySelector(".use")?.textContent ?? cell.textContent));
"""

kept = pytest.mark.skipif(not KEPT.is_dir(), reason="no runs are kept")


@kept
@pytest.mark.parametrize("name", ["quick", "standard"])
@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_the_answer_is_one_screen_that_fits(name, width):
    lines = terminal_answer(load_run(KEPT / name), width).splitlines()
    assert len(lines) + 2 <= MAX_LINES  # a blank line, and the path of the report
    for line in lines:
        assert len(line) <= width or line.strip().count(" ") == 0, line  # a path is not broken


@kept
@pytest.mark.parametrize("name", ["quick", "standard"])
def test_at_80_columns_every_operator_is_answered(name):
    text = terminal_answer(load_run(KEPT / name), 80)
    assert "more: see the report" not in text
    for operator in load_run(KEPT / name).cases["operator"].unique():
        assert operator.replace("_", " ") in text


@kept
@pytest.mark.parametrize("name", ["quick", "standard"])
def test_ties_are_shown_with_their_figures(name):
    """The margin of a tie is worth knowing: the ranges of predictions overlap nearly everywhere."""
    told = recommendations(digest(load_run(KEPT / name)))
    for one in told:
        (choice,) = choices([one], [one.target])
        if one.alike:
            assert choice.tied
            best = min(each.ratio for each in one.alike)
            assert choice.rival in {each.variant for each in one.alike}
            assert float(choice.rival_ratio) == pytest.approx(best, abs=0.006, rel=0.06)
        elif one.margin is not None:
            assert not choice.tied
            assert float(choice.rival_ratio) == pytest.approx(one.margin * one.chosen.ratio, abs=0.006, rel=0.06)


@kept
def test_a_recommendation_is_what_the_tables_say():
    """Counted again, case by case: geometric means, and the baseline unless another is told apart."""
    for name, target, column in (("quick", "cpu", "wall_cold_ratio"), ("standard", "h200", "predicted_s")):
        data = digest(load_run(KEPT / name))
        rows = data.summary[(data.summary["target"] == target) & data.summary[column].notna()]
        for one in (each for each in recommendations(data) if each.target == target):
            assert one.basis == (MEASURED if target == "cpu" else PREDICTED)
            mine = rows[(rows["operator"] == one.group[0]) & (rows["pass"] == one.group[1])]
            table = mine.pivot_table(column, "problem", "variant", "first").astype(float)
            names = [one.variant, *(each.variant for each in (*one.alike, *one.others))]
            both = table[names].dropna()
            assert len(both) == one.problems
            for each in (one.chosen, *one.alike):
                logs = [math.log(a / b) for a, b in zip(both[each.variant], both[one.baseline], strict=True)]
                assert each.ratio == pytest.approx(math.exp(sum(logs) / len(logs)), rel=1e-6)
            if one.variant != one.baseline:
                assert one.chosen.high < 1 or any(each.variant == one.baseline and each.reason for each in one.others)


def test_readme_holds_the_table_that_its_command_writes():
    page = variants.PAGE.read_text(encoding="utf-8")
    assert variants.renewed(page) == page, "python -m analysis.pages.variants"


@kept
def test_a_newcomer_finds_the_same_variant_everywhere(kept_page, tmp_path):
    """Three problems, looked up in the terminal's lines, in the report, and in README."""
    terminal = terminal_answer(load_run(KEPT / "quick"), 100)
    readme = dict(
        re.findall(r"^\| ([^|]+) \| \*\*`(\w+)`\*\*", variants.PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    )
    found = {name: [] for name in THREE}
    for name in THREE:
        line = next(line for line in terminal.splitlines() if line.startswith(f"{name} "))
        found[name] += [line.removeprefix(name).split()[0], readme[name]]
    if CHROMIUM is not None or REQUIRED:
        rows = drive(kept_page("quick"), tmp_path, _TABLE, 390)["rows"]
        for name in THREE:
            found[name].append(next(row[1] for row in rows if row[0] == name))
    assert all(len(set(names)) == 1 for names in found.values()), found
    assert found["rms norm, both"][0] != "naive"  # it is not the baseline that stands everywhere


def test_few_problems_are_answered_each(make_run):
    run = load_run(make_run(full_tables(shapes=("8x16x32x32", "8x16x64x64"), dtypes=("float32",))))
    told = recommendations(digest(run), grouping(run))
    text = terminal_answer(run, 100)
    assert len(by_group(told)) == run.cases["problem"].nunique() == 4
    for group in by_group(told):
        assert "x32x32" in group_name(group) or "x64x64" in group_name(group)
    assert "of 4 problems" in text


def test_an_unfinished_run_says_how_to_finish_it(make_run):
    tables = full_tables(shapes=("8x16x32x32",), dtypes=("float32",))
    tables["compiled"] = [row for row in tables["compiled"] if row["target"] == "cpu"]
    run = load_run(make_run(tables, status="running", targets=["cpu", "h200"]))
    text = " ".join(terminal_answer(run, 160).split())
    assert "The run is not finished (running)" in text
    assert f"study --resume {run.path.resolve()}" in text
    assert text.index("not finished") < text.index("finish it:")


def test_what_failed_is_said_with_its_reason_and_number(make_run):
    cases = [case_row("batch_norm", variant) for variant in ("naive", "folded", "prefolded")]
    tables = {
        "cases": cases,
        "timings": timing_rows(cases[0]) + timing_rows(cases[1]),
        "compiled": [trouble(cases[2], "crashed", "signal 11", "h200", "compiled")],
    }
    text = terminal_answer(load_run(make_run(tables)), 120)
    assert "FAILED on h200: 1 case crashed (prefolded): signal 11" in text
    assert "3 cases of 1 problem" in text


def test_an_output_of_eight_bits_is_what_was_asked_for_and_a_promoted_one_is_not():
    asked = "rms_norm.alone.1x2048x4096.nlc.bf16.f32.forward._fp8_scale__0p03125.pallas_triton"
    assert _unfit(asked) == ""
    promoted = "batch_norm.alone.2x8x4x4.nchw.bf16.f32.forward.naive_promoting"
    assert _unfit(promoted) == "its output is wider than x"
