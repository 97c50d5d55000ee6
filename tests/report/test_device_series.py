"""Series by the device's own clocks in the summary and the report. The rows are made up; no GPU measured them."""

import pytest

from normbench.report import load_run, write_report
from normbench.report.data.statistics import time_statistics
from normbench.report.data.summary import ceiling_rates, clock_and_cache, digest, series_names, summary
from normbench.report.findings.noise_floor import trust
from normbench.report.plots.gallery import pictures
from tests.report.synthetic_runs import SPEED, full_tables, timing_rows, write_run


def streaming(program, seconds, size=2**20):
    row = {"device": "gpu", "program": program, "cache": "cold", "bytes": size, "process": 0}
    return [{**row, "sample": sample, "seconds": seconds} for sample in range(3)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on a made-up GPU: by its own clocks calls of the baseline take 8 us, of which kernels 5; by the host's
    30 us."""
    tables = full_tables(shapes=("8x16x32x32",), dtypes=("float32",), targets=("gpu",))
    timed = [case for case in tables["cases"] if case["operator"] == "batch_norm"]
    for clock, seconds in (("wall", 30e-6), ("device_kernels", 5e-6), ("device_span", 8e-6)):
        for case in timed:
            rows = [row for row in timing_rows(case, "gpu", clock=clock) if row["stage"] == "call"]
            own_s = seconds * SPEED[case["variant"]]
            tables["timings"] += [{**row, "seconds": own_s, "source": "trace"} for row in rows]
    tables["ceilings"] = streaming("triad", 20e-6) + streaming("triad, device_kernels", 4e-6)
    launch = [{"device": "gpu", "program": "launch 1", "cache": "warm", "process": 0, "sample": 0, "seconds": 3e-6}]
    tables["ceilings"] += launch
    return load_run(write_run(tmp_path_factory.mktemp("gpu") / "run", tables))


def test_every_series_name_is_taken_apart_again():
    assert all("_".join(clock_and_cache(name)) == name for name in series_names())
    assert clock_and_cache("device_span_cold") == ("device_span", "cold")


def test_each_clock_is_held_against_the_ceiling_of_its_own(run):
    rows = summary(run)
    rows = rows[(rows["operator"] == "batch_norm") & rows["baseline"]].iloc[0]
    rate = rows["minimum_bytes"] / 2**20
    assert rows["wall_cold_ceiling_fraction"] == pytest.approx(rate * 20 / 30)
    assert rows["device_kernels_cold_ceiling_fraction"] == pytest.approx(rate * 4 / 5)
    assert rows["device_span_cold_ceiling_fraction"] == pytest.approx(rate * 4 / 8)


def test_statistics_keep_the_clocks_apart(run):
    slowest = time_statistics(run.timings).groupby(["clock", "cache"])["median_s"].max() / SPEED["naive_promoting"]
    assert slowest["device_span", "warm"] == pytest.approx(8e-6)
    assert slowest["device_kernels", "cold"] == pytest.approx(5e-6)


def test_what_a_launch_costs_is_told_and_is_no_ceiling(run):
    assert "On gpu, a call that moves next to nothing takes 3.00 µs (launch 1)." in [text for text, _, _ in trust(run)]
    assert set(ceiling_rates(run.ceilings)["gpu", "wall", "cold"]) == {2**20}
    assert ("gpu", "wall", "warm") not in ceiling_rates(run.ceilings)


def test_the_report_draws_the_roofline_by_the_devices_clock(run):
    (roof,) = [picture for picture in pictures(digest(run)) if picture.name == "roofline-gpu"]
    assert any("device_kernels clock" in text.get_text().lower() for text in roof.figure.texts)
    page = write_report(run).read_text()
    assert "device kernels cold" in page
    assert "device span warm" in page
