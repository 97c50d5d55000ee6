"""Pictures of a run: data frames in, matplotlib figures out, one function per kind of plot.

Backgrounds are transparent and text has a middle tone, so that a figure is legible on a light and on a dark page.
Only measured times are drawn; predicted ones never are.
"""

from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, SymmetricalLogLocator

from normbench.display.palette import INK, style
from normbench.display.units import count, printable
from normbench.report.data.atlas import GROUP, group_label
from normbench.report.data.summary import clock_and_cache
from normbench.report.plots.figure_parts import (
    CELL_IN,
    MAX_WIDTH_IN,
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
from normbench.schema import CACHES

MAX_ROWS = 24
"""Problems in one panel; more cannot be read. The largest are drawn, and the caption says so."""

TALL = 30
"""Rows of an atlas; with more, the columns' names are above them as well."""


def problem_label(row: Any) -> str:
    """32×64×56×56 nhwc · relu · k3-s2: what tells the problems of one panel apart."""
    words = [f"{row.shape} {row.layout}".replace("x", "×")]
    words += [row.context] if row.context != "alone" else []
    words += [row.options] if isinstance(row.options, str) and row.options else []
    return printable(" · ".join(words))


def dtype_label(row: Any) -> str:
    """bfloat16, float32 parameters."""
    same = pd.isna(row.param_dtype) or row.param_dtype == row.dtype
    return str(row.dtype) if same else f"{row.dtype}, {row.param_dtype} parameters"


_LABELLED = ["problem", "shape", "layout", "context", "options", "dtype", "param_dtype"]


def with_labels(frame: pd.DataFrame) -> pd.DataFrame:
    problems = frame[_LABELLED].drop_duplicates("problem").set_index("problem")
    labels = {row.Index: problem_label(row) for row in problems.itertuples()}
    dtypes = {row.Index: dtype_label(row) for row in problems.itertuples()}
    return frame.assign(label=frame["problem"].map(labels), dtypes=frame["problem"].map(dtypes))


def chosen_problems(frame: pd.DataFrame, by: str) -> pd.DataFrame:
    """Of the problems in `frame`, the `MAX_ROWS` with the largest `by`; the smallest first."""
    ranks = frame.groupby("problem", sort=False)[by].max().sort_values(kind="stable")
    problems = frame.drop_duplicates("problem")
    problems = problems[problems["problem"].isin(ranks.tail(MAX_ROWS).index)]
    return problems.sort_values(["elements", "label"], kind="stable")[["problem", "label"]].reset_index(drop=True)


def time_by_variant(summary: pd.DataFrame, clock: str, caption: str) -> Figure | None:
    """Median time per variant and problem with its interquartile range: a row of panels per dtype, a column per cache.

    Args:
      summary: rows of `normbench.report.data.summary.summary`, of one operator and one device.
    """
    timed = summary[summary["status"] == "ok"]
    caches = [cache for cache in CACHES if timed[f"{clock}_{cache}_median_s"].notna().any()]
    timed = timed[timed[[f"{clock}_{cache}_median_s" for cache in caches]].notna().any(axis=1)]
    if not caches or timed.empty:
        return None
    timed = with_labels(timed)
    parts = list(timed.groupby("dtypes", sort=False))
    rows = [chosen_problems(part, "elements") for _, part in parts]
    with mpl.rc_context(STYLE):
        figure, panels = make_panels(len(rows), len(caches), sharex=True)
        for line, ((dtypes, part), problems) in enumerate(zip(parts, rows, strict=True)):
            for column, cache in enumerate(caches):
                axes = panels[line][column]
                _draw_times(axes, part, problems, f"{clock}_{cache}")
                label_rows(axes, problems, column == 0)
                grid = {"color": INK, "alpha": 0.25, "linewidth": 0.6, "zorder": 0.5}
                axes.hlines(range(len(problems)), 0, 1, transform=axes.get_yaxis_transform(), **grid)
                axes.set_title(f"{dtypes} · {cache} cache · {clock} clock", loc="left")
        figure.supxlabel("time per call: median and interquartile range (log scale)", size=9)
        labels = [label for problems in rows for label in problems["label"]]
        heights, legend_in = (
            [panel_height_in(len(problems)) for problems in rows],
            add_legend(figure, list(timed["variant"].unique())),
        )
        arrange(figure, panels, heights, 7.6 / len(caches), longest_in(labels), legend_in=legend_in)
        shown = sum(len(problems) for problems in rows)
        add_caption(figure, _cut(caption, shown, timed["problem"].nunique(), "the largest"))
    return figure


def _draw_times(axes: Axes, part: pd.DataFrame, problems: pd.DataFrame, series: str) -> None:
    position = {problem: place for place, problem in enumerate(problems["problem"])}
    variants = list(part["variant"].unique())
    for order, variant in enumerate(variants):
        mine = part[(part["variant"] == variant) & part["problem"].isin(position)]
        y = np.array([position[problem] for problem in mine["problem"]], dtype=float)
        y += min(0.16, 0.8 / len(variants)) * (order - (len(variants) - 1) / 2)
        colour, marker = style(variant)
        axes.hlines(y, mine[f"{series}_q1_s"], mine[f"{series}_q3_s"], color=colour, linewidth=1.6)
        axes.plot(mine[f"{series}_median_s"], y, linestyle="none", marker=marker, color=colour, markersize=5)
    axes.set_xscale("log")
    log_ticks(axes.xaxis, time_tick)
    axes.tick_params(axis="x", which="minor", labelsize=7.5)
    axes.grid(axis="x", which="major")


def traffic_ratio(summary: pd.DataFrame, caption: str) -> Figure | None:
    """Heat map of bytes moved over minimum bytes: a panel per target, a row per problem, a column per variant.

    Args:
      summary: rows of `normbench.report.data.summary.summary`, of one operator.
    """
    known = summary[summary["traffic_ratio"].notna()]
    targets = list(known["target"].unique())
    if not targets:
        return None
    known = with_labels(known)
    known["label"] += " · " + known["dtypes"]
    problems, variants = chosen_problems(known, "traffic_ratio"), list(summary["variant"].unique())
    with mpl.rc_context(STYLE):
        figure, panels = make_panels(1, len(targets))
        norm = LogNorm(1.0, max(2.0, float(known["traffic_ratio"].max())))
        for column, target in enumerate(targets):
            axes = panels[0][column]
            part = known[known["target"] == target]
            _draw_cells(axes, part.pivot_table("traffic_ratio", "problem", "variant"), problems, variants, norm)
            label_rows(axes, problems, column == 0, offset=0.5)
            axes.set_title(str(target), loc="left")
        figure.supxlabel("bytes moved ÷ minimum bytes (1.00: each input read once, each output written once)", size=9)
        _arrange_cells(figure, panels, list(problems["label"]), variants)
        add_caption(figure, _cut(caption, len(problems), known["problem"].nunique(), "those with the highest ratios"))
    return figure


def atlas(table: pd.DataFrame, caption: str) -> Figure | None:
    """Heat map of median traffic ratios: a panel per target, a row per operator, layout, pass and context, a column per
    variant; the best of each row is framed. What was compiled for fewer of the row's problems than another does not
    compete, and is in brackets.

    Args:
      table: rows of `normbench.report.data.atlas.atlas`, of one dtype.
    """
    known = table[table["n"] > 0]
    targets = list(known["target"].unique())
    if not targets:
        return None
    variants = list(known["variant"].unique())
    labels = [group_label({name: str(row[name]) for name in GROUP}) for row in known[GROUP].to_dict("records")]
    known = known.assign(label=known["operator"].astype(str) + " · " + labels)
    known = known.assign(fewer=known["n"] < known.groupby(["target", "label"])["n"].transform("max"))
    rows = known.drop_duplicates("label")[["label"]].reset_index(drop=True).assign(problem=lambda frame: frame["label"])
    beside = len(targets) if len(variants) * CELL_IN * len(targets) <= MAX_WIDTH_IN else 1
    with mpl.rc_context(STYLE):
        figure, panels = make_panels(len(targets) // beside, beside)
        norm = LogNorm(1.0, max(2.0, float(known["traffic_ratio"].max())))
        for place, (axes, target) in enumerate(zip(panels.flat, targets, strict=True)):
            part = known[known["target"] == target]
            cells, fewer = (part.pivot_table(what, "label", "variant") for what in ("traffic_ratio", "fewer"))
            _draw_cells(axes, cells, rows, variants, norm, absent="", bracketed=fewer)
            _frame(axes, part[part["best"]], list(rows["label"]), variants)
            label_rows(axes, rows, place % beside == 0, offset=0.5)
            above = _name_above(axes, variants) if place < beside and len(rows) > TALL else None
            axes.set_title(str(target), loc="left", pad=above)
        figure.supxlabel(
            "median over problems of bytes moved ÷ minimum bytes; framed: the lowest, of these the fewest launches",
            size=9,
        )
        _arrange_cells(figure, panels, list(rows["label"]), variants)
        some = "In brackets: of some of the row's problems only, and so not compared. " if known["fewer"].any() else ""
        add_caption(figure, some + caption)
    return figure


def _frame(axes: Axes, best: pd.DataFrame, labels: list[str], variants: list[str]) -> None:
    """A double line, light within dark, so that it is seen on every colour."""
    for label, variant in zip(best["label"], best["variant"], strict=True):
        for inset, colour in ((0.05, "black"), (0.09, "white")):
            corner = (variants.index(variant) + inset, labels.index(label) + inset)
            size = 1 - 2 * inset
            axes.add_patch(Rectangle(corner, size, size, fill=False, edgecolor=colour, linewidth=1.1))


def _slanted_in(names: list[str]) -> float:
    return 0.1 + longest_in(names) * float(np.sin(np.radians(SLANT_DEGREES)))


def _name_above(axes: Axes, variants: list[str]) -> float:
    """Writes the columns' names above them too; returns what they take, in points."""
    for column, variant in enumerate(variants):
        where = ((column + 0.5) / len(variants), 1)
        axes.annotate(
            variant, where, (0, 4), "axes fraction", "offset points", rotation=SLANT_DEGREES, rotation_mode="anchor",
            ha="left", va="bottom", fontsize=9, color=INK,
        )  # fmt: skip
    return 72 * _slanted_in(variants)


def _arrange_cells(figure: Figure, panels: np.ndarray, labels: list[str], variants: list[str]) -> None:
    slanted = _slanted_in(variants)
    width = max(len(variants) * CELL_IN, MIN_PANEL_IN)
    heights = [panel_height_in(len(labels))] * len(panels)
    above = slanted if len(labels) > TALL else 0.0
    arrange(figure, panels, heights, width, longest_in(labels), inner_in=slanted, below_in=slanted, legend_in=above)


def _draw_cells(
    axes: Axes, table: pd.DataFrame, problems: pd.DataFrame, variants: list[str], norm: LogNorm, absent: str = "–",
    bracketed: pd.DataFrame | None = None,
) -> None:  # fmt: skip
    """`bracketed`: like `table`, above 0 where a value stands in brackets."""
    shown = table.reindex(index=problems["problem"], columns=variants)
    values = shown.to_numpy(dtype=float)
    within = np.zeros(shown.shape, bool)
    if bracketed is not None:
        within = bracketed.reindex_like(shown).to_numpy(dtype=float) > 0
    colours = mpl.colormaps["Oranges"]
    # Cells of their own rather than an image: sharp at any size, and no picture data in the page.
    axes.pcolormesh(np.ma.masked_invalid(values), cmap=colours, norm=norm, edgecolors="none")
    for (line, column), value in np.ndenumerate(values):
        text, colour = absent, INK
        if np.isfinite(value):
            text = f"({value:.2f})" if within[line, column] else f"{value:.2f}"
            colour = "black" if np.dot(to_rgb(colours(norm(value))), (0.3, 0.59, 0.11)) > 0.5 else "white"
        if text:
            cell = axes.text(column + 0.5, line + 0.5, text, ha="center", va="center", color=colour, fontsize=8)
            cell.set_in_layout(False)  # it lies within the axes: the layout need not measure it
    axes.set_xticks(
        np.arange(len(variants)) + 0.5, variants, rotation=SLANT_DEGREES, ha="right", rotation_mode="anchor"
    )
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def error_against_speed(summary: pd.DataFrame, series: str, caption: str) -> Figure | None:
    """Largest error in ulp against time relative to the baseline: a point per case, a panel per dtype.

    Args:
      summary: rows of `normbench.report.data.summary.summary`, of one operator and one device.
      series: "wall_cold", "wall_warm", ...
    """
    known = summary[_timed(summary, series) & summary["max_ulp"].notna() & summary[f"{series}_ratio"].notna()]
    dtypes = list(known["dtype"].unique())
    if not dtypes:
        return None
    clock, cache = clock_and_cache(series)
    with mpl.rc_context(STYLE):
        figure, panels = make_panels(1, len(dtypes))
        for column, dtype in enumerate(dtypes):
            axes = panels[0][column]
            for variant, mine in known[known["dtype"] == dtype].groupby("variant", sort=False):
                colour, marker = style(str(variant))
                points = {"marker": marker, "color": colour, "alpha": 0.8, "s": 26, "linewidths": 0}
                axes.scatter(mine[f"{series}_ratio"], mine["max_ulp"], **points)
            axes.axvline(1.0, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
            axes.set_yscale("symlog", linthresh=1.0, linscale=0.5)
            axes.yaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=1.0, subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.set_ylim(0, 1.5 * max(2.0, float(known["max_ulp"].max())))
            axes.xaxis.set_major_locator(MaxNLocator(5))
            axes.set_title(str(dtype), loc="left")
            axes.set_xlabel("time ÷ time of the baseline")
            axes.grid()
        panels[0][0].set_ylabel("largest error (ulp)")
        legend_in = add_legend(figure, list(known["variant"].unique()))
        arrange(figure, panels, [panel_height_in(13)], 3.0, 0.7, gap_in=0.5, legend_in=legend_in)
        reading = "left of the line is faster, lower is more accurate."
        add_caption(figure, f"{caption} {clock} clock, {cache} cache; {reading}")
    return figure


def _timed(frame: pd.DataFrame, series: str) -> pd.Series:
    return frame[f"{series}_median_s"].notna() & (frame["status"] == "ok")


def _cut(caption: str, shown: int, total: int, which: str) -> str:
    return caption if shown >= total else f"{caption} {shown} of {count(total, 'problem')}: {which}."
