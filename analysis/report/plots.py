"""Pictures of a run: data frames in, matplotlib figures out, one function per kind of plot.

Backgrounds are transparent and text has a middle tone, so that a figure is legible on a light and on a dark page.
Only measured times are drawn; predicted ones never are.
"""

import io
import re
import textwrap
import warnings
from collections.abc import Iterable
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, SymmetricalLogLocator
from matplotlib.transforms import Bbox

from analysis.report.atlas import GROUP, group_label
from analysis.report.palette import INK, style
from analysis.report.units import TIME_UNITS, count, printable
from normbench.schema import CACHES

MAX_ROWS = 24
"""Problems in one panel; more cannot be read. The largest are drawn, and the caption says so."""

_ROW_IN = 0.235
_CELL_IN = 0.56
_MIN_PANEL_IN = 1.6
_MIN_WIDTH_IN = 7.5  # of a figure, for the words below it
_MAX_WIDTH_IN = 10.0  # of the panels beside each other
_CAPTION_LETTERS_PER_IN = 16
_CAPTION_LINE_IN = 0.14
_BELOW = "caption"
_LETTER_IN = 0.073
_TITLE_IN = 0.32
_LABEL_IN = 0.3
_LEGEND_LINE_IN = 0.21
_LEGEND_COLUMNS = 5
_SLANT_DEGREES = 35
_STYLE: dict[Any, Any] = {
    "font.size": 9.0,
    "font.family": "sans-serif",
    "axes.titlesize": 9.5,
    "axes.titley": 1.0,  # where it is anyway: found by measuring all labels otherwise
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": INK,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "svg.fonttype": "none",
    "text.parse_math": False,
    "legend.frameon": False,
}


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


def _with_labels(frame: pd.DataFrame) -> pd.DataFrame:
    problems = frame.drop_duplicates("problem").set_index("problem")
    labels = {row.Index: problem_label(row) for row in problems.itertuples()}
    dtypes = {row.Index: dtype_label(row) for row in problems.itertuples()}
    return frame.assign(label=frame["problem"].map(labels), dtypes=frame["problem"].map(dtypes))


def _chosen(frame: pd.DataFrame, by: str) -> pd.DataFrame:
    """Of the problems in `frame`, the `MAX_ROWS` with the largest `by`; the smallest first."""
    ranks = frame.groupby("problem", sort=False)[by].max().sort_values(kind="stable")
    problems = frame.drop_duplicates("problem")
    problems = problems[problems["problem"].isin(ranks.tail(MAX_ROWS).index)]
    return problems.sort_values(["elements", "label"], kind="stable")[["problem", "label"]].reset_index(drop=True)


def time_by_variant(summary: pd.DataFrame, clock: str, caption: str) -> Figure | None:
    """Median time per variant and problem with its interquartile range: a row of panels per dtype, a column per cache.

    Args:
      summary: rows of `analysis.report.summary.summary`, of one operator and one device.
    """
    timed = _with_labels(summary[summary["status"] == "ok"])
    caches = [cache for cache in CACHES if timed[f"{clock}_{cache}_median_s"].notna().any()]
    timed = timed[timed[[f"{clock}_{cache}_median_s" for cache in caches]].notna().any(axis=1)]
    if not caches or timed.empty:
        return None
    parts = list(timed.groupby("dtypes", sort=False))
    rows = [_chosen(part, "elements") for _, part in parts]
    with mpl.rc_context(_STYLE):
        figure, panels = _panels(len(rows), len(caches), sharex=True)
        for line, ((dtypes, part), problems) in enumerate(zip(parts, rows, strict=True)):
            for column, cache in enumerate(caches):
                axes = panels[line][column]
                _draw_times(axes, part, problems, f"{clock}_{cache}")
                _label_rows(axes, problems, column == 0)
                grid = {"color": INK, "alpha": 0.25, "linewidth": 0.6, "zorder": 0.5}
                axes.hlines(range(len(problems)), 0, 1, transform=axes.get_yaxis_transform(), **grid)
                axes.set_title(f"{dtypes} · {cache} cache · {clock} clock", loc="left")
        figure.supxlabel("time per call: median and interquartile range (log scale)", size=9)
        labels = [label for problems in rows for label in problems["label"]]
        heights, legend_in = (
            [_tall(len(problems)) for problems in rows],
            _legend(figure, list(timed["variant"].unique())),
        )
        _arrange(figure, panels, heights, 7.6 / len(caches), _longest_in(labels), legend_in=legend_in)
        shown = sum(len(problems) for problems in rows)
        _caption(figure, _cut(caption, shown, timed["problem"].nunique(), "the largest"))
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
    axes.xaxis.set_major_formatter(lambda value, _: _time_tick(value))
    axes.xaxis.set_minor_formatter(lambda value, _: _minor_tick(axes, value))
    axes.tick_params(axis="x", which="minor", labelsize=7.5)
    axes.grid(axis="x", which="major")


