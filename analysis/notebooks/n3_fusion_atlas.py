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
# # 3. Where does XLA come close to the minimum of memory traffic?
#
# **The questions.** For which operator, layout and pass does XLA come close to the minimum of memory traffic, and with which
# way of writing it? Where are the cliffs, and why are they there, by the compiler's own account?
#
# The traffic ratio is the bytes that cross the boundaries of launches over the least that could: each input read once and
# each output written once. 1.00 is perfect; 2.00 means that a memory-bound kernel takes about twice as long as it need.

# %%
from story import answer, committed, compiled, facts, in_one_figure, rows_of, show, source, table

import pandas as pd

from normbench.report.plots import scatter as plots
from normbench.report.plots.launches import ratio_by_size
from normbench.report.data.summary import digest

standard, quick = committed("standard"), committed("quick")
atlas = digest(standard).atlas
rows = rows_of(standard)

# %% [markdown]
# ## The map
# A row per operator, layout and pass, alone; a column per variant; the best of each row is framed. The report of the run
# has those in context, too.

# %%
alone = atlas[(atlas["target"] == "h200") & (atlas["context"] == "alone")]
show(plots.atlas(alone[alone["dtype"] == "bfloat16"], source(standard)), "atlas-bf16")

# %%
show(plots.atlas(alone[alone["dtype"] == "float32"], source(standard)), "atlas-f32")

# %% [markdown]
# ## Does the device matter?
# The preset `quick`, compiled for each target. XLA decides by a model of the device: another device, another program.

# %%
small = rows_of(quick)
small = small[small["traffic_ratio"].notna() & (small["target"] != "cpu") & (small["status"] == "ok")]
wide = small.pivot_table(["launches", "traffic_ratio"], "case", "target")
targets = list(wide["launches"].columns)
differing = wide[(wide["launches"].nunique(axis=1) > 1) | (wide["traffic_ratio"].round(3).nunique(axis=1) > 1)]
shown = differing.copy()
shown.columns = [f"{name.replace('_', ' ')} {target}" for name, target in shown.columns]
table(shown.reset_index().head(12))

# %%
quick_atlas = digest(quick).atlas
quick_atlas = quick_atlas[(quick_atlas["dtype"] == "bfloat16") & (quick_atlas["target"].isin(targets))]
forwards = quick_atlas[(quick_atlas["pass"] == "forward") & (quick_atlas["context"] == "alone")]
show(plots.atlas(forwards, source(quick)), "atlas-targets")

# %% [markdown]
# ## Cliff 1: rows of more than 16384
# Layer norm over rows of growing length, compiled now. Up to a length, XLA's Triton rewriter takes the whole norm as one
# kernel that keeps a row on the chip. Beyond it, the statistics are launches of their own.

# %%
LENGTHS = [1024, 4096, 8192, 16384, 16385, 20480, 32768]
cliff = pd.DataFrame(
    [
        {"variant": variant, "row": length, "launches": len(report.launches), "traffic_ratio": report.traffic_ratio}
        for variant in ("naive", "one_pass")
        for length in LENGTHS
        for report in [compiled(f"layer_norm.alone.1024x{length}.nc.bf16.f32.forward.{variant}")]
    ]
)
caption = "layer_norm 1024×n, bfloat16, forward, compiled for the H200."
show(ratio_by_size(cliff, "row", "elements in a row", caption), "row-cliff")

# %%
over = compiled("layer_norm.alone.1024x16385.nc.bf16.f32.forward.naive")
over.picture

# %% [markdown]
# The purple lines are the compiler's reasons: a reduction has to be complete before the elementwise work after it can start,
# and a loop or reduction kernel does not go over its input again.
#
# `one_pass` (E[x²] − mean²) never gets the Triton kernel: the rewriter looks for the softmax-like chain *reduce, broadcast,
# elementwise, reduce*, and two reductions of the same input are none. It is better beyond the cliff and worse before it.
#
# ## Cliff 2: group norm, where a float32 copy is made

# %%
SIDES = [8, 16, 28, 34, 48, 64]
groups = pd.DataFrame(
    [
        {"variant": variant, "side": side, "launches": len(report.launches), "traffic_ratio": report.traffic_ratio}
        for variant in ("naive", "two_pass", "one_pass")
        for side in SIDES
        for report in [compiled(f"group_norm.alone.16x320x{side}x{side}.nchw.bf16.f32.forward.g32.{variant}")]
    ]
)
caption = "group_norm 16×320×n×n nchw, 32 groups, bfloat16, forward, compiled for the H200."
show(ratio_by_size(groups, "side", "height and width of the image", caption), "group-cliff")

