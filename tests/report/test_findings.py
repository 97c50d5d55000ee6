"""Every sentence is computed: its numbers are counted again here, in plain Python, from the rows that went in."""

import re
from collections import defaultdict
from statistics import median

import numpy as np
import pytest

from normbench.report import load_run
from normbench.report.data.summary import digest
from normbench.report.findings.findings import compile_cost, findings, status_counts
from tests.report.synthetic_runs import accuracy_row, case_row, compiled_rows, full_tables, timing_rows, write_run


@pytest.fixture(scope="module")
def told(run):
    return findings(digest(run))


@pytest.fixture(scope="module")
def tables():
    return full_tables()


def _of(told, kind, *words):
    found = [finding for finding in told if finding.kind == kind and all(word in finding.text for word in words)]
    assert len(found) == 1, [finding.text for finding in found]
    return found[0]


def _numbers(text):
    return [float(number) for number in re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?![\w%])", text)]


def test_status_counts_are_the_numbers_of_rows(told, tables):
    unsupported = sum(row["status"] == "unsupported" for row in tables["compiled"])
    cases = len(tables["cases"])
    assert (
        _of(told, "status", "On cpu").text
        == f"On cpu, of {cases} cases {cases - unsupported} ok and {unsupported} unsupported."
    )
    assert _of(told, "status", "On h200").text == f"On h200, all of {cases} cases ok."
    assert len(_of(told, "status", "On cpu").rows) == unsupported


def test_launch_sentences_count_problems(told, tables):
    operators = {row["case"]: row for row in tables["cases"]}
    launches = {(row["case"], row["target"]): row.get("launches") for row in tables["compiled"]}
    fewer = [
        case
        for (case, target), number in launches.items()
        if target == "h200"
        and operators[case]["variant"] == "prefolded"
        and operators[case]["operator"] == "conv_bn"
        and number < launches[(case.replace(".prefolded", ".unfused"), target)]
    ]
    finding = _of(told, "launches", "On h200", "prefolded conv_bn")
    assert (
        finding.text == f"On h200, prefolded conv_bn makes 1 fewer launch than unfused in {len(fewer)} of 4 problems."
    )
    assert set(finding.rows) == {(case, "h200") for case in fewer}
    assert not [each for each in told if each.kind == "launches" and "prefolded batch_norm" in each.text]


def test_traffic_sentences_are_medians(told, tables):
    variants = {row["case"]: row["variant"] for row in tables["cases"] if row["operator"] == "batch_norm"}
    ratios = defaultdict(list)
    for row in tables["compiled"]:
        if row["target"] == "h200" and row["case"] in variants:
            ratios[variants[row["case"]]].append(row["traffic_ratio"])
    text = _of(told, "traffic", "On h200", "batch_norm moves, over").text
    assert re.findall(r"(\w+) (\d\.\d\d)", text) == [(name, f"{median(values):.2f}") for name, values in ratios.items()]


def test_speed_sentences_agree_with_the_intervals(told, run):
    data = digest(run)
    rows = data.ratios.merge(data.run.cases[["case", "operator", "variant"]], on="case")
    rows = rows[(rows["cache"] == "cold") & (rows["operator"] == "batch_norm")]
    for variant, part in rows[rows["variant"] != "naive"].groupby("variant"):
        faster, slower = int((part["ratio_high"] < 1).sum()), int((part["ratio_low"] > 1).sum())
        text = _of(told, "speed", "cold", f", {variant} batch_norm").text
        assert ("faster than naive in" in text) == (faster > 0)
        assert ("slower than naive in" in text) == (slower > 0)
        assert _numbers(text)[0] == (faster or slower)
        mean = float(np.exp(np.log(part["ratio"]).mean()))
        assert f"{mean:.2f} in the geometric mean" in text


def test_fold_sentences_state_the_range_and_median_of_calls(told, run):
    data = digest(run)
    paid = data.break_even[data.break_even["case"].str.startswith("conv_bn") & (data.break_even["cache"] == "cold")]
    text = _of(told, "fold", "conv_bn", "cold").text
    low, high = paid["calls"].min(), paid["calls"].max()
    calls = f"{high} calls" if low == high else f"{low} to {high} calls"
    assert f"has paid after {calls} (median {median(paid['calls']):g}) in {len(paid)} of {len(paid)} problems" in text