def traffic_ratio(summary: pd.DataFrame, caption: str) -> Figure | None:
    """Heat map of bytes moved over minimum bytes: a panel per target, a row per problem, a column per variant.

    Args:
      summary: rows of `analysis.report.summary.summary`, of one operator.
    """
    known = summary[summary["traffic_ratio"].notna()]
    targets = list(known["target"].unique())
    if not targets:
        return None
    known = _with_labels(known)
    known["label"] += " · " + known["dtypes"]
    problems, variants = _chosen(known, "traffic_ratio"), list(summary["variant"].unique())
    with mpl.rc_context(_STYLE):
        figure, panels = _panels(1, len(targets))
        norm = LogNorm(1.0, max(2.0, float(known["traffic_ratio"].max())))
        for column, target in enumerate(targets):
            axes = panels[0][column]
            part = known[known["target"] == target]
            _draw_cells(axes, part.pivot_table("traffic_ratio", "problem", "variant"), problems, variants, norm)
            _label_rows(axes, problems, column == 0, offset=0.5)
            axes.set_title(str(target), loc="left")
        figure.supxlabel("bytes moved ÷ minimum bytes (1.00: each input read once, each output written once)", size=9)
        _arrange_cells(figure, panels, list(problems["label"]), variants)
        _caption(figure, _cut(caption, len(problems), known["problem"].nunique(), "those with the highest ratios"))
    return figure


