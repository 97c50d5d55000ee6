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
# # 6. What changes from one JAX release to the next?
#
# Fusion is decided by heuristics, and heuristics change. The same function, the same shapes, another release: does the
# program stay the same?
#
# **The questions.** How many programs change between releases, for better or for worse, and is it JAX that hands something
# else to the compiler, or the compiler that does something else with it?
#
# The data are the *goldens* in `results/golden/`: for every JAX version, target and case, what the compiler made of it. The
# tests of this repository hold them. They are counts, so nothing here is noise.

# %%
from story import RESULTS, answer, in_one_figure, show, table

from itertools import pairwise

import pandas as pd

from normbench.goldens.store import read_all
from normbench.report.plots.history import changed_shares, history

TARGET = "h200"
goldens = {version: targets[TARGET] for version, targets in read_all(RESULTS / "golden").items() if targets.get(TARGET)}
frame = pd.DataFrame(
    [
        {"version": version, "case": case, "operator": case.split(".")[0], "variant": case.rpartition(".")[2], **row}
        for version, cases in goldens.items()
        for case, row in cases.items()
    ]
)
frame = frame.assign(compiles=frame["bytes"].notna())
versions = list(goldens)
overview = frame.groupby("version", sort=False).agg(
    cases=("case", "nunique"),
    compile=("compiles", "sum"),
    median_ratio=("traffic_ratio", "median"),
    launches=("launches", "sum"),
)
table(overview.reset_index())

# %% [markdown]
# ## Step by step
# Cases that both releases of a step compile. *Same input* means that JAX handed the same program to the compiler.


# %%
def compared(before, after):
    both = frame[(frame["version"] == before) & frame["compiles"]].merge(
        frame[(frame["version"] == after) & frame["compiles"]],
        on=["case", "operator", "variant"],
        suffixes=("_a", "_b"),
    )
    factor = both["bytes_b"] / both["bytes_a"]
    both["change"] = "same"
    both.loc[factor < 0.99, "change"] = "fewer"
    both.loc[factor > 1.01, "change"] = "more"
    both["fewer_launches"], both["more_launches"] = (
        both["launches_b"] < both["launches_a"],
        both["launches_b"] > both["launches_a"],
    )
    both["same_input"] = both["program_a"] == both["program_b"]
    both["factor"] = factor
    return both.assign(step=f"{before} → {after}")


steps = pd.concat([compared(*pair) for pair in pairwise(versions)], ignore_index=True)
summary = steps.groupby("step", sort=False).agg(
    cases=("case", "size"),
    same_input=("same_input", "sum"),
    fewer_launches=("fewer_launches", "sum"),
    more_launches=("more_launches", "sum"),
    fewer_bytes=("change", lambda change: (change == "fewer").sum()),
    more_bytes=("change", lambda change: (change == "more").sum()),
)
table(summary.reset_index())

# %%
caption = f"Goldens of this commit, compiled for the {TARGET.upper()}."
show(changed_shares(steps, caption), "shares")

# %% [markdown]
# ## The cases that changed

# %%
figure = history(frame[frame["compiles"]], caption)
show(figure, "history") if figure is not None else answer("**No case changed its traffic.**")

# %%
changed = steps[(steps["change"] != "same") | steps["fewer_launches"] | steps["more_launches"]]
changed = changed.reindex((changed["factor"] - 1).abs().sort_values(ascending=False).index)
listed = changed[["step", "case", "launches_a", "launches_b", "traffic_ratio_a", "traffic_ratio_b", "same_input"]]
named = listed.head(20).rename(
    columns=lambda name: name.replace("_a", " before").replace("_b", " after").replace("_", " ")
)
table(named) if len(named) else answer("**None: every case that both compile is as it was.**")

# %% [markdown]
# ## Answers

# %%
lines = []
for step, part in steps.groupby("step", sort=False):
    touched = (part["change"] != "same") | part["fewer_launches"] | part["more_launches"]
    words = (
        f"**{step}.** Of {len(part)} cases, {int(touched.sum())} got another number of launches or other traffic: "
        f"{int((part['change'] == 'fewer').sum())} move fewer bytes, {int((part['change'] == 'more').sum())} more. "
    )
    if touched.any():
        same = int((touched & part["same_input"]).sum())
        words += f"In {same} of the {int(touched.sum())} JAX handed the very same program to the compiler, so that it is XLA that changed. "
        extreme = part.loc[(part["factor"] - 1).abs().idxmax()]
        words += f"The largest change is `{extreme['case']}`: {extreme['traffic_ratio_a']:.2f} before, {extreme['traffic_ratio_b']:.2f} after."
    lines.append(words)
answer("\n\n".join(lines))

# %%
touched = steps[(steps["change"] != "same") | steps["fewer_launches"] | steps["more_launches"]]
counts = {
    "fewer bytes": touched["change"] == "fewer",
    "more bytes": touched["change"] == "more",
    "changed with the same input: by XLA": touched["same_input"],
}
panels = {"cases": summary["cases"]} | {
    title: which.groupby(touched["step"]).sum().reindex(summary.index, fill_value=0) for title, which in counts.items()
}
show(in_one_figure(panels, caption), "answer")
