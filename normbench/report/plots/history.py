"""Plots over releases or commits: how the traffic of the same cases changes from one to the next."""

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from normbench.display.palette import INK, style
from normbench.report.plots.figure_parts import (
    STYLE,
    add_caption,
    add_legend,
    arrange,
    label_rows,
    longest_in,
    make_panels,
    panel_height_in,
)

_MAX_LINES = 20


def history(table: pd.DataFrame, caption: str) -> Figure | None:
    """Traffic ratio of the cases that changed, over the versions: a line per case, in the colour of its variant.

    Args:
      table: columns `version` (in order of appearance), `case`, `variant` and `traffic_ratio`.
    """
    versions = list(table["version"].unique())
    wide = table.pivot_table("traffic_ratio", "case", "version")[versions].dropna(how="all")
    spread = wide.max(axis=1) - wide.min(axis=1)
    wide = wide[spread > 0.005].loc[lambda frame: spread[frame.index].sort_values(ascending=False).index]
    if wide.empty:
        return None
    variants = table.drop_duplicates("case").set_index("case")["variant"]
    with mpl.rc_context(STYLE):
        figure, panels = make_panels(1, 1)
        axes = panels[0][0]
        for case, values in wide.head(_MAX_LINES).iterrows():
            colour, marker = style(str(variants[case]))
            line = {"color": colour, "marker": marker, "markersize": 5, "linewidth": 1.3, "alpha": 0.85}
            axes.plot(range(len(versions)), values, **line)
        axes.axhline(1.0, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
        axes.set_xticks(range(len(versions)), versions)
        axes.set_xlim(-0.2, len(versions) - 0.8)
        axes.set_ylabel("bytes ÷ minimum bytes")
        axes.grid()
        shown = list(dict.fromkeys(variants[case] for case in wide.head(_MAX_LINES).index))
        legend_in = add_legend(figure, shown)
        arrange(figure, panels, [panel_height_in(14)], 6.6, 0.75, legend_in=legend_in)
        cut = f" The {_MAX_LINES} that changed most, of {len(wide)}." if len(wide) > _MAX_LINES else ""
        add_caption(figure, f"{caption} Cases whose traffic changed.{cut}")
    return figure


def changed_shares(table: pd.DataFrame, caption: str) -> Figure | None:
    """Share of each operator's cases whose program moves fewer, as many or more bytes than with the version before.

    Args:
      table: columns `operator`, `step` ("0.10.2 → 0.11.2") and `change` ("fewer", "same" or "more"); a row per case.
    """
    if table.empty:
        return None
    steps, operators = list(table["step"].unique()), list(table["operator"].unique())
    colours = {"fewer": "#2f7fc1", "same": "#c4c4c4", "more": "#d55e00"}
    with mpl.rc_context(STYLE):
        figure, panels = make_panels(1, len(steps), sharey=True)
        for place, (axes, step) in enumerate(zip(panels[0], steps, strict=True)):
            counts = pd.crosstab(table.loc[table["step"] == step, "operator"], table["change"])
            counts = counts.reindex(index=operators, columns=list(colours), fill_value=0)
            left = np.zeros(len(operators))
            for change, colour in colours.items():
                width = (100 * counts[change] / counts.sum(axis=1).clip(lower=1)).to_numpy()
                axes.barh(range(len(operators)), width, left=left, height=0.7, color=colour, label=change)
                left += width
            label_rows(axes, pd.DataFrame({"label": operators}), place == 0)
            axes.set_title(step, loc="left")
            axes.set_xlabel("cases (%)")
        figure.legend(*panels[0][0].get_legend_handles_labels(), loc="upper center", ncols=3, borderaxespad=0.0)
        arrange(figure, panels, [panel_height_in(len(operators) + 1)], 6.6 / len(steps), longest_in(operators),
                gap_in=0.3, legend_in=0.3)  # fmt: skip
        add_caption(figure, f"{caption} Bytes moved by the same case, against the version before (1 % or more).")
    return figure
