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
# # 5. What does PyTensor cost beside plain JAX?
#
# PyTensor compiles one graph for several backends: JAX, Numba, C. normbench adds two Ops to it, `batch_normalization` and
# `conv2d`.
#
# **The questions.** What does a call cost, beside the work? Does the way through PyTensor change the program that reaches
# XLA? Which backend computes the backbone of YOLO11n fastest?
#
# The data are the tables in `results/pytensor/`; its README names their columns, and `docs/pytensor.md` the commands. All times
# are of a CPU.

# %%
from story import RESULTS, answer, in_one_figure, show, table

import numpy as np
import pandas as pd

from normbench.report.plots.pytensor import call_overhead, forms_by_backend

FOLDER = RESULTS / "pytensor"
tables = {name: pd.read_csv(FOLDER / f"{name}.csv") for name in ("overhead", "stack", "fusion")}

# %% [markdown]
# ## What a call costs
# Batch norm on a small array and on a larger one: where the array is small, what is measured is the way into the compiled
# function and out again.

# %%
overhead = tables["overhead"]
waited = overhead[overhead["clock"] == "wall"].drop(columns="clock").assign(clock="")
show(call_overhead(waited, "results/pytensor/overhead.csv; each call waited for."), "overhead")

# %%
keys = ["shape", "backend", "graph"]
calls = waited.groupby([*keys, "how", "arrays"], sort=False)["median_us"].median().reset_index()
table(calls.loc[calls.groupby(keys, sort=False)["median_us"].idxmin()])  # the fastest way of each

# %% [markdown]
# ## What reaches XLA
# The same operator, written in PyTensor and in JAX, compiled for each target: launches, bytes, and how often a float64 occurs
# in a program that should have none.

# %%
fusion = tables["fusion"]
table(
    fusion[["operator", "written", "target", "launches", "library_calls", "copies", "traffic_ratio", "float64_values"]]
)

# %% [markdown]
# ## A whole backbone
# The convolutions, batch norms and activations of YOLO11n's backbone, in several forms: batch norm left as it is, folded in
# the graph, folded ahead, parameters as constants, and by PyTensor's own rewrite.

# %%
stack = tables["stack"]
show(forms_by_backend(stack, "results/pytensor/stack.csv."), "stack")

# %%
medians = stack.groupby(["image", "backend", "form", "parameters"], sort=False)[
    ["compile_s", "median_us", "max_rel"]
].median()
table(medians.reset_index())

# %% [markdown]
# ## Answers

# %%
wall = overhead[overhead["clock"] == "wall"]
smallest = min(wall["shape"].unique(), key=lambda shape: np.prod([int(size) for size in shape.split("x")]))
ways_of = ["backend", "graph", "how", "arrays"]
per_way = wall[wall["shape"] == smallest].groupby(ways_of, sort=False, dropna=False)["median_us"].median()
least = per_way.groupby(level="backend", sort=False).min().sort_values()
ways = ", ".join(f"{backend} {value:.0f} µs" for backend, value in least.items())
plain = least.get("jax", float("nan"))
through = least.get("pytensor jax", float("nan"))
h200 = fusion[fusion["target"] == "h200"] if (fusion["target"] == "h200").any() else fusion
spread = h200.groupby("operator", sort=False).agg(low=("launches", "min"), high=("launches", "max"))
differing = spread[spread["low"] != spread["high"]]
doubles = fusion[fusion["float64_values"] > 0]
image = stack["image"].max()
best = stack[stack["image"] == image].groupby(["backend", "form"], sort=False)["median_us"].median().sort_values()
first, last = best.index[0], best.index[-1]
answer(f"""
**What does a call cost?** On {smallest}, the smallest shape, the fastest way of each takes {ways}. The way through PyTensor's JAX backend
takes {through / plain:.2f} times the time of plain JAX.

**Does it change the program?** {len(differing)} of {len(spread)} operators have another number of launches depending on how they are
written{": " + ", ".join(f"{name} ({row.low} to {row.high})" for name, row in differing.iterrows()) if len(differing) else ""}.
{len(doubles)} of {len(fusion)} programs hold float64 values.

**Which backend is fastest for the backbone?** At {image}×{image} pixels {first[0]} ({first[1]}) with {best.iloc[0] / 1000:.1f} ms; the
slowest is {last[0]} ({last[1]}) with {best.iloc[-1] / 1000:.1f} ms, {best.iloc[-1] / best.iloc[0]:.1f} times as much.
""")

# %%
panels = {
    f"a call on {smallest}, µs": least,
    "launches on an H200: most ÷ fewest": spread["high"] / spread["low"],
    f"backbone at {image}×{image}, best form, ms": best.groupby(level="backend", sort=False).min() / 1000,
}
show(in_one_figure(panels, "results/pytensor; times are measured on a CPU."), "answer")