# %%
upcast = compiled("group_norm.alone.16x320x28x28.nchw.bf16.f32.forward.g32.naive")
upcast.picture

# %%
answer("What the reader of the program notes: " + ("; ".join(upcast.hints) or "nothing") + ".")

# %% [markdown]
# A launch writes a float32 copy of x to memory. It is twice the size of x: each time that it is written or read costs as
# much as the whole minimum.
#
# ## Cliff 3: the backward pass of layer norm
# Forward, one kernel is enough. Backward, the gradient of x needs sums along rows, and those of gamma and beta need sums
# along columns: no single fusion of XLA does both.

# %%
directions = {
    pass_: compiled(f"layer_norm.alone.1x8192x4096.nlc.bf16.f32.{pass_}.naive")
    for pass_ in ("forward", "backward", "forward_backward")
}
table(pd.DataFrame([{"pass": name, **facts(report)} for name, report in directions.items()]))

# %%
directions["backward"].picture

# %%
reasons = pd.Series(
    [
        reason.split(": ", 1)[1].split(": ")[0]
        for report in [over, upcast, *directions.values()]
        for reason in report.refusals
    ]
)
table(reasons.value_counts().rename_axis("the compiler's reasons in the programs above").reset_index(name="times"))

# %% [markdown]
# ## Answers

# %%
known = atlas[(atlas["target"] == "h200") & (atlas["n"] > 0)]
group = ["operator", "layout", "pass", "context", "dtype"]
best = known.loc[known.groupby(group, sort=False)["traffic_ratio"].idxmin()]
perfect = best[best["traffic_ratio"] < 1.01]
forward, backward = best[best["pass"] == "forward"], best[best["pass"] != "forward"]
worst = best.sort_values("traffic_ratio", ascending=False).iloc[0]
before = cliff[(cliff["variant"] == "naive") & (cliff["row"] == 16384)].iloc[0]
after = cliff[(cliff["variant"] == "naive") & (cliff["row"] == 16385)].iloc[0]
peak = groups[groups["variant"] == "naive"].sort_values("traffic_ratio").iloc[-1]
lean = groups[groups["variant"] == "one_pass"]["traffic_ratio"]
answer(f"""
**How close to the minimum?** In {len(perfect)} of the {len(best)} groups of operator, layout, pass, context and dtype, the best
variant is within 1 % of the minimum. The median of the best is {forward["traffic_ratio"].median():.2f} forward and
{backward["traffic_ratio"].median():.2f} with a backward pass; the worst best is {worst["operator"]} {worst["layout"]}
{worst["pass"].replace("_", " and ")} {worst["dtype"]} with {worst["traffic_ratio"]:.2f} ({worst["variant"]}).

**Does the device matter?** Of {len(wide)} programs of the preset `quick`, {len(differing)} differ in launches or traffic between
{" and ".join(targets) if len(targets) < 3 else ", ".join(targets)}.

**The cliffs.** Layer norm goes from {before["launches"]:.0f} launch and {before["traffic_ratio"]:.2f} at rows of 16384 to
{after["launches"]:.0f} launches and {after["traffic_ratio"]:.2f} at 16385: the Triton kernel that holds a row on the chip is not made
any more. Group norm in the textbook form reaches {peak["traffic_ratio"]:.2f} at {peak["side"]:.0f}×{peak["side"]:.0f}, where a float32
copy of x goes through memory; with `one_pass` it stays between {lean.min():.2f} and {lean.max():.2f}. Layer norm's backward pass
takes {len(directions["backward"].launches)} launches and {directions["backward"].traffic_ratio:.2f} times its minimum where the forward
pass takes {len(directions["forward"].launches)} and {directions["forward"].traffic_ratio:.2f}: sums along rows and along columns do not
share a fusion.
""")

# %%
halves = best[(best["dtype"] == "bfloat16") & (best["context"] == "alone")]
panels = {
    f"best of each, {name}": halves[halves["pass"].isin(passes)]
    .groupby("operator", sort=False)["traffic_ratio"]
    .median()
    for name, passes in (("forward", ["forward"]), ("with a backward pass", ["backward", "forward_backward"]))
}
panels["the cliffs, forward"] = pd.Series(
    {
        "layer norm, row of 16384": before["traffic_ratio"],
        "layer norm, row of 16385": after["traffic_ratio"],
        "group norm, naive": peak["traffic_ratio"],
        "group norm, one_pass": lean.max(),
    }
)
in_words = "Bytes moved ÷ minimum bytes, bfloat16, compiled for the H200; of the best, the median over layouts."
show(in_one_figure(panels, f"{in_words} {source(standard)}"), "answer")
