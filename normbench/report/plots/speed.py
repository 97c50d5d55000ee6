"""Plots of measured times: speed-ups, what work done ahead costs and saves, the roofline, predictions against times.

What was not measured is not drawn. Backgrounds are transparent, as in `normbench.report.plots.scatter`.
"""

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm, to_rgb
from matplotlib.figure import Figure

from normbench.display.palette import INK, style
from normbench.report.data.summary import clock_and_cache
from normbench.report.plots.figure_parts import (
    CELL_IN,
    MIN_PANEL_IN,
    SLANT_DEGREES,
    STYLE,
    add_caption,
    add_legend,
    arrange,
    label_rows,
    log_ticks,
    longest_in,
    make_panels,
    panel_height_in,
    time_tick,
)
from normbench.report.plots.scatter import chosen_problems, with_labels

_LIMIT = 1.0  # of the colours: twice as fast, half as fast; log2
_SQUARE_IN = 4.2
_CALLS = (1, 10, 100, 1000)


def speed_up(summary: pd.DataFrame, series: str, caption: str) -> Figure | None:
    """Heat map of the baseline's time over the variant's: a row per problem, a column per variant. In brackets where
    the 95 % interval holds 1, that is where the two cannot be told apart.

    Args:
      summary: rows of `normbench.report.data.summary.summary`, of one operator and one device.
      series: "wall_cold", "wall_warm", ...
    """
    known = summary[summary[f"{series}_ratio"].notna() & (summary["status"] == "ok")]
    if known.empty:
        return None
    known = with_labels(known)
    known["label"] += " · " + known["dtypes"]
    problems, variants = chosen_problems(known, "elements"), list(known["variant"].unique())
    with mpl.rc_context(STYLE):
        figure, panels = make_panels(1, 1)
        axes = panels[0][0]
        _draw_speed_ups(axes, known, problems, variants, series)
        label_rows(axes, problems, True, offset=0.5)
        clock, cache = clock_and_cache(series)
        figure.supxlabel("time of the baseline ÷ time of the variant (above 1: faster)", size=9)
        slanted = 0.1 + longest_in(variants) * float(np.sin(np.radians(SLANT_DEGREES)))
        width = max(len(variants) * CELL_IN, MIN_PANEL_IN)
        heights = [panel_height_in(len(problems))]
        arrange(figure, panels, heights, width, longest_in(problems["label"]), inner_in=slanted, below_in=slanted)
        total = known["problem"].nunique()
        shown = f" {len(problems)} of {total} problems: the largest." if len(problems) < total else ""
        reading = f"{clock.capitalize()} clock, {cache} cache; in brackets: not told apart from the baseline."
        add_caption(figure, f"{caption} {reading}{shown}")
    return figure


