# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 7. How fast are the norms on a GPU?
#
# Everything so far was read from compiled programs, or measured on a CPU. **The questions** that only a GPU answers: what
# fraction of the bandwidth that a plain copy reaches do the norms reach? Are they faster than what a user would pick instead?
# And how far is a prediction from bytes and launches from the truth?
#
# It reads the committed run `results/runs/gpu`; nothing in this repository stands in for a measurement. Until there is a run,
# this is what it will show:
# 1. the roofline: the bandwidth of each case against the fastest streaming program of its size, measured in the same run;
# 2. the speed-up of each variant and peer over the baseline, with its noise;
# 3. the predicted against the measured time, and how far the one is off the other.
#
# To make one, on a machine with an NVIDIA GPU, and execute this notebook again:
#
#     pip install 'normbench[cuda]'
#     normbench study --preset standard --target gpu
#     python tools/keep_run.py results/runs/<run id> gpu

# %%
from story import answer, committed, in_one_figure, rows_of, show, source

from normbench.report.plots.speed import predicted_against_measured, roofline, speed_up
from normbench.report.data.summary import ceiling_rates

run = committed("gpu")
NOTHING = "**No run on a GPU is committed yet, so there is no figure here.**"
rows = None if run is None else rows_of(run)
timed = None if run is None else rows[(rows["target"] == "gpu") & rows["wall_cold_median_s"].notna()]


def shown(draw, name):
    """A figure of the GPU's run, or words in its place."""
    figure = None if timed is None or timed.empty else draw()
    return answer(NOTHING) if figure is None else show(figure, name)


# %% [markdown]
# ## The roofline
# A norm computes so little per byte that the memory is its roof. The line is the fastest streaming program of the same size,
# measured in the same run.

# %%
shown(
    lambda: roofline(timed, ceiling_rates(run.ceilings).get(("gpu", "wall", "cold"), {}), "wall_cold", source(run)),
    "roofline",
)

# %% [markdown]
# ## Against the baseline and the peers

# %%
shown(lambda: speed_up(timed[timed["operator"] == "layer_norm"], "wall_cold", source(run)), "speed-up")

# %% [markdown]
# ## The prediction
# Bytes over the datasheet's bandwidth, plus a cost per launch: right on the line, too slow above it.

# %%
shown(lambda: predicted_against_measured(timed, "wall_cold", source(run)), "prediction")

# %% [markdown]
# ## Answers

# %%
if timed is None or timed.empty:
    words = f"{NOTHING} The three questions are open."
else:
    fraction = timed["wall_cold_ceiling_fraction"].dropna().astype(float)
    known = timed[timed["predicted_s"].notna()]
    factor = (known["predicted_s"] / known["wall_cold_median_s"]).astype(float)
    faster = timed[(timed["wall_cold_ratio_high"] < 1) & ~timed["baseline"].fillna(False).astype(bool)]
    others = timed[~timed["baseline"].fillna(False).astype(bool)]
    words = (
        f"**Bandwidth.** The median case reaches {100 * fraction.median():.0f} % of the measured ceiling of its size; a quarter "
        f"reach more than {100 * fraction.quantile(0.75):.0f} %.\n\n"
        f"**Peers.** {len(faster)} of {len(others)} other variants are faster than their baseline beyond the noise.\n\n"
        + (f"**Prediction.** It is {factor.median():.2f} times the measured time in the median; the middle half lies between "
           f"{factor.quantile(0.25):.2f} and {factor.quantile(0.75):.2f}." if len(factor) else "")
    )  # fmt: skip
answer(words)


# %%
def by_operator(values):
    """The median of each operator's cases."""
    known = values.dropna().astype(float)
    return known.groupby(timed.loc[known.index, "operator"].astype(str), sort=False).median()


def in_short():
    panels = {
        "share of the ceiling (median)": by_operator(timed["wall_cold_ceiling_fraction"]),
        "time ÷ baseline's (median)": by_operator(others["wall_cold_ratio"]),
        "predicted ÷ measured (median)": by_operator(timed["predicted_s"] / timed["wall_cold_median_s"]),
    }
    return in_one_figure(panels, source(run))


shown(in_short, "answer")
