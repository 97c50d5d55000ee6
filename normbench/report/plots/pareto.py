"""Speed against error: which variants no other one beats in both, and how errors grow with a mean that is not zero."""

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from normbench.display.palette import style
from normbench.report.plots.figure_parts import STYLE, add_caption, add_legend, arrange, log_ticks, make_panels


def pareto(summary: pd.DataFrame, series: str) -> pd.DataFrame:
    """A row per operator, dtype and variant on the front: `problems`, `time ÷ baseline` (geometric mean) and
    `largest error (ulp)`. A variant is on it where no other one of the same operator and dtype is both faster and
    more accurate.

    Only variants that were timed for as many problems as any other compete.

    Args:
      summary: rows of `normbench.report.data.summary.summary`, of one device and pass.
      series: "wall_cold", "wall_warm", ...
    """
    known = summary[summary[f"{series}_ratio"].notna() & summary["max_ulp"].notna() & (summary["status"] == "ok")]
    groups = known.groupby(["operator", "dtype", "variant"], sort=False)
    table = pd.DataFrame(
        {
            "problems": groups["problem"].nunique(),
            "time ÷ baseline": groups[f"{series}_ratio"].agg(_geometric_mean),
            "largest error (ulp)": groups["max_ulp"].max(),
        }
    ).reset_index()
    most = table.groupby(["operator", "dtype"], sort=False)["problems"].transform("max")
    fronts = [_front(part) for _, part in table[table["problems"] == most].groupby(["operator", "dtype"], sort=False)]
    return pd.concat(fronts, ignore_index=True) if fronts else table


def _geometric_mean(ratios: pd.Series) -> float:
    return float(np.exp(np.log(ratios.astype(float)).mean()))


def _front(part: pd.DataFrame) -> pd.DataFrame:
    ordered = part.sort_values(["time ÷ baseline", "largest error (ulp)"], kind="stable")
    best = ordered["largest error (ulp)"].cummin().shift(fill_value=np.inf)
    return ordered[ordered["largest error (ulp)"] < best]


def error_by_offset(table: pd.DataFrame, caption: str) -> Figure | None:
    """Largest error against the mean of the data in deviations: a panel per dtype, a line per variant.

    Args:
      table: columns `dtype`, `variant`, `offset` and `error`.
    """
    if table.empty:
        return None
    dtypes = list(table["dtype"].unique())
    positive = table.loc[table["error"] > 0, "error"]
    floor = float(positive.min()) / 2 if len(positive) else 1e-8
    with mpl.rc_context(STYLE):
        figure, panels = make_panels(1, len(dtypes), sharey=True)
        for axes, dtype in zip(panels[0], dtypes, strict=True):
            for variant, part in table[table["dtype"] == dtype].groupby("variant", sort=False):
                colour, marker = style(str(variant))
                points = {"color": colour, "marker": marker, "markersize": 5, "linewidth": 1.4}
                axes.plot(part["offset"], part["error"].clip(lower=floor), **points)
            axes.set_xscale("symlog", linthresh=1.0, linscale=0.6)
            axes.xaxis.set_major_locator(FixedLocator(sorted(table["offset"].unique())))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}" if value < 1e4 else f"1e{np.log10(value):.0f}")
            axes.set_yscale("log")
            log_ticks(axes.yaxis, "{:.0e}".format)
            axes.set_title(str(dtype), loc="left")
            axes.set_xlabel("mean of the data ÷ its deviation")
            axes.grid()
        panels[0][0].set_ylabel("largest absolute error")
        legend_in = add_legend(figure, list(table["variant"].unique()))
        arrange(figure, panels, [3.0], 7.0 / len(dtypes), 0.85, gap_in=0.35, legend_in=legend_in)
        add_caption(figure, caption)
    return figure
