"""What all plots share: sizes and places of panels, legend, caption, ticks, and the way to SVG."""

import io
import re
import textwrap
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import Bbox

from normbench.display.palette import INK, style
from normbench.display.units import TIME_UNITS, printable

_ROW_IN = 0.235
CELL_IN = 0.56
MIN_PANEL_IN = 1.6
_MIN_WIDTH_IN = 7.5  # of a figure, for the words below it
MAX_WIDTH_IN = 10.0  # of the panels beside each other
_CAPTION_LETTERS_PER_IN = 16
_CAPTION_LINE_IN = 0.14
_BELOW = "caption"
_LETTER_IN = 0.077
_TITLE_IN = 0.32
_LABEL_IN = 0.3
_LEGEND_LINE_IN = 0.21
_LEGEND_COLUMNS = 5
SLANT_DEGREES = 35
STYLE: dict[Any, Any] = {
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


def to_svg(figure: Figure, name: str) -> str:
    """The figure as an <svg> element to be put into a page; `name` keeps its ids apart from other figures'."""
    stream = io.StringIO()
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the reader's own fonts are used
        figure.savefig(stream, format="svg", metadata={"Date": None}, bbox_inches=_covered(figure))
    svg = stream.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r"(\d\.\d\d)\d+", r"\1", re.sub(r">\s+<", "><", svg))  # a hundredth of a point cannot be seen
    prefix = re.sub(r"[^a-z0-9]+", "-", name.lower())
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    return re.sub(r'(url\(#|href="#)', rf"\g<1>{prefix}-", svg)


def _covered(figure: Figure) -> Bbox:
    """What a figure covers, in inches: itself, and its caption below."""
    lines = max((text.get_text().count("\n") + 1 for text in figure.texts if text.get_gid() == _BELOW), default=0)
    return Bbox([[0.0, -0.2 - lines * _CAPTION_LINE_IN], [figure.get_figwidth(), figure.get_figheight()]])


def make_panels(lines: int, columns: int, **shared: Any) -> tuple[Figure, np.ndarray]:
    figure = Figure(layout=None)
    FigureCanvasAgg(figure)
    return figure, figure.subplots(lines, columns, squeeze=False, **shared)


def arrange(
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


def panel_height_in(rows: int) -> float:
    return max(rows, 3) * _ROW_IN


def longest_in(labels: Iterable[str]) -> float:
    return 0.2 + _LETTER_IN * max(map(len, labels), default=0)


def label_rows(axes: Axes, problems: pd.DataFrame, first: bool, offset: float = 0.0) -> None:
    axes.set_ylim(len(problems) - 0.5 + offset, -0.5 + offset)
    if first:
        axes.set_yticks(np.arange(len(problems)) + offset, problems["label"])
        axes.tick_params(axis="y", length=0)
    else:
        axes.yaxis.set_visible(False)  # its ticks would be made and measured for nothing


def add_legend(figure: Figure, variants: list[str]) -> float:
    """Draws the legend at the top and returns its height in inches."""
    styles = [style(variant) for variant in variants]
    handles = [
        Line2D([], [], linestyle="none", marker=marker, color=colour, label=printable(variant))
        for variant, (colour, marker) in zip(variants, styles, strict=True)
    ]
    columns = min(len(handles), _LEGEND_COLUMNS)
    figure.legend(handles=handles, loc="upper center", ncols=columns, columnspacing=1.4, borderaxespad=0.0)
    return 0.1 + _LEGEND_LINE_IN * -(-len(handles) // columns)


def add_caption(figure: Figure, text: str) -> None:
    wrapped = textwrap.fill(printable(text), int(figure.get_figwidth() * _CAPTION_LETTERS_PER_IN))
    below = figure.text(0.01, -0.01, wrapped, ha="left", va="top", fontsize=7.5, transform=figure.transFigure)
    below.set_gid(_BELOW)
    below.set_in_layout(False)


def time_tick(seconds: float) -> str:
    for name, scale in TIME_UNITS:
        if seconds >= scale * 0.9999:
            return f"{seconds / scale:.3g} {name}"
    return f"{seconds / 1e-9:.2g} ns"


def log_ticks(axis: Axis, label: Callable[[float], str]) -> None:
    """Labels a logarithmic axis at powers of ten, and at 2 and 5 where it spans too little for these to say much."""

    def minor(value: float, _: Any) -> str:
        low, high = sorted(axis.get_view_interval())
        leading = round(value / 10 ** np.floor(np.log10(value)), 6)
        wanted = () if high / low > 300 else (2.0, 5.0) if high / low > 12 else (1.5, 2.0, 3.0, 5.0, 7.0)
        return label(value) if leading in wanted else ""

    axis.set_major_formatter(lambda value, _: label(value))
    axis.set_minor_formatter(minor)
