"""Every kind of plot: its texts lie within the figure and not on each other, its axes say their units, and its picture
is like the one it had (greatly reduced, with a tolerance), so that a broken layout is noticed.

To renew the pictures after a change that is meant: `NORMBENCH_RENEW=1 python -m pytest tests/report/test_layout.py`.
"""

import json
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from normbench.report.data.summary import digest
from normbench.report.plots import (
    history as plots_history,
)
from normbench.report.plots import (
    launches as plots_launches,
)
from normbench.report.plots import (
    pareto as plots_pareto,
)
from normbench.report.plots import (
    pytensor as plots_pytensor,
)
from normbench.report.plots import (
    scatter as plots,
)
from normbench.report.plots import (
    speed as plots_speed,
)

_BASELINES = Path(__file__).with_name("layouts.json")
_GRID = (24, 32)
_TOLERANCE = 0.3  # of all darkness: other letters of a font lie elsewhere, a shifted panel more than that
_SOURCE = "Run made-up."


def _rows(run, operator="batch_norm", target="cpu"):
    rows = digest(run).summary
    return rows[(rows["operator"] == operator) & (rows["target"] == target)]


def _launches(count):
    return [{"kind": "loop", "read_bytes": 4_000_000, "write_bytes": 2_000_000} for _ in range(count)]


_TIMELINE = {"naive": _launches(3), "folded": _launches(1)}


def _history():
    versions, cases = ["0.10.2", "0.11.2", "0.12.0"], [("a.naive", "naive", 1.0), ("b.one_pass", "one_pass", 1.5)]
    return pd.DataFrame(
        [
            {"version": version, "case": case, "variant": variant, "traffic_ratio": ratio + 0.5 * place}
            for place, version in enumerate(versions)
            for case, variant, ratio in cases
        ]
    )


def _calls():
    ways = [("jax", "formula"), ("pytensor jax", "Op"), ("pytensor c", "Op")]
    return pd.DataFrame(
        [
            {"shape": shape, "backend": backend, "graph": graph, "how": "f(x)", "arrays": "numpy", "clock": "wall",
             "median_us": factor * (10.0 + place), "low_us": factor * 9.0, "high_us": factor * 14.0}
            for shape, factor in (("4x8", 1.0), ("8x64", 20.0))
            for place, (backend, graph) in enumerate(ways)
        ]
    )  # fmt: skip


def _offsets():
    return pd.DataFrame(
        [
            {"dtype": dtype, "variant": variant, "offset": offset, "error": 1e-6 * scale * (1 + offset)}
            for dtype in ("float32", "bfloat16")
            for variant, scale in (("naive", 1.0), ("one_pass", 30.0))
            for offset in (0.0, 1.0, 100.0, 1e4)
        ]
    )


def _sizes():
    return pd.DataFrame(
        [
            {"variant": variant, "row": row, "launches": 1 + (row > 16384), "traffic_ratio": 1.0 + (row > 16384)}
            for variant in ("naive", "one_pass")
            for row in (1024, 16384, 16385, 32768)
        ]
    )


def _paid(run):
    cases = run.cases[["case", "variant"]]
    paid = digest(run).break_even.merge(cases, on="case")
    return paid[(paid["clock"] == "wall") & (paid["cache"] == "cold")]


_KINDS = {
    "time": lambda run: plots.time_by_variant(_rows(run), "wall", _SOURCE),
    "traffic": lambda run: plots.traffic_ratio(_rows(run, target="h200"), _SOURCE),
    "atlas": lambda run: plots.atlas(digest(run).atlas, _SOURCE),
    "error-speed": lambda run: plots.error_against_speed(_rows(run), "wall_cold", _SOURCE),
    "speed-up": lambda run: plots_speed.speed_up(_rows(run), "wall_cold", _SOURCE),
    "fold-cost": lambda run: plots_speed.fold_cost(_paid(run), _SOURCE),
    "roofline": lambda run: plots_speed.roofline(_rows(run), {10**5: 2e10, 10**6: 2.5e10}, "wall_cold", _SOURCE),
    "prediction": lambda run: plots_speed.predicted_against_measured(_rows(run), "wall_cold", _SOURCE),
    "timeline": lambda run: plots_launches.launch_timeline(_TIMELINE, 6_000_000, _SOURCE),
    "by-size": lambda run: plots_launches.ratio_by_size(_sizes(), "row", "elements in a row", _SOURCE),
    "history": lambda run: plots_history.history(_history(), _SOURCE),
    "shares": lambda run: plots_history.changed_shares(
        pd.DataFrame({"operator": ["a", "a", "b"], "step": ["1 → 2"] * 3, "change": ["fewer", "same", "more"]}), _SOURCE
    ),
    "offsets": lambda run: plots_pareto.error_by_offset(_offsets(), _SOURCE),
    "calls": lambda run: plots_pytensor.call_overhead(_calls(), _SOURCE),
}


