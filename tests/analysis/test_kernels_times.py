"""The table of predicted times says of the committed run what the run says, each problem with a bound or a reason."""

import math

import pytest

from analysis.pages import kernels_times
from normbench.errors import UserError
from normbench.fusion.targets import deviceless_target
from normbench.predict.devices import device_of
from normbench.report import load_run

ROWS = kernels_times.compared()


def test_the_page_is_that_of_the_committed_run():
    page = kernels_times.PAGE.read_text(encoding="utf-8")
    told = page.split(kernels_times.BEGIN)[1].split(kernels_times.END)[0].strip()
    assert told == kernels_times.table(ROWS).strip(), "python -m analysis.pages.kernels_times renews it"


def test_every_large_problem_that_a_kernel_computes_is_in_it():
    run = load_run(kernels_times.RUN)
    rows = run.cases.merge(run.compiled, on="case")
    by_kernel = rows[rows.variant.str.startswith("pallas") & (rows.status == "ok")]
    large = by_kernel[by_kernel.minimum_bytes >= 1.1 * kernels_times.LEAST_BYTES]
    named = {row.problem for row in ROWS if row.kernel}
    assert set(large.problem) <= named
    for row in ROWS:
        known = by_kernel[by_kernel.problem == row.problem]
        assert row.kernel is None if known.empty else row.kernel.seconds == known.predicted_s.min()


def test_what_falls_short_has_a_bound_and_what_is_refused_a_reason():
    for row in ROWS:
        assert row.kernel.bound if row.falls_short else True
        assert row.kernel or (set(row.reasons) == {"pallas_triton", "pallas_mosaic"} and all(row.reasons.values()))


def test_the_means_are_geometric():
    row, *_ = ROWS
    table = kernels_times.table((row,))
    assert f"{row.factor:.2f} × |" in table
    assert kernels_times._mean([1.0, 4.0]) == pytest.approx(2.0)
    assert list(ROWS) == sorted(ROWS, key=lambda one: (one.factor or math.inf, one.problem))


def test_a_copy_takes_what_the_model_takes_for_a_long_stream():
    device = device_of(deviceless_target("h200"))
    once, twice = (kernels_times.copy_s(size, device) for size in (10**8, 2 * 10**8))
    assert twice - once == pytest.approx(10**8 / (device.attained * 4.8e12), rel=0.01)


def test_a_run_that_is_not_there_is_told(tmp_path):
    with pytest.raises(UserError):
        kernels_times.compared(tmp_path / "none")
