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
# # 2. When does folding batch norm into the convolution pay?
#
# At inference, a batch norm after a convolution is a scaling of its output channels, and scaling commutes with the
# convolution: multiply the weights instead, once, and the batch norm is gone. Every deployment tool does that. XLA does not:
# parameters are arguments to it, and it may not assume that they stay the same.
#
# **The questions.** What does the fold remove? What does it cost? After how many calls has it paid, for the layers of
# ResNet-50 and YOLO11n?
#
# The variants: `unfused` is convolution, then batch norm, then activation. `folded` folds within the call, each time.
# `prefolded` folds once ahead of the call; that fold is timed, too, as the stage *prepare*.

# %%
from story import answer, committed, compiled, in_one_figure, rows_of, show, source, table

import numpy as np
import pandas as pd

from normbench.report.plots import scatter as plots
from normbench.report.plots.speed import fold_cost, speed_up
from normbench.report.data.summary import digest

# %% [markdown]
# ## What the GPU would be asked to do
# The first convolution of YOLO11n, compiled for the H200. (Without a device XLA picks default convolution algorithms: take
# the number and the kind of launches from here, not the speed of the convolution.)

# %%
standard = committed("standard")
rows = rows_of(standard)
convolutions = rows[(rows["operator"] == "conv_bn") & (rows["target"] == "h200") & (rows["status"] == "ok")]
layer = convolutions[convolutions["model"].str.startswith("YOLO11n") & (convolutions["dtype"] == "bfloat16")][
    "problem"
].iloc[0]
unfused = compiled(f"{layer}.unfused")
unfused.picture

# %%
prefolded = compiled(f"{layer}.prefolded")
prefolded.picture

# %% [markdown]
# ## Over all layers of the preset
# Launches and bytes, by model. The convolution itself reads and writes; what counts is the difference.


# %%
def family(model):
    return model.split("@")[0] if "@" in model else "off-alignment"


convolutions = convolutions.assign(family=convolutions["model"].map(family))
base = convolutions[convolutions["variant"] == "unfused"].set_index("problem")[["launches", "bytes"]]
joined = convolutions.join(base, on="problem", rsuffix="_unfused")
joined = joined.assign(
    saved_launches=joined["launches_unfused"] - joined["launches"], moved=joined["bytes"] / joined["bytes_unfused"]
)
structure = (
    joined[joined["variant"] != "unfused"]
    .groupby(["family", "variant"], sort=False)
    .agg(
        layers=("problem", "nunique"),
        saved_launches=("saved_launches", "median"),
        bytes_over_unfused=("moved", "median"),
    )
)
table(structure.reset_index())

# %%
show(plots.traffic_ratio(convolutions, source(standard)), "traffic")

# %% [markdown]
# ## Measured on a CPU
# The committed run `quick` measured these layers on a CPU. A CPU's convolution is slow against its memory, so that the
# elementwise work that the fold removes is a small part of the whole.

# %%
quick = committed("quick")
measured = rows_of(quick)
cpu = measured[(measured["operator"] == "conv_bn") & (measured["target"] == "cpu")]
show(speed_up(cpu, "wall_cold", source(quick)), "speed-up")

# %% [markdown]
# The cost of the fold against what it saves per call. A point below the line "10 calls" has paid after ten calls.

# %%
paid = digest(quick).break_even.merge(cpu[["case", "variant", "model"]].drop_duplicates(), on="case")
paid = paid[(paid["device"] == "cpu") & (paid["clock"] == "wall") & (paid["cache"] == "cold")]
show(fold_cost(paid, source(quick)), "fold-cost")

# %%
listed = paid.assign(
    layer=paid["model"],
    fold_us=paid["prepare_s"] * 1e6,
    saved_us=paid["saved_s"] * 1e6,
    calls=paid["calls"].astype("Float64"),
)
listed["calls"] = [
    f"{calls:.0f}" if sure and not pd.isna(calls) else "never" if sure else "not told apart"
    for calls, sure in zip(listed["calls"], listed["certain"])
]
table(listed[["layer", "fold_us", "saved_us", "calls"]])

# %% [markdown]
# ## Measured on a GPU
# Where a run on a GPU is committed (`results/runs/gpu`), the same figures stand here; where there is none, nothing does.

# %%
gpu = committed("gpu")
if gpu is None:
    shown = answer("**No run on a GPU is committed yet.** Nothing is said about time on a GPU here.")
else:
    on_gpu = rows_of(gpu)
    on_gpu = on_gpu[(on_gpu["operator"] == "conv_bn") & (on_gpu["target"] == "gpu")]
    shown = show(speed_up(on_gpu, "wall_cold", source(gpu)), "speed-up-gpu")
shown

# %% [markdown]
# ## Answers

# %%
ahead = joined[joined["variant"] == "prefolded"]
faster = paid[paid["certain"] & (paid["saved_s"] > 0)]
slower = paid[paid["certain"] & (paid["saved_s"] <= 0)]
unclear = paid[~paid["certain"]]
gain = cpu[(cpu["variant"] == "prefolded") & cpu["wall_cold_ratio"].notna()]["wall_cold_ratio"].astype(float)
within = cpu[(cpu["variant"] == "folded") & cpu["wall_cold_ratio"].notna()]["wall_cold_ratio"].astype(float)
mean = lambda values: float(np.exp(np.log(values).mean()))
pays = (
    f"In {len(faster)} of {len(paid)} layers, after a median of {faster['calls'].astype(float).median():.0f} calls"
    if len(faster)
    else f"In none of {len(paid)} layers beyond the noise"
)
answer(f"""
**What does the fold remove?** On the H200, folding ahead saves a median of {ahead["saved_launches"].median():.0f} launches per layer
({ahead["saved_launches"].min():.0f} to {ahead["saved_launches"].max():.0f} over {len(ahead)} layers) and moves
{ahead["moved"].median():.2f} times the bytes of the unfused program in the median
({ahead["moved"].min():.2f} to {ahead["moved"].max():.2f}). For the layer drawn above: {len(unfused.launches)} launches and
{unfused.bytes / 1e6:.1f} MB become {len(prefolded.launches)} and {prefolded.bytes / 1e6:.1f} MB.

**What does it cost?** Between {paid["prepare_s"].min() * 1e6:.0f} and {paid["prepare_s"].max() * 1e6:.0f} µs once, on this CPU.
Folding within each call instead takes {mean(within):.2f} times the baseline's time in the geometric mean.

**When has it paid?** {pays}; in {len(slower)} the folded program is slower, and in {len(unclear)} the difference is within
the noise. Its time is {mean(gain):.2f} times the baseline's in the geometric mean ({gain.min():.2f} to {gain.max():.2f}).
{"On a GPU nothing was measured yet." if gpu is None else ""}
""")

# %%
on_cpu = cpu[(cpu["variant"] != "unfused") & cpu["wall_cold_ratio"].notna()]
panels = {
    "H200: launches saved (median)": joined.groupby("variant")["saved_launches"].median().drop("unfused"),
    "H200: bytes ÷ unfused (median)": joined.groupby("variant")["moved"].median().drop("unfused"),
    "CPU: time ÷ unfused": on_cpu.groupby("variant")["wall_cold_ratio"].agg(lambda values: mean(values.astype(float))),
    "CPU: layers": pd.Series({"fold pays": len(faster), "fold is slower": len(slower), "not told apart": len(unclear)}),
}
show(in_one_figure(panels, f"{source(standard)} {source(quick)} Times: geometric mean of measured ones."), "answer")
