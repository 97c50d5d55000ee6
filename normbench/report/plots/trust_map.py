"""The trust map as a picture: the median error of each operator and pass, and of each kind and size of launch."""

from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm, to_rgb
from matplotlib.figure import Figure

from normbench.display.palette import INK
from normbench.report.model.error import size
from normbench.report.model.trust_map import decade_name
from normbench.report.plots.figure_parts import SLANT_DEGREES, STYLE, add_caption, arrange, longest_in, make_panels

_CELL_IN = 0.72
_ROW_IN = 0.36
_LARGEST = 9.0
"""A factor of ten: errors beyond it have the same colour."""


def trust_picture(table: pd.DataFrame, row: str, column: str, caption: str) -> Figure | None:
    """Median errors as cells, a panel per model.

    Args:
      table: of one device, rows of `trust_of_cases` (row "operator", column "pass") or of `trust_of_launches` ("kind"
        and "decade").
    """
    if table.empty:
        return None
    models = list(table["model"].unique())
    rows = list(dict.fromkeys(table[row].astype(str)))
    columns = sorted(table[column].unique())
    labels = [decade_name(value) if column == "decade" else str(value).replace("_", " and ") for value in columns]
    with mpl.rc_context(STYLE):
        figure, panels = make_panels(1, len(models))
        for place, model in enumerate(models):
            axes = panels[0][place]
            _draw(axes, table[table["model"] == model], (row, rows), (column, columns), place == 0)
            axes.set_xticks(
                np.arange(len(columns)) + 0.5, labels, rotation=SLANT_DEGREES, ha="right", rotation_mode="anchor"
            )
            axes.set_title(f"model {model!r}", loc="left")
        slanted = 0.1 + longest_in(labels) * float(np.sin(np.radians(SLANT_DEGREES)))
        width = max(_CELL_IN * len(columns), 1.3)
        arrange(figure, panels, [_ROW_IN * len(rows)], width, max(longest_in(rows), slanted), below_in=slanted)
        add_caption(figure, caption)
    return figure


def _draw(
    axes: Any, table: pd.DataFrame, rows: tuple[str, list[str]], columns: tuple[str, list[Any]], first: bool
) -> None:
    colours, norm = mpl.colormaps["Oranges"], LogNorm(0.1, _LARGEST, clip=True)
    values = np.full((len(rows[1]), len(columns[1])), np.nan)
    for cell in table.to_dict("records"):
        y, x = rows[1].index(str(cell[rows[0]])), columns[1].index(cell[columns[0]])
        values[y, x] = max(cell["median"], 0.1)
        red, green, blue = to_rgb(colours(norm(values[y, x])))
        ink = "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 0.5 else "white"
        axes.text(x + 0.5, y + 0.38, size(cell["median"]), ha="center", va="center", color=ink, fontsize=7.5)
        axes.text(x + 0.5, y + 0.74, f"n {cell['n']}", ha="center", va="center", color=ink, fontsize=6.5)
    axes.pcolormesh(np.ma.masked_invalid(values), cmap=colours, norm=norm, edgecolors="none")
    axes.set_ylim(len(rows[1]), 0)
    axes.set_xlim(0, len(columns[1]))
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    for place in range(1, len(rows[1])):
        axes.axhline(place, color=INK, linewidth=0.3)
    if first:
        axes.set_yticks(np.arange(len(rows[1])) + 0.5, rows[1])
    else:
        axes.yaxis.set_visible(False)
