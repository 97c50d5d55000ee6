"""The A/A test, on made-up samples: what a run's programs differ from themselves by, and what follows from it."""

import json

import numpy as np
import pytest

from normbench.report import load_run, terminal_table, write_report
from normbench.report.compare.runs import compare_variants
from normbench.report.compare.verdict import AMBIGUOUS, FASTER, Noise, judge
from normbench.report.data.summary import digest
from normbench.report.findings.findings import findings
from normbench.report.findings.noise_floor import noise_floors, self_comparisons, suspicious, trust
from tests.report.synthetic_runs import full_tables, write_run


def aa_rows(program, factor, scatter=0.002, device="cpu", clock="wall", cache="cold", samples=40):
    """Of two processes; "b" takes `factor` times as long as "a"."""
    rng = np.random.default_rng(0)
    return [
        {
            "program": program, "device": device, "clock": clock, "cache": cache, "process": process, "name": name,
            "sample": sample, "seconds": 1e-3 * (factor if name == "b" else 1) * rng.lognormal(0, scatter),
        }
        for process in range(2) for name in "ab" for sample in range(samples)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def tables():
    return full_tables(shapes=("8x16x32x32",), dtypes=("float32",))


def run_with(tmp_path, tables, **more):
    return load_run(write_run(tmp_path / "run", {**tables, **more}))


def test_the_floor_is_what_nine_in_ten_stay_below_by_clock_and_cache(tmp_path, tables):
    rows = [row for n in range(11) for row in aa_rows(f"p{n}", 1 + 0.002 * n if n < 10 else 1.5)]
    rows += aa_rows("p", 1.0, clock="pipelined", cache="warm")
    floors = noise_floors(run_with(tmp_path, tables, aa=rows))
    assert set(floors) == {("cpu", "wall", "cold"), ("cpu", "pipelined", "warm")}
    assert floors["cpu", "wall", "cold"] == pytest.approx(0.018, abs=2e-3)
    assert floors["cpu", "pipelined", "warm"] < 2e-3


def test_a_difference_above_what_is_accepted_is_reported(tmp_path, tables):
    run = run_with(tmp_path, tables, aa=aa_rows("quiet", 1.01) + aa_rows("loud", 1.08))
    assert list(suspicious(self_comparisons(run))["program"]) == ["loud"]
    (floor, _, _), (report, places, _) = trust(run)
    assert "noise floor: of 2 programs timed under two names" in floor
    assert "at most 7.3 % (wall clock, cold cache)" in floor
    assert "1 of 2 such comparisons differ by more than 3 %" in report
    assert places == [("loud", "cpu")]
    assert report in [finding.text for finding in findings(digest(run))]
    assert "loud" in terminal_table(run, 120)
    assert "How far to trust the times" in write_report(run).read_text()


def test_a_difference_within_the_scatter_is_the_floor_and_no_more(tmp_path, tables):
    run = run_with(tmp_path, tables, aa=aa_rows("p", 1.05, scatter=0.5, samples=8))
    assert noise_floors(run)
    assert suspicious(self_comparisons(run)).empty


def test_without_the_test_there_is_no_floor(tmp_path, tables):
    run = run_with(tmp_path, tables)
    assert noise_floors(run) == {}
    assert list(trust(run)) == []


def test_a_change_within_the_floor_is_not_called_one():
    rng = np.random.default_rng(0)
    a = {process: rng.lognormal(0, 0.002, 40) for process in range(3)}
    b = {process: 0.94 * rng.lognormal(0, 0.002, 40) for process in range(3)}
    noise = Noise(scatter=0.003, degrees=20)
    assert judge(a, b, noise, paired=True).verdict == FASTER
    floored = judge(a, b, Noise(scatter=0.003, degrees=20, floor=0.08), paired=True)
    assert (floored.verdict, floored.reason) == (AMBIGUOUS, "noise_floor")
    assert judge(a, b, Noise(scatter=0.003, degrees=20, floor=0.04), paired=True).verdict == FASTER


def test_a_comparison_uses_the_floor_of_its_clock_and_cache(tmp_path, tables):
    faster = [
        {**row, "seconds": 0.7 * row["seconds"]} if row["case"].endswith(".folded") and row.get("seconds") else row
        for row in tables["timings"]
    ]
    programs = [{**row, "hlo_sha256": f"{index:064x}"} for index, row in enumerate(tables["compiled"])]
    run = run_with(tmp_path, tables, aa=aa_rows("p", 1.7), timings=faster, compiled=programs)
    found = compare_variants(run, "naive", "folded")
    by_cache = {row["cache"]: row["floor"] for row in found.noise}
    assert by_cache["cold"] == pytest.approx(0.7, abs=0.01)
    assert by_cache["warm"] == 0
    reasons = {(row["cache"], row["reason"]) for row in found.times}
    assert ("cold", "noise_floor") in reasons
    assert ("warm", "clear_shift") in reasons
    assert json.loads(json.dumps(found.document()))["noise"]


def test_throttled_samples_and_notes_are_told(tmp_path, tables):
    timed = [row for row in tables["timings"] if row.get("seconds")]
    timings = [{**row, "device": "gpu", "throttled": row["process"] == 0} for row in timed]
    states = [
        {"device": "gpu", "moment": "after", "throttled": "power cap", "clock_mhz": 1500.0, "power_w": 612.4},
        {"device": "gpu", "moment": "after", "clock_mhz": 1980.0, "power_w": 300.0},
        {"device": "gpu", "moment": "before", "clock_mhz": 345.0},
    ]
    notes = [{"device": "gpu", "process": n, "text": "cupti cannot be used: x; trace is used instead"} for n in (0, 1)]
    run = run_with(tmp_path, tables, timings=timings, device_states=states, notes=notes)
    state, held_back, fallen_back = (text for text, _, _ in trust(run))
    assert state == "On gpu, after 2 groups of series it was at 1500 to 1980 MHz and 300 to 612 W."
    marked = sum(row["throttled"] for row in timings)
    assert f"{marked:,} of {len(timings):,} samples were taken while it was held back (power cap)" in held_back
    assert fallen_back == "On gpu: cupti cannot be used: x; trace is used instead."
