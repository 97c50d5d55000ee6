"""Plots of compiled programs: their launches one after the other, and how traffic grows with a size. No times."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from normbench.display.palette import INK, style
from normbench.report.plots.figure_parts import (
    STYLE,
    add_caption,
    add_legend,
    arrange,
    longest_in,
    make_panels,
    panel_height_in,
)

_WIDTH_IN = 6.6


def launch_timeline(programs: Mapping[str, Sequence[Mapping[str, Any]]], minimum_bytes: int, caption: str) -> Figure:
    """The launches of one problem's programs in the order of execution, each as long as the bytes that it moves.

    Args:
      programs: rows of the table `launches` by variant.
      minimum_bytes: of the problem; drawn as a line.
    """
    names = list(programs)
    with mpl.rc_context(STYLE):
        figure, panels = make_panels(1, 1)
        axes = panels[0][0]
        for place, name in enumerate(names):
            _draw_launches(axes, place, name, programs[name])
        axes.axvline(minimum_bytes / 1e6, color=INK, linewidth=1.2, linestyle=(0, (4, 3)))
        axes.set_yticks(range(len(names)), [f"{name} ({len(programs[name])})" for name in names])
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_xlim(left=0)
        axes.set_xlabel("bytes moved, launch after launch (MB)")
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)
        arrange(figure, panels, [panel_height_in(2 * len(names))], _WIDTH_IN, longest_in(names) + 0.35)
        add_caption(figure, f"{caption} Number of launches in brackets; dark: read, light: written; dashed: the least.")
    return figure


def _draw_launches(axes: Any, place: int, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    colour, _ = style(name)
    moved = sum(row["read_bytes"] + row["write_bytes"] for row in rows) / 1e6
    x = 0.0
    for row in rows:
        read, write = row["read_bytes"] / 1e6, row["write_bytes"] / 1e6
        axes.barh(place, read, left=x, height=0.62, color=colour)
        axes.barh(place, write, left=x + read, height=0.62, color=colour, alpha=0.45)
        x += read + write
        axes.plot([x, x], [place - 0.36, place + 0.36], color=INK, linewidth=1.0)
        if read + write > 0.06 * moved:
            middle = x - (read + write) / 2
            axes.text(middle, place, str(row["kind"]), ha="center", va="center", fontsize=7.5, color="black")


def ratio_by_size(table: pd.DataFrame, size: str, label: str, caption: str) -> Figure | None:
    """Traffic ratio against one size of the problem: a line per variant, with the number of launches at its points.

    Args:
      table: columns `variant`, `traffic_ratio`, `launches` and the one named `size`.
      label: of the axis, with its unit.
    """
    known = table[table["traffic_ratio"].notna()].sort_values(size, kind="stable")
    if known.empty:
        return None
    with mpl.rc_context(STYLE):
        figure, panels = make_panels(1, 1)
        axes = panels[0][0]
        for variant, part in known.groupby("variant", sort=False):
            colour, marker = style(str(variant))
            axes.plot(part[size], part["traffic_ratio"], color=colour, marker=marker, markersize=5, linewidth=1.4)
            for x, y, count in zip(part[size], part["traffic_ratio"], part["launches"], strict=True):
                axes.annotate(f"{count:g}", (x, y), (0, 5), textcoords="offset points", fontsize=7.5, ha="center")
        axes.axhline(1.0, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(FixedLocator(_apart(known[size])))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.set_ylim(0.85, 1.12 * float(known["traffic_ratio"].max()))
        axes.set_xlabel(label)
        axes.set_ylabel("bytes ÷ minimum bytes")
        axes.grid()
        legend_in = add_legend(figure, list(known["variant"].unique()))
        arrange(figure, panels, [panel_height_in(12)], _WIDTH_IN, 0.75, legend_in=legend_in)
        add_caption(figure, f"{caption} At the points: number of launches.")
    return figure


def _apart(sizes: pd.Series) -> list[float]:
    """The sizes, without those whose label would lie on the one before."""
    kept: list[float] = []
    for size in sorted(float(size) for size in sizes.unique()):
        if not kept or size > 1.25 * kept[-1]:
            kept.append(size)
    return kept
