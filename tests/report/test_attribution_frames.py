"""Seconds of instructions beside the launches that they belong to; frames made by hand."""

from types import SimpleNamespace

import pandas as pd
import pytest

from normbench.report.findings.attribution import attribution_lines, measured_launches, unmatched


def frame(columns, *rows):
    made = pd.DataFrame(rows, columns=columns)
    return made.astype({name: "string" for name in ("case", "target", "device", "name", "kind") if name in columns})


def run(predicted_s=2e-6):
    launches = frame(
        ["case", "target", "name", "kind", "predicted_s"],
        ["a", "cpu", "f", "loop", predicted_s],
        ["a", "cpu", "g", "reduction", predicted_s],
        ["a", "h200", "f", "loop", predicted_s],
    )
    times = frame(
        ["case", "device", "name", "seconds"],
        *(["a", "cpu", "f", seconds] for seconds in (3e-6, 4e-6, 9e-6)),
        ["a", "cpu", "g", 1e-6],
        ["a", "cpu", "elsewhere", 5e-6],
    )
    compiled = frame(["case", "target", "predicted_s"], ["a", "cpu", predicted_s and 2 * predicted_s])
    return SimpleNamespace(launches=launches, launch_times=times, compiled=compiled)


def test_the_median_stands_beside_its_launch_on_the_measured_device_alone():
    told = measured_launches(run()).set_index(["target", "name"])["measured_s"]
    assert told["cpu", "f"] == pytest.approx(4e-6)
    assert told["cpu", "g"] == pytest.approx(1e-6)
    assert pd.isna(told["h200", "f"])


def test_an_instruction_that_is_no_launch_is_found():
    assert unmatched(run())["name"].tolist() == ["elsewhere"]


def test_the_slowest_launch_is_told():
    (line,) = attribution_lines(run())
    assert "f (loop)" in line
