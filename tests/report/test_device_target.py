"""What two compilations of a program differ in, in words; structures made by hand."""

import json

import pytest

from normbench.report import load_run
from normbench.report.model.device_target import (
    DEVICE,
    GROUPS,
    OWN,
    calls,
    compared,
    device_target_lines,
    difference,
    difference_rows,
    grouped_differences,
)
from normbench.report.page.device_section import device_section
from tests.report.synthetic_runs import case_row, write_run

BEFORE = {
    "launches": 3, "kinds": {"loop": 2, "library": 1}, "rewrites": {}, "refused": {}, "calls": {"cudnn-conv": 1},
    "bytes": 3000, "traffic_ratio": 1.5,
}  # fmt: skip


def test_the_same_program_has_no_difference():
    assert difference(BEFORE, dict(BEFORE)) is None


@pytest.mark.parametrize(
    ("changes", "groups", "words"),
    [
        (
            {"launches": 2, "kinds": {"loop": 1, "library": 1}},
            ["launches", "kinds"],
            "3 → 2 launches; kinds: loop 2 → 1",
        ),
        ({"calls": {"cudnn-conv-bias": 1}}, ["calls"], "library calls: cudnn-conv 1 → 0, cudnn-conv-bias 0 → 1"),
        ({"bytes": 3500, "traffic_ratio": 1.75}, ["bytes"], "1.50 → 1.75 × the minimum bytes; 3,000 → 3,500 bytes"),
        ({"rewrites": {"norm": 1}}, ["rewrites"], "norm matches now"),
        ({"refused": {"it is a slice": 2}}, ["refused"], "refusals: it is a slice 0 → 2"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_difference_is_grouped_and_told(changes, groups, words):
    assert difference(BEFORE, {**BEFORE, **changes}) == (groups, words)


def test_a_program_that_one_side_cannot_compile_says_why():
    failed = {"status": "failed", "reason": "out of memory"}
    assert difference(BEFORE, failed) == (["status"], "ok → failed: out of memory")


def test_library_calls_are_counted_by_routine():
    rows = [
        {"name": name, "kind": kind} for name, kind in (("conv.1", "library"), ("conv.12", "library"), ("f", "loop"))
    ]
    assert calls(rows) == {"conv": 2}


def test_only_neighbours_and_what_both_have_are_compared():
    other = {**BEFORE, "launches": 4}
    rows = difference_rows({"h200": {"a": BEFORE, "b": BEFORE}, OWN: {"a": other}, DEVICE: {"a": BEFORE, "b": other}})
    assert [(row["before"], row["after"], row["case"]) for row in rows] == [("h200", OWN, "a"), (OWN, DEVICE, "a")]


def stored(case, config, found):
    counts = {name: json.dumps(found[name]) for name in ("kinds", "rewrites", "refused", "calls")}
    return {"case": case, "config": config, "status": "ok", **found, **counts}


@pytest.fixture
def described_run(tmp_path):
    """Two cases that need a launch more by the GPU's own description, and a library call more on it."""
    cases = [case_row("conv_bn", "unfused", shape) for shape in ("8x16x32x32", "1x64x56x56")]
    slugs = [row["case"] for row in cases]
    sides = {"h200": BEFORE, OWN: {**BEFORE, "launches": 4, "kinds": {"loop": 3, "library": 1}, "bytes": 3100}}
    device = {**sides[OWN], "calls": {"cudnn-conv": 1, "cublas <gemm>": 1}}
    all_sides = {name: dict.fromkeys(slugs, found) for name, found in {**sides, DEVICE: device}.items()}
    launches = [
        {"case": slug, "target": "gpu", "index": 0, "name": "cudnn-conv.1", "kind": "library"} for slug in slugs
    ]
    tables = {
        "cases": cases,
        "compiled": [
            {"case": slug, "target": "gpu", "launches": 4, "bytes": 3100, "status": "ok"}
            for slug in [*slugs, "another"]
        ],
        "launches": [*launches, {**launches[0], "case": "another"}],
        "described": [stored(slug, name, found) for name, found in sides.items() for slug in slugs],
        "target_differences": difference_rows(all_sides),
    }
    return load_run(write_run(tmp_path / "run", tables))


def test_the_differences_are_counted_by_what_differs(described_run):
    first, second = compared(described_run).to_dict("records")
    assert (first["before"], first["after"], first["cases"], first["changed"]) == ("h200", OWN, 2, 2)
    assert {name: first[name] for name in GROUPS if first[name]} == {"launches": 2, "kinds": 2, "bytes": 2}
    assert (second["before"], second["after"], second["calls"], second["launches"]) == (OWN, DEVICE, 2, 0)


def test_they_are_told_in_sentences(described_run):
    first, second, left = device_target_lines(described_run)
    assert first.endswith("of 2 programs, 2 differ: launches 2, kinds of launches 2, bytes 2.")
    assert second.endswith("on the GPU itself: of 2 programs, 2 differ: library calls 2.")
    assert left.startswith("1 program of the GPU had no time left")


def test_the_same_change_of_several_cases_is_one_row(described_run):
    rows = grouped_differences(described_run)
    assert rows["cases"].tolist() == [2, 2]
    assert rows["change"][0] == "3 → 4 launches; kinds: loop 2 → 3; other bytes"


def test_the_section_has_them_and_no_markup_of_the_data(described_run):
    text = device_section(described_run)
    assert "conv_bn forward (2 cases): 3 → 4 launches" in text
    assert "cublas &lt;gemm&gt; 0 → 1" in text


def test_without_a_gpu_the_section_is_one_sentence_with_the_command(run):
    assert device_section(run).count("<p>") == 1
    assert "make gpu PRESET=standard" in device_section(run)


def test_a_gpu_s_run_that_was_not_compiled_for_says_how(tmp_path):
    tables = {"cases": [case_row("conv_bn", "unfused")], "compiled": [{"case": "a", "target": "gpu", "status": "ok"}]}
    (line,) = device_target_lines(load_run(write_run(tmp_path / "run", tables)))
    assert "python -m normbench.cli.gpu_described" in line
