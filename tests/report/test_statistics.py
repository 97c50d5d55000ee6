"""Statistics, recomputed here in plain NumPy from the rows that went in."""

import math

import numpy as np
import pandas as pd
import pytest

from normbench.report import load_run
from normbench.report.data.statistics import SERIES, break_even, is_bimodal, ratio, ratios, time_statistics
from normbench.report.data.summary import digest
from tests.report.synthetic_runs import case_row, full_tables, timing_rows, trouble, write_run


def _samples(rows, **wanted):
    return np.array([row["seconds"] for row in rows if all(row[name] == value for name, value in wanted.items())])


def test_median_quartiles_minimum_and_counts(run):
    rows = [row for row in full_tables()["timings"] if row.get("seconds")]
    table = time_statistics(run.timings)
    for row in table[table["n"] > 0].itertuples():
        wanted = {name: getattr(row, name) for name in SERIES}
        seconds = _samples(rows, **wanted)
        assert row.n == len(seconds) == 36
        assert row.processes == 3
        np.testing.assert_allclose(
            [row.q1_s, row.median_s, row.q3_s, row.minimum_s], [*np.quantile(seconds, [0.25, 0.5, 0.75]), min(seconds)]
        )
        medians = [np.median(_samples(rows, process=process, **wanted)) for process in range(3)]
        assert row.process_spread == pytest.approx(max(medians) / min(medians) - 1)


def test_series_without_times_keeps_its_row_with_status_and_reason(run):
    table = time_statistics(run.timings)
    untimed = table[table["n"] == 0]
    assert len(untimed) == 4
    assert set(untimed["status"]) == {"unsupported"}
    assert untimed["reason"].str.contains("CPU").all()
    assert untimed["median_s"].isna().all()


def test_outliers_are_counted_not_dropped(tmp_path):
    case = case_row("batch_norm", "naive")
    rows = [row for row in timing_rows(case) if row["cache"] == "warm"]
    rows[0] = {**rows[0], "seconds": 1.0, "outlier": True}
    table = time_statistics(load_run(write_run(tmp_path / "run", {"cases": [case], "timings": rows})).timings)
    assert table["outliers"].iloc[0] == 1
    assert table["n"].iloc[0] == 36


@pytest.mark.parametrize("seed", range(5))
def test_two_groups_are_bimodal_and_one_is_not(seed):
    generator = np.random.default_rng(seed)
    one = generator.lognormal(-8.0, 0.05, 60)
    two = np.concatenate([one[:30], 1.6 * one[30:]])
    assert not is_bimodal(one)
    assert not is_bimodal(generator.uniform(1.0, 2.0, 60))
    assert is_bimodal(two)


def test_few_samples_equal_samples_or_one_straggler_are_not_bimodal():
    assert not is_bimodal(np.array([1.0, 1.0, 1.0, 2.0, 2.0]))
    assert not is_bimodal(np.ones(50))
    assert not is_bimodal(np.array([*np.linspace(1.0, 1.01, 40), 9.0]))


def test_ratio_is_the_median_over_processes_of_the_ratio_of_medians(run):
    rows = [row for row in full_tables()["timings"] if row.get("seconds")]
    for row in ratios(run.timings, run.cases).itertuples():
        wanted = {"stage": "call", "clock": row.clock, "cache": row.cache}
        pairs = [
            np.median(_samples(rows, case=row.case, process=process, **wanted))
            / np.median(_samples(rows, case=row.baseline_case, process=process, **wanted))
            for process in range(3)
        ]
        assert row.ratio == pytest.approx(np.median(pairs))
        assert row.ratio_low <= row.ratio <= row.ratio_high
        assert row.problem == row.case.rpartition(".")[0]


def test_interval_excludes_one_where_times_differ_and_holds_it_where_they_do_not():
    generator = np.random.default_rng(1)
    own = {process: np.sort(generator.lognormal(0, 0.05, 30)) for process in range(3)}
    slower = {process: 1.2 * seconds for process, seconds in own.items()}
    same = {process: np.sort(generator.lognormal(0, 0.05, 30)) for process in range(3)}
    assert ratio(slower, own)[1] > 1.1
    assert ratio(same, own)[1] < 1 < ratio(same, own)[2]


def test_interval_holds_the_true_ratio_about_as_often_as_it_says():
    generator = np.random.default_rng(2)
    held = 0
    for _ in range(200):
        low, high = ratio({0: np.sort(generator.lognormal(0, 0.1, 40))}, {0: np.sort(generator.lognormal(0, 0.1, 40))})[
            1:
        ]
        held += low <= 1 <= high
    assert held >= 176


def test_processes_that_timed_only_one_of_the_two_are_left_out():
    fast, slow = np.array([1.0, 1.0, 1.0]), np.array([5.0, 5.0, 5.0])
    assert ratio({0: 2 * fast, 1: slow}, {0: fast, 2: slow})[0] == pytest.approx(2.0)
    assert ratio({0: 2 * fast}, {1: fast})[0] == pytest.approx(2.0)