def test_error_sentence_states_the_largest_and_links_to_its_row(told, tables):
    finding = _of(told, "error", "conv_bn", "in ulp of float32")
    variants = {
        row["case"]: row["variant"]
        for row in tables["cases"]
        if row["operator"] == "conv_bn" and row["dtype"] == "float32"
    }
    worst = {}
    for row in tables["accuracy"]:
        if row["case"] in variants:
            name = variants[row["case"]]
            worst[name] = max(worst.get(name, 0.0), row["max_ulp"])
    assert re.findall(r"(\w+) (\d\.\d\d)", finding.text) == [(name, f"{value:.2f}") for name, value in worst.items()]
    assert len(finding.rows) == len(worst)


def test_a_wrong_result_has_no_error_to_compare(tmp_path):
    cases = [case_row("batch_norm", "naive"), case_row("batch_norm", "folded")]
    errors = [
        accuracy_row(cases[0], max_ulp=1.5),
        accuracy_row(cases[1], max_ulp=9e9, status="wrong", reason="far off"),
    ]
    run = load_run(write_run(tmp_path / "run", {"cases": cases, "accuracy": errors}))
    assert "naive 1.50 and folded wrong in 1 problem." in _of(findings(digest(run)), "error").text


def test_errors_in_ulp_of_different_dtypes_stand_apart(tmp_path):
    """An ulp of bfloat16 is 65536 of float32: side by side they say nothing."""
    cases = [case_row("batch_norm", "naive"), case_row("batch_norm", "naive_promoting")]
    errors = [
        accuracy_row(cases[0], max_ulp=0.5, ulp_dtype="bfloat16"),
        accuracy_row(cases[1], max_ulp=2.5, ulp_dtype="float32"),
    ]
    run = load_run(write_run(tmp_path / "run", {"cases": cases, "accuracy": errors}))
    texts = [finding.text for finding in findings(digest(run), ("error",))]
    assert [text.split(", in ulp of ")[1] for text in texts] == [
        "bfloat16: naive 0.500.",
        "float32: naive_promoting 2.50.",
    ]


def test_cost_is_the_studys_own_figure_or_nothing(told, run, tmp_path):
    assert not [finding for finding in told if finding.kind == "cost"]
    cost = {"compile": {"h200": {"cases": 32, "seconds_per_case": 0.321}}}
    run = load_run(write_run(tmp_path / "run", full_tables(), cost=cost))
    assert _of(findings(digest(run)), "cost").text.startswith("Compiling for h200 took 321 ms")
    table = compile_cost(run).set_index("target")
    assert table.loc["cpu", "cases"] == 28
    assert table.loc["h200", ["lower_s", "compile_s", "read_s"]].tolist() == pytest.approx([0.05, 0.25, 0.1])


def test_noise_is_told_where_samples_fall_into_groups_or_processes_disagree(tmp_path):
    case = case_row("batch_norm", "naive")
    rows = [{**row, "seconds": row["seconds"] * (1 + 0.8 * (row["process"] > 0))} for row in timing_rows(case)]
    run = load_run(write_run(tmp_path / "run", {"cases": [case], "timings": rows}))
    texts = [finding.text for finding in findings(digest(run)) if finding.kind == "noise"]
    assert any(text.startswith("2 of 2 series of samples fall into two groups") for text in texts)
    assert any(text.startswith("In 2 of 2 series timed by several processes") for text in texts)


def test_the_same_program_measured_twice_shows_the_noise(tmp_path):
    cases = [case_row("batch_norm", "naive"), case_row("batch_norm", "folded")]
    compiled = [compiled_rows(case, "cpu")[0] for case in cases]
    timings = timing_rows(cases[0], seconds=1e-4) + timing_rows(cases[1], seconds=1.5e-4)
    run = load_run(write_run(tmp_path / "run", {"cases": cases, "compiled": compiled, "timings": timings}))
    finding = _of(findings(digest(run)), "noise", "very program", "cold")
    assert 1.4 < _numbers(finding.text)[-2] < 1.6
    assert finding.rows == ((cases[1]["case"], "cpu"),)


def test_a_run_that_was_only_compiled_tells_nothing_about_time(tmp_path):
    run = load_run(write_run(tmp_path / "run", full_tables(targets=("h200", "b200"))))
    assert {finding.kind for finding in findings(digest(run))} == {"status", "launches", "traffic"}


def test_an_empty_run_tells_nothing(tmp_path):
    run = load_run(write_run(tmp_path / "run", {}))
    assert findings(digest(run)) == []
    assert status_counts(digest(run).summary).empty