def _draw_speed_ups(axes: Axes, known: pd.DataFrame, problems: pd.DataFrame, variants: list[str], series: str) -> None:
    colours, norm = mpl.colormaps["PuOr"], TwoSlopeNorm(0.0, -_LIMIT, _LIMIT)
    place = {problem: line for line, problem in enumerate(problems["problem"])}
    values = np.full((len(place), len(variants)), np.nan)
    unclear = np.zeros_like(values, dtype=bool)
    columns = zip(known["problem"], known["variant"], known[f"{series}_ratio"], known[f"{series}_ratio_low"],
                  known[f"{series}_ratio_high"], strict=True)  # fmt: skip
    for problem, variant, ratio, low, high in columns:
        if problem in place:
            cell = place[problem], variants.index(variant)
            values[cell], unclear[cell] = 1 / float(ratio), low <= 1 <= high
    logs = np.clip(np.log2(values), -_LIMIT, _LIMIT)
    axes.pcolormesh(np.ma.masked_invalid(logs), cmap=colours, norm=norm, edgecolors="none")
    for (line, column), value in np.ndenumerate(values):
        if not np.isfinite(value):
            continue
        shade = np.dot(to_rgb(colours(norm(logs[line, column]))), (0.3, 0.59, 0.11))
        text = f"({value:.2f})" if unclear[line, column] and value != 1 else f"{value:.2f}"
        ink = "black" if shade > 0.5 else "white"
        axes.text(column + 0.5, line + 0.5, text, ha="center", va="center", color=ink, fontsize=7.5)
    slant: dict[str, Any] = {"rotation": SLANT_DEGREES, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(np.arange(len(variants)) + 0.5, variants, **slant)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def fold_cost(paid: pd.DataFrame, caption: str) -> Figure | None:
    """Seconds that work done ahead costs against seconds that it saves per call, with lines of equal numbers of calls.
    Cases that save nothing lie at the left edge.

    Args:
      paid: rows of `normbench.report.data.statistics.break_even` with the column `variant`, of one device, clock and
      cache.
    """
    known = paid[paid["prepare_s"].notna() & paid["saved_s"].notna()]
    if known.empty:
        return None
    saving = known[known["saved_s"] > 0]
    least = float(saving["saved_s"].min()) / 3 if len(saving) else 1e-7
    x = known["saved_s"].where(known["saved_s"] > 0, least)
    with mpl.rc_context(STYLE):
        figure, panels = make_panels(1, 1)
        axes = panels[0][0]
        for variant, part in known.groupby("variant", sort=False):
            colour, marker = style(str(variant))
            for certain, mine in part.groupby("certain"):
                face = colour if certain else "none"
                axes.scatter(x[mine.index], mine["prepare_s"], marker=marker, edgecolors=colour, facecolors=face, s=30)
        span = np.array([float(x.min()) / 2, float(x.max()) * 3])
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_ylim(float(known["prepare_s"].min()) / 3, float(known["prepare_s"].max()) * 3)
        axes.set_xlim(*span)
        for calls in _CALLS:
            axes.plot(span, calls * span, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
            _label_diagonal(axes, calls)
        for axis in (axes.xaxis, axes.yaxis):
            log_ticks(axis, time_tick)
        axes.set_xlabel("saved per call, against the baseline (left edge: nothing saved)")
        axes.set_ylabel("cost of the work ahead")
        axes.grid()
        legend_in = add_legend(figure, list(known["variant"].unique()))
        arrange(figure, panels, [3.4], 5.6, 0.95, legend_in=legend_in)
        add_caption(figure, f"{caption} Dashed: pays after so many calls. Hollow: the difference is within the noise.")
    return figure


def _label_diagonal(axes: Axes, calls: int) -> None:
    """At the right or the upper edge, whichever the line meets."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    x = min(right, high / calls) * 0.8
    if left < x and low < calls * x < high:
        axes.text(x, calls * x, f"{calls} call{'' if calls == 1 else 's'}", fontsize=7.5, ha="right", va="bottom")


def roofline(summary: pd.DataFrame, ceilings: Mapping[int, float], series: str, caption: str) -> Figure | None:
    """Bytes per second that a case attains of its minimum bytes, against the minimum bytes, below the ceiling that was
    measured on the same device in the same run with the same clock and cache.

    A norm computes so little per byte that the usual axis, operations per byte, says nothing: the memory is the roof.

    Args:
      summary: rows of `normbench.report.data.summary.summary`, of one device.
      ceilings: measured bytes per second of the streaming programs by size in bytes, see `ceiling_rates`.
    """
    known = _timed(summary, series)
    known = known[known["minimum_bytes"].notna() & (known["minimum_bytes"] > 0)]
    if known.empty or not ceilings:
        return None
    clock, cache = clock_and_cache(series)
    with mpl.rc_context(STYLE):
        figure, panels = make_panels(1, 1)
        axes = panels[0][0]
        for variant, part in known.groupby("variant", sort=False):
            colour, marker = style(str(variant))
            size = part["minimum_bytes"].astype(float)
            rate = size / part[f"{series}_median_s"] / 1e9
            axes.scatter(size / 1e6, rate, marker=marker, color=colour, s=22, alpha=0.75, linewidths=0)
        sizes = sorted(ceilings)
        roof = [ceilings[size] / 1e9 for size in sizes]
        axes.plot([size / 1e6 for size in sizes], roof, color=INK, linewidth=1.4, marker="|", markersize=6)
        axes.annotate("measured ceiling", (sizes[-1] / 1e6, roof[-1]), (0, 5), textcoords="offset points", ha="right",
                      fontsize=8)  # fmt: skip
        _log_axes(axes)
        axes.set_xlabel("minimum bytes of the problem (MB)")
        axes.set_ylabel("minimum bytes ÷ time (GB/s)")
        legend_in = add_legend(figure, list(known["variant"].unique()))
        arrange(figure, panels, [3.4], 6.2, 0.85, legend_in=legend_in)
        reading = "The line: the fastest streaming program of that size in the same run."
        add_caption(figure, f"{caption} {clock.capitalize()} clock, {cache} cache. {reading}")
    return figure


def predicted_against_measured(summary: pd.DataFrame, series: str, caption: str) -> Figure | None:
    """Predicted against measured time of each case; on the line, the prediction is right.

    Args:
      summary: rows of `normbench.report.data.summary.summary`, of one device for which there are predictions.
    """
    known = _timed(summary, series)
    known = known[known["predicted_s"].notna()]
    if known.empty:
        return None
    clock, cache = clock_and_cache(series)
    with mpl.rc_context(STYLE):
        figure, panels = make_panels(1, 1)
        axes = panels[0][0]
        for variant, part in known.groupby("variant", sort=False):
            colour, marker = style(str(variant))
            points: dict[str, Any] = {"marker": marker, "color": colour, "s": 22, "alpha": 0.75, "linewidths": 0}
            axes.scatter(part[f"{series}_median_s"], part["predicted_s"], **points)
        values = pd.concat([known[f"{series}_median_s"], known["predicted_s"]]).astype(float)
        ends = [float(values.min()) / 1.5, float(values.max()) * 1.5]
        axes.plot(ends, ends, color=INK, linewidth=1.0)
        axes.set_xlim(*ends)
        axes.set_ylim(*ends)
        _log_axes(axes)
        for axis in (axes.xaxis, axes.yaxis):
            log_ticks(axis, time_tick)
        axes.set_xlabel("measured time per call")
        axes.set_ylabel("predicted time per call")
        legend_in = add_legend(figure, list(known["variant"].unique()))
        arrange(figure, panels, [_SQUARE_IN], _SQUARE_IN, 0.95, legend_in=legend_in)
        add_caption(figure, f"{caption} {clock.capitalize()} clock, {cache} cache. Above the line: predicted too slow.")
    return figure


def _timed(summary: pd.DataFrame, series: str) -> pd.DataFrame:
    return summary[summary[f"{series}_median_s"].notna() & (summary["status"] == "ok")]


def _log_axes(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.grid()
    for axis in (axes.xaxis, axes.yaxis):
        log_ticks(axis, "{:g}".format)
