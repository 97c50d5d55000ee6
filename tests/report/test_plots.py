"""Plots: what is drawn is what was measured, in the same colours everywhere."""

import numpy as np
import pytest
from matplotlib.colors import to_hex

from normbench import kernels
from normbench.display.palette import style
from normbench.report import load_run
from normbench.report.data.summary import digest, summary
from normbench.report.plots import scatter as plots
from normbench.report.plots.figure_parts import to_svg
from tests.report.synthetic_runs import VARIANTS, case_row, compiled_rows, full_tables, write_run


@pytest.fixture(scope="module")
def rows(run):
    return summary(run)


@pytest.fixture(scope="module")
def batch_norm(rows):
    return rows[(rows["operator"] == "batch_norm") & (rows["target"] == "cpu")]


def test_variants_of_one_operator_never_share_colour_or_marker():
    for operator in kernels.operators():
        styles = [style(variant) for variant in kernels.variants(operator)]
        assert len({each.colour for each in styles}) == len(styles)
        assert len({each.marker for each in styles}) == len(styles)


def test_style_of_an_unknown_variant_depends_on_its_name_alone():
    assert style("my_kernel") == style("my_kernel")
    assert len({style(f"kernel_{number}") for number in range(50)}) > 20


def test_times_drawn_are_the_medians(batch_norm):
    figure = plots.time_by_variant(batch_norm, "wall", "caption")
    drawn = sorted(x for axes in figure.axes for line in axes.lines for x in line.get_xdata())
    ok = batch_norm[batch_norm["status"] == "ok"]
    measured = sorted([*ok["wall_cold_median_s"], *ok["wall_warm_median_s"]])
    np.testing.assert_allclose(drawn, measured)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == [
        f"{dtype} · {cache} cache · wall clock"
        for dtype in ("float32", "bfloat16, float32 parameters")
        for cache in ("cold", "warm")
    ]


def test_each_variant_is_drawn_in_its_colour(batch_norm):
    figure = plots.time_by_variant(batch_norm, "wall", "caption")
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.texts]
    colours = [to_hex(handle.get_color()) for handle in legend.legend_handles]
    assert names == [name for name in VARIANTS["batch_norm"] if name != "pallas_triton"]
    assert colours == [style(name).colour for name in names]


def test_axis_says_its_unit_and_caption_its_source(batch_norm):
    figure = plots.time_by_variant(batch_norm, "wall", "Run 17, on a device.")
    figure.canvas.draw()
    labels = [label.get_text() for axes in figure.axes for label in axes.get_xticklabels(which="both")]
    assert any(label.endswith((" µs", " ms")) for label in labels)
    assert any("Run 17, on a device." in text.get_text() for text in figure.texts)


def test_traffic_cells_hold_the_ratios(rows):
    figure = plots.traffic_ratio(rows[rows["operator"] == "conv_bn"], "caption")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["cpu", "h200"]
    cells = [text.get_text() for text in figure.axes[0].texts]
    assert cells == ["2.00", "1.00", "1.00"] * 4


def test_more_problems_than_fit_are_cut_and_the_caption_says_so(tmp_path):
    cases = [case_row("batch_norm", "naive", f"1x{channels}x7x7") for channels in range(1, 41)]
    compiled = [compiled_rows(case, "h200")[0] for case in cases]
    frame = summary(load_run(write_run(tmp_path / "run", {"cases": cases, "compiled": compiled})))
    figure = plots.traffic_ratio(frame, "Run 1.")
    assert len(figure.axes[0].get_yticks()) == plots.MAX_ROWS
    caption = " ".join(text.get_text().replace("\n", " ") for text in figure.texts)
    assert "24 of 40 problems" in caption


def test_error_against_speed_shows_a_point_per_case(batch_norm):
    figure = plots.error_against_speed(batch_norm, "wall_cold", "caption")
    points = np.concatenate([c.get_offsets() for axes in figure.axes for c in axes.collections])
    ok = batch_norm[batch_norm["status"] == "ok"]
    assert sorted(points[:, 0]) == pytest.approx(sorted(ok["wall_cold_ratio"]))
    assert sorted(points[:, 1]) == pytest.approx(sorted(ok["max_ulp"]))


def test_nothing_measured_is_no_plot(tmp_path):
    frame = summary(load_run(write_run(tmp_path / "run", full_tables(targets=("h200",)))))
    assert frame["predicted_s"].notna().any()
    assert plots.time_by_variant(frame, "wall", "caption") is None
    assert plots.error_against_speed(frame, "wall_cold", "caption") is None
    assert plots.traffic_ratio(frame.assign(traffic_ratio=float("nan")), "caption") is None


def test_svg_is_transparent_and_the_same_twice(run):
    rows = digest(run).summary
    first, second = (to_svg(plots.traffic_ratio(rows, "caption"), "one") for _ in range(2))
    assert first == second
    assert first.startswith("<svg")
    assert "<metadata>" not in first
    assert 'id="one-' in first