def atlas(table: pd.DataFrame, caption: str) -> Figure | None:
    """Heat map of median traffic ratios: a panel per target, a row per operator, layout, pass and context, a column per
    variant; the best of each row is framed.

    Args:
      table: rows of `analysis.report.atlas.atlas`, of one dtype.
    """
    known = table[table["n"] > 0]
    targets = list(known["target"].unique())
    if not targets:
        return None
    variants = list(known["variant"].unique())
    labels = [group_label({name: str(row[name]) for name in GROUP}) for row in known[GROUP].to_dict("records")]
    known = known.assign(label=known["operator"].astype(str) + " · " + labels)
    rows = known.drop_duplicates("label")[["label"]].reset_index(drop=True).assign(problem=lambda frame: frame["label"])
    beside = len(targets) if len(variants) * _CELL_IN * len(targets) <= _MAX_WIDTH_IN else 1
    with mpl.rc_context(_STYLE):
        figure, panels = _panels(len(targets) // beside, beside)
        norm = LogNorm(1.0, max(2.0, float(known["traffic_ratio"].max())))
        for place, (axes, target) in enumerate(zip(panels.flat, targets, strict=True)):
            part = known[known["target"] == target]
            _draw_cells(axes, part.pivot_table("traffic_ratio", "label", "variant"), rows, variants, norm, absent="")
            _frame(axes, part[part["best"]], list(rows["label"]), variants)
            _label_rows(axes, rows, place % beside == 0, offset=0.5)
            axes.set_title(str(target), loc="left")
        figure.supxlabel(
            "median over problems of bytes moved ÷ minimum bytes; framed: the lowest, of these the fewest launches",
            size=9,
        )
        _arrange_cells(figure, panels, list(rows["label"]), variants)
        _caption(figure, caption)
    return figure


def _frame(axes: Axes, best: pd.DataFrame, labels: list[str], variants: list[str]) -> None:
    """A double line, light within dark, so that it is seen on every colour."""
    for label, variant in zip(best["label"], best["variant"], strict=True):
        for inset, colour in ((0.05, "black"), (0.09, "white")):
            corner = (variants.index(variant) + inset, labels.index(label) + inset)
            size = 1 - 2 * inset
            axes.add_patch(Rectangle(corner, size, size, fill=False, edgecolor=colour, linewidth=1.1))


def _arrange_cells(figure: Figure, panels: np.ndarray, labels: list[str], variants: list[str]) -> None:
    slanted = 0.1 + _longest_in(variants) * float(np.sin(np.radians(_SLANT_DEGREES)))
    width = max(len(variants) * _CELL_IN, _MIN_PANEL_IN)
    heights = [_tall(len(labels))] * len(panels)
    _arrange(figure, panels, heights, width, _longest_in(labels), inner_in=slanted, below_in=slanted)


def _draw_cells(
    axes: Axes, table: pd.DataFrame, problems: pd.DataFrame, variants: list[str], norm: LogNorm, absent: str = "–"
) -> None:
    values = table.reindex(index=problems["problem"], columns=variants).to_numpy(dtype=float)
    colours = mpl.colormaps["cividis"]
    # Cells of their own rather than an image: sharp at any size, and no picture data in the page.
    axes.pcolormesh(np.ma.masked_invalid(values), cmap=colours, norm=norm, edgecolors="none")
    for (line, column), value in np.ndenumerate(values):
        shade = np.dot(to_rgb(colours(norm(value))), (0.3, 0.59, 0.11)) if np.isfinite(value) else 0.0
        text, colour = (f"{value:.2f}", "black" if shade > 0.5 else "white") if np.isfinite(value) else (absent, INK)
        if text:
            cell = axes.text(column + 0.5, line + 0.5, text, ha="center", va="center", color=colour, fontsize=8)
            cell.set_in_layout(False)  # it lies within the axes: the layout need not measure it
    axes.set_xticks(
        np.arange(len(variants)) + 0.5, variants, rotation=_SLANT_DEGREES, ha="right", rotation_mode="anchor"
    )
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def error_against_speed(summary: pd.DataFrame, series: str, caption: str) -> Figure | None:
    """Largest error in ulp against time relative to the baseline: a point per case, a panel per dtype.

    Args:
      summary: rows of `analysis.report.summary.summary`, of one operator and one device.
      series: "wall_cold", "wall_warm", ...
    """
    known = summary[_timed(summary, series) & summary["max_ulp"].notna() & summary[f"{series}_ratio"].notna()]
    dtypes = list(known["dtype"].unique())
    if not dtypes:
        return None
    clock, cache = series.split("_")
    with mpl.rc_context(_STYLE):
        figure, panels = _panels(1, len(dtypes))
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
        legend_in = _legend(figure, list(known["variant"].unique()))
        _arrange(figure, panels, [_tall(13)], 3.0, 0.7, gap_in=0.5, legend_in=legend_in)
        _caption(figure, f"{caption} {clock} clock, {cache} cache; left of the line is faster, lower is more accurate.")
    return figure


def to_svg(figure: Figure, name: str) -> str:
    """The figure as an <svg> element to be put into a page; `name` keeps its ids apart from other figures'."""
    stream = io.StringIO()
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the reader's own fonts are used
        figure.savefig(stream, format="svg", metadata={"Date": None}, bbox_inches=_covered(figure))
    svg = stream.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    prefix = re.sub(r"[^a-z0-9]+", "-", name.lower())
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    return re.sub(r'(url\(#|href="#)', rf"\g<1>{prefix}-", svg)


def _covered(figure: Figure) -> Bbox:
    """What a figure covers, in inches: itself, and its caption below."""
    lines = max((text.get_text().count("\n") + 1 for text in figure.texts if text.get_gid() == _BELOW), default=0)
    return Bbox([[0.0, -0.1 - lines * _CAPTION_LINE_IN], [figure.get_figwidth(), figure.get_figheight()]])


def _timed(frame: pd.DataFrame, series: str) -> pd.Series:
    return frame[f"{series}_median_s"].notna() & (frame["status"] == "ok")


def _panels(lines: int, columns: int, **shared: Any) -> tuple[Figure, np.ndarray]:
    figure = Figure(layout=None)
    FigureCanvasAgg(figure)
    return figure, figure.subplots(lines, columns, squeeze=False, **shared)


def _arrange(
    figure: Figure,
    panels: np.ndarray,
    heights_in: list[float],
    width_in: float,
    left_in: float,
    *,
    gap_in: float = 0.2,
    inner_in: float = 0.1,
    below_in: float = 0.3,
    legend_in: float = 0.0,
) -> None:
    """Gives the figure its size and the panels their places, from the lengths of their labels.

    Matplotlib's own layout measures every text several times, which was most of the time that a report took.

    Args:
      heights_in: of each line of panels; above each there is its title.
      width_in: of a panel.
      left_in, gap_in: left of the first column, between columns.
      inner_in, below_in: below each line of panels but the last, and below the last.
      legend_in: height of the legend.
    """
    columns = panels.shape[1]
    width = max(left_in + columns * (width_in + gap_in), _MIN_WIDTH_IN)
    height = legend_in + sum(heights_in) + len(heights_in) * _TITLE_IN + (len(heights_in) - 1) * inner_in
    height += below_in + _LABEL_IN
    figure.set_size_inches(width, height)
    top = height - legend_in
    for line, tall in zip(panels, heights_in, strict=True):
        top -= _TITLE_IN + tall
        for column, axes in enumerate(line):
            left = left_in + column * (width_in + gap_in)
            axes.set_position((left / width, top / height, width_in / width, tall / height))
        top -= inner_in


def _tall(rows: int) -> float:
    return max(rows, 3) * _ROW_IN


def _longest_in(labels: Iterable[str]) -> float:
    return 0.2 + _LETTER_IN * max(map(len, labels), default=0)


def _label_rows(axes: Axes, problems: pd.DataFrame, first: bool, offset: float = 0.0) -> None:
    axes.set_ylim(len(problems) - 0.5 + offset, -0.5 + offset)
    if first:
        axes.set_yticks(np.arange(len(problems)) + offset, problems["label"])
        axes.tick_params(axis="y", length=0)
    else:
        axes.yaxis.set_visible(False)  # its ticks would be made and measured for nothing


def _legend(figure: Figure, variants: list[str]) -> float:
    """Draws the legend at the top and returns its height in inches."""
    styles = [style(variant) for variant in variants]
    handles = [
        Line2D([], [], linestyle="none", marker=marker, color=colour, label=printable(variant))
        for variant, (colour, marker) in zip(variants, styles, strict=True)
    ]
    columns = min(len(handles), _LEGEND_COLUMNS)
    figure.legend(handles=handles, loc="upper center", ncols=columns, columnspacing=1.4, borderaxespad=0.0)
    return 0.1 + _LEGEND_LINE_IN * -(-len(handles) // columns)


def _caption(figure: Figure, text: str) -> None:
    wrapped = textwrap.fill(printable(text), int(figure.get_figwidth() * _CAPTION_LETTERS_PER_IN))
    below = figure.text(0.01, -0.01, wrapped, ha="left", va="top", fontsize=7.5, transform=figure.transFigure)
    below.set_gid(_BELOW)
    below.set_in_layout(False)


def _cut(caption: str, shown: int, total: int, which: str) -> str:
    return caption if shown >= total else f"{caption} {shown} of {count(total, 'problem')}: {which}."


def _time_tick(seconds: float) -> str:
    for name, scale in TIME_UNITS:
        if seconds >= scale * 0.9999:
            return f"{seconds / scale:.3g} {name}"
    return f"{seconds / 1e-9:.2g} ns"


def _minor_tick(axes: Axes, seconds: float) -> str:
    """Labels at 2 and 5 where the axis spans too little for the powers of ten to say much."""
    low, high = axes.get_xlim()
    leading = round(seconds / 10 ** np.floor(np.log10(seconds)), 6)
    wanted = () if high / low > 300 else (2.0, 5.0) if high / low > 12 else (1.5, 2.0, 3.0, 5.0, 7.0)
    return _time_tick(seconds) if leading in wanted else ""
