"""The table in the terminal: it fits, it says all, and it says where it leaves something out."""

import pytest

from normbench.report import load_run, terminal_table
from tests.report.synthetic_runs import UGLY, accuracy_row, case_row, full_tables, trouble


@pytest.mark.parametrize("width", [80, 100, 160])
def test_no_line_is_wider_than_asked(run, width):
    assert max(map(len, terminal_table(run, width).splitlines())) <= width


def test_a_block_per_problem_with_its_variants_side_by_side(run):
    text = terminal_table(run, 100)
    blocks = [block for block in text.split("\n\n") if block.startswith(("batch_norm ·", "conv_bn ·"))]
    assert len(blocks) == 8
    lines = blocks[0].splitlines()
    assert "8x16x32x32 nchw" in lines[0]
    assert lines[1].split() == ["cold", "µs", "warm", "µs", "÷base", "cpu", "h200", "ulp"]
    names = [line.split()[0 if not line.startswith("*") else 1] for line in lines[2:]]
    assert names == ["naive", "folded", "prefolded", "pallas_triton", "unsupported", "naive_promoting"]
    assert "[1] a Triton kernel does not run on a CPU" in text


def test_figures_are_those_of_the_summary(run):
    line = next(line for line in terminal_table(run, 100).splitlines() if line.startswith("* naive"))
    cold = run.timings[(run.timings["case"] == run.cases["case"].iloc[0]) & (run.timings["cache"] == "cold")]["seconds"]
    assert line.split()[2] == f"{1e6 * cold.median():.0f}"
    assert line.split()[4:7] != []
    assert "1 1.00" in line


def test_troubles_are_shown_with_their_reason_on_printable_lines(make_run):
    cases = [case_row("batch_norm", variant) for variant in ("naive", "folded", "prefolded")]
    compiled = [
        trouble(cases[0], "crashed", UGLY, "h200", "compiled"),
        trouble(cases[1], "out_of_memory", None, "h200", "compiled"),
        trouble(cases[2], "timeout", "longer than 120 s", "h200", "compiled"),
    ]
    text = terminal_table(load_run(make_run({"cases": cases, "compiled": compiled})), 80)
    assert "crashed on h200 [1]" in text
    assert "out of memory on h200\n" in text
    assert "[2] longer than 120 s" in text
    assert all(character.isprintable() or character == "\n" for character in text)


def test_an_unfinished_run_says_so_and_marks_what_was_not_run(make_run):
    tables = full_tables(shapes=("8x16x32x32",), dtypes=("float32",))
    tables["compiled"] = [row for row in tables["compiled"] if row["target"] == "cpu"]
    text = terminal_table(load_run(make_run(tables, status="running", targets=["cpu", "h200"])), 100)
    assert "not all rows are there yet" in text
    assert "not run on h200" in text


def test_a_run_that_was_only_compiled_has_no_time_columns(make_run):
    text = terminal_table(load_run(make_run(full_tables(targets=("h200", "a100")))), 100)
    assert "÷" not in text
    assert "2 2.00" in text


def test_an_empty_run_is_one_line(make_run):
    assert terminal_table(load_run(make_run({})), 80) == "run run: no cases\n"


def test_too_many_cases_are_left_to_the_report(make_run):
    shapes = tuple(f"1x{channels}x7x7" for channels in range(1, 140))
    cases = [case_row("batch_norm", "naive", shape) for shape in shapes]
    text = terminal_table(load_run(make_run({"cases": cases, "accuracy": [accuracy_row(case) for case in cases]})), 80)
    assert "139 problems in 139 cases are too many to show here: see the report." in text
    assert "1x7x7x7" not in text
    assert len(text.splitlines()) < 20
