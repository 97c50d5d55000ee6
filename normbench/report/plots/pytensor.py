"""Plots of what PyTensor's backends do: the cost of a call, and a whole network in several forms."""

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from normbench.display.palette import style
from normbench.report.plots.figure_parts import (
    STYLE,
    add_caption,
    arrange,
    label_rows,
    log_ticks,
    longest_in,
    make_panels,
    panel_height_in,
    time_tick,
)


def call_overhead(table: pd.DataFrame, caption: str) -> Figure | None:
    """Median time per call with its quartiles: a row per way to call, a column of panels per shape.

    Args:
      table: columns `shape`, `backend`, `graph`, `how`, `arrays`, `clock`, `median_us`, `low_us` and `high_us`.
    """
    names = ["backend", "graph", "how", "arrays", "clock"]
    table = table.assign(**{name: table[name].fillna("").astype(str) for name in names})
    table["label"] = table[names].agg(lambda words: " · ".join(filter(None, words)), axis=1)
    return _dots(table, "label", "shape", "time per call: median and quartiles (log scale)", caption)


def forms_by_backend(table: pd.DataFrame, caption: str) -> Figure | None:
    """The same of a network: a row per backend, form and way to give parameters, a column of panels per image size.

    Args:
      table: columns `image`, `backend`, `form`, `parameters`, `median_us`, `low_us` and `high_us`.
    """
    names = ["backend", "form", "parameters"]
    label = table[names].fillna("").astype(str).agg(lambda words: " · ".join(filter(None, words)), axis=1)
    size = table["image"].map(lambda side: f"{side}×{side} pixels")
    label_of = "time per call: median and quartiles (log scale)"
    return _dots(table.assign(label=label, size=size), "label", "size", label_of, caption)


def _dots(table: pd.DataFrame, label: str, panel: str, x_label: str, caption: str) -> Figure | None:
    known = table[table["median_us"].notna()]
    if known.empty:
        return None
    seconds = known.groupby([panel, "backend", label], sort=False)[["median_us", "low_us", "high_us"]].median() / 1e6
    seconds = seconds.reset_index()
    order = seconds.groupby(label, sort=False)["median_us"].min().sort_values().index
    panels_of, place = list(seconds[panel].unique()), {name: line for line, name in enumerate(order)}
    backends = list(seconds["backend"].unique())
    with mpl.rc_context(STYLE):
        figure, panels = make_panels(1, len(panels_of))
        for column, (axes, name) in enumerate(zip(panels[0], panels_of, strict=True)):
            part = seconds[seconds[panel] == name]
            for backend, mine in part.groupby("backend", sort=False):
                colour, marker = style(str(backend))
                y = [place[each] for each in mine[label]]
                axes.hlines(y, mine["low_us"], mine["high_us"], color=colour, linewidth=1.6)
                axes.plot(mine["median_us"], y, linestyle="none", marker=marker, color=colour, markersize=5)
            axes.set_xscale("log")
            log_ticks(axes.xaxis, time_tick)
            axes.tick_params(axis="x", which="minor", labelsize=7)
            axes.grid()
            label_rows(axes, pd.DataFrame({"label": list(order)}), column == 0)
            axes.set_title(str(name), loc="left")
        figure.supxlabel(x_label, size=9)
        styles = [style(backend) for backend in backends]
        handles = [
            Line2D([], [], linestyle="none", marker=marker, color=colour, label=backend)
            for backend, (colour, marker) in zip(backends, styles, strict=True)
        ]
        figure.legend(handles=handles, loc="upper center", ncols=min(5, len(handles)), borderaxespad=0.0)
        heights = [panel_height_in(len(order))]
        arrange(figure, panels, heights, 5.6 / len(panels_of), longest_in(order), gap_in=0.25, legend_in=0.32)
        add_caption(figure, caption)
    return figure