def test_times_that_are_not_ok_are_never_compared(tmp_path):
    base, own = case_row("batch_norm", "naive"), case_row("batch_norm", "folded")
    rows = timing_rows(base) + timing_rows(own, status="impossible", reason="above the ceiling")
    run = load_run(write_run(tmp_path / "run", {"cases": [base, own], "timings": rows}))
    assert set(ratios(run.timings, run.cases)["case"]) == {base["case"]}


def test_without_a_baseline_there_is_no_ratio(tmp_path):
    own = case_row("batch_norm", "folded")
    run = load_run(write_run(tmp_path / "run", {"cases": [own], "timings": timing_rows(own)}))
    assert ratios(run.timings, run.cases).empty


def test_break_even_is_prepare_over_saved(run):
    data = digest(run)
    medians = data.statistics.set_index(SERIES)["median_s"]
    assert len(data.break_even) == 16  # 8 prefolded cases with two caches
    for row in data.break_even.itertuples():
        prepare = medians[(row.case, row.device, "prepare", row.clock, row.cache)]
        compared = data.ratios[(data.ratios["case"] == row.case) & (data.ratios["cache"] == row.cache)].iloc[0]
        base = medians[(compared["baseline_case"], row.device, "call", row.clock, row.cache)]
        assert row.prepare_s == pytest.approx(prepare)
        assert row.saved_s == pytest.approx(base * (1 - compared["ratio"]))
        assert row.calls == math.ceil(prepare / row.saved_s)
        assert row.certain


def test_a_fold_that_saves_nothing_never_pays(tmp_path):
    base, own = case_row("batch_norm", "naive"), case_row("batch_norm", "prefolded")
    rows = timing_rows(base, seconds=1e-4) + timing_rows(own, seconds=1.2e-4)
    run = load_run(write_run(tmp_path / "run", {"cases": [base, own], "timings": rows}))
    paid = digest(run).break_even
    assert len(paid) == 2
    assert paid["calls"].isna().all()
    assert (paid["saved_s"] < 0).all()


def test_empty_run_has_empty_statistics(tmp_path):
    run = load_run(write_run(tmp_path / "run", {}))
    statistics = time_statistics(run.timings)
    compared = ratios(run.timings, run.cases)
    assert statistics.empty
    assert compared.empty
    assert break_even(statistics, compared).empty


def test_summary_has_a_row_per_case_and_target_with_the_first_trouble(run):
    summary = digest(run).summary
    assert len(summary) == len(run.cases) * 2
    assert not summary.duplicated(["case", "target"]).any()
    on_cpu = summary[(summary["target"] == "cpu") & (summary["variant"] == "pallas_triton")]
    assert set(on_cpu["status"]) == {"unsupported"}
    assert on_cpu["max_ulp"].notna().all()
    assert summary[summary["target"] == "h200"]["wall_cold_median_s"].isna().all()


def test_wrong_result_is_the_status_of_the_case_even_where_it_compiled(tmp_path):
    tables = full_tables(shapes=("8x16x32x32",), dtypes=("float32",))
    case = tables["cases"][1]
    tables["accuracy"] = [row for row in tables["accuracy"] if row["case"] != case["case"]]
    tables["accuracy"].append(
        {"case": case["case"], "device": "cpu", "max_ulp": 9e9, "status": "wrong", "reason": "too far from float64"}
    )
    tables["timings"] = [row for row in tables["timings"] if row["case"] != case["case"]]
    tables["timings"].append(trouble(case, "wrong", "not timed: wrong"))
    summary = digest(load_run(write_run(tmp_path / "run", tables))).summary
    row = summary[(summary["case"] == case["case"]) & (summary["target"] == "cpu")].iloc[0]
    assert (row["status"], row["reason"]) == ("wrong", "too far from float64")


def test_share_of_the_ceiling_uses_the_nearest_size_and_the_fastest_program(tmp_path):
    tables = full_tables(shapes=("8x16x32x32",), dtypes=("float32",))
    minimum = tables["compiled"][0]["minimum_bytes"]
    rates = {("negate", minimum): 1e-4, ("scale", minimum): 5e-5, ("scale", 64 * minimum): 1e-2}
    tables["ceilings"] = [
        {
            "device": "cpu",
            "program": name,
            "cache": "cold",
            "bytes": size,
            "process": 0,
            "sample": 0,
            "seconds": seconds,
        }
        for (name, size), seconds in rates.items()
    ]
    summary = digest(load_run(write_run(tmp_path / "run", tables))).summary
    row = summary[(summary["variant"] == "naive") & (summary["target"] == "cpu")].iloc[0]
    assert row["wall_cold_ceiling_fraction"] == pytest.approx(5e-5 / row["wall_cold_median_s"])
    assert pd.isna(row["wall_warm_ceiling_fraction"])
    assert pd.isna(row["pipelined_cold_ceiling_fraction"])