def _darkness(figure):
    """The picture on a coarse grid: mean darkness of each cell, 0 to 1."""
    canvas = FigureCanvasAgg(figure)
    figure.set_dpi(60)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba()).astype(float) / 255
    ink = pixels[..., 3] * (1 - pixels[..., :3].mean(-1) * 0.5)
    lines, columns = (np.array_split(np.arange(size), parts) for size, parts in zip(ink.shape, _GRID, strict=True))
    return np.array([[ink[np.ix_(line, column)].mean() for column in columns] for line in lines])


def _difference(found, kept):
    return np.abs(found - kept).sum() / kept.sum()


@pytest.fixture(scope="module", params=sorted(_KINDS))
def drawn(request, run):
    figure = _KINDS[request.param](run)
    assert figure is not None
    FigureCanvasAgg(figure).draw()
    return request.param, figure


def test_its_picture_is_like_the_one_it_had(drawn):
    name, figure = drawn
    found = _darkness(figure)
    kept = json.loads(_BASELINES.read_text()) if _BASELINES.is_file() else {}
    if os.environ.get("NORMBENCH_RENEW"):
        inches = [round(float(size), 2) for size in figure.get_size_inches()]
        kept[name] = {"inches": inches, "cells": found.round(2).tolist()}
        _BASELINES.write_text(json.dumps(dict(sorted(kept.items())), separators=(",", ":")) + "\n")
    assert figure.get_size_inches() == pytest.approx(kept[name]["inches"], rel=0.03)
    assert _difference(found, np.array(kept[name]["cells"])) < _TOLERANCE


def test_a_broken_layout_is_noticed(drawn):
    name, _ = drawn
    kept = np.array(json.loads(_BASELINES.read_text())[name]["cells"])
    assert _difference(np.roll(kept, 4, axis=1), kept) > _TOLERANCE
    assert _difference(np.zeros_like(kept), kept) > _TOLERANCE


def test_labels_do_not_lie_on_each_other_or_outside(drawn):
    _, figure = drawn
    renderer = FigureCanvasAgg(figure).get_renderer()
    _, height = figure.canvas.get_width_height()
    for axes in figure.axes:
        ticks = (*axes.yaxis.get_major_ticks(), *axes.yaxis.get_minor_ticks())
        boxes = [tick.label1.get_window_extent(renderer) for tick in ticks
                 if tick.label1.get_visible() and tick.label1.get_text() and axes.yaxis.get_visible()]  # fmt: skip
        shown = sorted((box for box in boxes if 0 <= box.y0 <= height), key=lambda box: box.y0)
        assert all(upper.y0 > lower.y0 + 0.5 * lower.height for lower, upper in pairwise(shown))
        assert min([box.x0 for box in shown], default=0) > -2
        if axes.get_title(loc="left"):
            assert axes.get_window_extent(renderer).y1 < height


def test_no_label_is_written_as_a_formula(drawn):
    """Which the style leaves as it is: the ticks that matplotlib labels itself."""
    _, figure = drawn
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        assert not [text.get_text() for text in axis.get_ticklabels(which="both") if "$" in text.get_text()]


def test_its_caption_names_its_source_and_its_axes_what_they_show(drawn):
    _, figure = drawn
    texts = [text.get_text() for text in figure.texts]
    assert any(_SOURCE in text for text in texts)
    labels = [axes.get_xlabel() for axes in figure.axes] + [axes.get_ylabel() for axes in figure.axes]
    named = [*labels, figure._supxlabel.get_text() if figure._supxlabel else ""]
    assert any(named)
    for text in named:
        if "time per call" in text or text.startswith(("saved", "cost")):
            ticks = [tick.get_text() for axes in figure.axes for tick in axes.get_xticklabels(which="both")]
            assert any(unit in tick for tick in ticks for unit in ("ns", "µs", "ms", " s"))
