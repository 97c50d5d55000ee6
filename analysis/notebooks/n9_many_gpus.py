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
# # 9. What does a norm send between many GPUs?
#
# In training the arrays of a norm are divided between devices. XLA compiles such a program for 8 or 64 H200s that are not
# there, and what comes out is the program of one of them, with its collectives.
#
# **The questions.** Which collectives does XLA start for a norm that is divided, and what do they send? Could it be one
# in place of two, and what does that cost in memory, on the wire and in accuracy?
#
# The figures are of the preset `sharding`, as `python -m analysis.pages.sharding` compiled it; times are predictions, and
# the network's were compared with nothing.

# %%
from story import RESULTS, answer, compiled, in_one_figure, show, table

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from normbench.cases.case import Case
from normbench.report.plots.figure_parts import STYLE

rows = pd.read_csv(RESULTS / "sharding" / "h200.csv")
cases = [Case.from_slug(slug) for slug in rows["case"]]
rows = rows.assign(
    operator=[case.operator for case in cases],
    context=[case.context for case in cases],
    passes=[case.pass_ for case in cases],
    variant=[case.variant for case in cases],
    collectives=rows["collectives"].fillna(""),
)
known = rows[rows["reason"].isna() & rows["step"].isna()]  # steps of training are in docs/sharding.md
known = known.assign(
    number=[sum(int(part.split("=")[1]) for part in text.split("; ") if part) for text in known["collectives"]]
)
table(
    known.groupby(["operator", "context", "passes"], sort=False)
    .agg(variants=("variant", "size"), fewest=("number", "min"), most=("number", "max"))
    .reset_index()
)

# %% [markdown]
# ## The textbook formula, and moments that are merged
# The training batch norm of ResNet-50's first block, 32 images on each of 8 devices: the textbook formula reads x, waits
# for the mean of all, reads x again, waits for the variance of all. Merged, each device reads x once for its own moments,
# and one all-gather tells them to all.

# %%
TEXTBOOK = known[(known["context"] == "batch8") & (known["passes"] == "forward") & (known["variant"] == "naive")][
    "case"
].iloc[0]
MERGED = TEXTBOOK.rpartition(".")[0] + ".merged"
textbook, merged = compiled(TEXTBOOK), compiled(MERGED)
columns = ["collective", "axes", "group_size", "whole_bytes", "wire_bytes", "algorithm", "sent_bytes", "asynchronous"]
table(
    pd.concat([textbook.collectives.assign(variant="naive"), merged.collectives.assign(variant="merged")])[
        ["variant", *columns]
    ]
)

# %%
textbook.picture

# %%
merged.picture

# %% [markdown]
# ## Every variant
# Memory and wire are of one device.


# %%
def drawn(column, scale, label):
    spread = known[known["context"].isin(["batch8", "batch64", "hidden8"])]
    groups = list(spread.groupby(["operator", "context"], sort=False))
    rows = -(-len(groups) // 2)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.4, 2.5 * rows), layout="constrained")
        places = list(figure.subplots(rows, 2).flat)
        for axis, ((operator, context), part) in zip(places, groups, strict=False):
            names = sorted(part["variant"].unique())[::-1]
            for offset, (passes, same) in enumerate(part.groupby("passes", sort=False)):
                at = [names.index(name) - 0.4 * offset for name in same["variant"]]
                axis.barh(at, same[column] * scale, height=0.38, label=passes.replace("_", " and "))
            axis.set_yticks([place - 0.2 for place in range(len(names))], names)
            axis.tick_params(axis="y", length=0)
            axis.set_title(f"{operator}, {context}", loc="left")
            axis.set_xlabel(label)
        for axis in places[len(groups) :]:
            axis.set_axis_off()
        figure.legend(*places[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


show(drawn("bytes", 1e-6, "memory MB"), "memory")

# %%
show(drawn("wire_bytes", 1e-3, "wire kB"), "wire")

# %% [markdown]
# ## Answers

# %%
lines = []
for (operator, context, passes), part in known.groupby(["operator", "context", "passes"], sort=False):
    by = part.set_index("variant")
    if "merged" not in by.index:
        continue
    before, after = by.loc["naive"], by.loc["merged"]
    lines.append(
        f"**{operator}, {context}, {passes.replace('_', ' and ')}.** The textbook formula takes {before['number']} "
        f"collectives and {before['bytes'] / 1e6:.1f} MB of memory; merged it is {after['number']} and "
        f"{after['bytes'] / 1e6:.1f} MB. On the wire {before['wire_bytes'] / 1e3:.1f} kB become "
        f"{after['wire_bytes'] / 1e3:.1f} kB. Predicted (not measured): {1e6 * before['predicted_s']:.0f} and "
        f"{1e6 * after['predicted_s']:.0f} us."
    )
answer("\n\n".join(lines))

# %%
keys = ["operator", "context", "passes"]
pairs = known[known["variant"].isin(["naive", "merged"])].pivot_table(
    ["number", "bytes", "wire_bytes"], keys, "variant", sort=False
)
pairs.index = [" ".join(names).replace("_", " ") for names in pairs.index]
shares = {
    title: pairs[column, "merged"] / pairs[column, "naive"]
    for title, column in (("collectives", "number"), ("memory", "bytes"), ("wire", "wire_bytes"))
}
panels = {f"{title}: merged ÷ textbook": values for title, values in shares.items()}
show(in_one_figure(panels, "results/sharding/h200.csv: compiled for H200s; bytes are of one device."), "answer")
