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
# # 1. What does XLA do with batch norm?
#
# In inference, batch norm is five small operations on a big array: subtract a mean, multiply with the reciprocal of a
# standard deviation, scale, shift. Papers and libraries *fold* these into one multiplication and one addition. Some go
# further and write the kernel by hand.
#
# **The questions.** How many kernels does the naive formula make on an H200? Does folding reduce them? What changes in
# bfloat16? Is a hand-written Pallas kernel worth it for inference?
#
# Nothing here needs a GPU: XLA compiles for an H200 on any machine, and we read the program that it made. So nothing
# here is a time, either. It is about what the GPU is asked to do.
#
# ## Three words
# * A **launch** is one kernel that the GPU runs. Each costs microseconds before it has done anything.
# * XLA **fuses** operations: one launch reads its inputs from memory, computes several operations in registers and writes
#   its results. What is not fused goes through memory in between.
# * These operations compute next to nothing per byte, so the time of a large one is its **bytes moved** over the memory's
#   bandwidth. The least possible is to read every input once and to write every output once. The **traffic ratio** is the
#   bytes moved over that minimum: 1.00 is perfect.

# %%
from story import answer, committed, compiled, facts, in_one_figure, rows_of, show, source, table

import jax
import jax.numpy as jnp
import pandas as pd

from normbench import kernels
from normbench import explain
from normbench.report.plots import scatter as plots
from normbench.report.plots.launches import launch_timeline

# %% [markdown]
# ## The naive formula
# A batch of 32 images after the first block of ResNet-50, channels last. This is the formula as one would type it.


# %%
def batch_norm(x, gamma, beta, mean, variance):
    return (x - mean) * jax.lax.rsqrt(variance + 1e-5) * gamma + beta


x = jax.ShapeDtypeStruct((32, 56, 56, 256), jnp.float32)
channels = jax.ShapeDtypeStruct((256,), jnp.float32)
naive = explain(batch_norm, x, channels, channels, channels, channels, target="h200")
naive.picture

# %% [markdown]
# Blue is what has to move, the array in and the array out. Orange goes through memory between launches. The thickness of a
# line is its bytes; at the bottom, the minimum is drawn above what is moved.
#
# ## The same in bfloat16
# Activations in bfloat16 and parameters in float32 is how most models run. The formula is the same, the types are not:

# %%
half = jax.ShapeDtypeStruct((32, 56, 56, 256), jnp.bfloat16)
promoted = explain(batch_norm, half, channels, channels, channels, channels, target="h200")
promoted.picture

# %%
answer("What the compiler's reader notes: " + "; ".join(promoted.hints) + ".")

# %% [markdown]
# JAX promotes bfloat16 with float32 to float32, so the *result* is twice as wide as the input, and the next layer reads
# twice as much, too. Two things repair it. One is a cast at the end, `.astype(x.dtype)`. The arithmetic stays in float32
# within the kernel, where it is free:


# %%
def batch_norm_cast(x, gamma, beta, mean, variance):
    return batch_norm(x.astype(jnp.float32), gamma, beta, mean, variance).astype(x.dtype)


cast = explain(batch_norm_cast, half, channels, channels, channels, channels, target="h200")
cast.picture

# %% [markdown]
# ## Folded, and by hand
# normbench has these as variants of the operator `batch_norm`: `naive` (with the cast), `naive_promoting` (without),
# `folded` (scale and shift computed from the parameters within the call), `prefolded` (computed once, ahead of it), and
# `pallas_triton`, a kernel written by hand.

# %%
FOR_GPUS = ("naive", "naive_promoting", "folded", "prefolded", "pallas_triton", "pallas_mosaic")
VARIANTS = [name for name in kernels.variants("batch_norm") if name in FOR_GPUS]
reports = {
    (dtype, variant): compiled(f"batch_norm.alone.32x56x56x256.nhwc.{dtype}.f32.forward.{variant}")
    for dtype in ("f32", "bf16")
    for variant in VARIANTS
}
launches = pd.DataFrame(
    [{"dtype": dtype, "variant": variant, **facts(report)} for (dtype, variant), report in reports.items()]
)
table(launches)

# %%
programs = {variant: reports["bf16", variant].compilation.launch_rows() for variant in VARIANTS}
minimum = reports["bf16", "naive"].minimum_bytes
caption = "batch_norm 32×56×56×256 nhwc, bfloat16, compiled for the H200."
show(launch_timeline(programs, minimum, caption), "timeline")

# %% [markdown]
# A second launch, where there is one, works on vectors of 256 numbers: the compiler prefers to compute `rsqrt(variance + ε)`
# once rather than for every element, and says so:

# %%
refusals = [sentence for report in reports.values() for sentence in report.refusals]
table(pd.DataFrame({"what was not fused, and why": sorted(set(refusals))}))

# %% [markdown]
# ## A kernel by hand is a wall
# What stands around a batch norm is usually elementwise: an activation, a residual. XLA fuses the formula with them. It
# cannot look into a hand-written kernel, so the neighbours become launches of their own, and the array goes through memory
# once more for each:


# %%
def block(name):
    normalize = kernels.get("batch_norm", name)

    def batch_norm_add_relu(x, shortcut, gamma, beta, mean, variance):
        return jax.nn.relu(normalize(x, gamma, beta, mean, variance, 1e-5, channel_axis=-1) + shortcut)

    return batch_norm_add_relu


around = {name: explain(block(name), half, half, *[channels] * 4, target="h200") for name in ("naive", "pallas_triton")}
around["naive"].picture

# %%
around["pallas_triton"].picture

# %% [markdown]
# ## Is that so everywhere?
# One shape proves little. Here is every batch norm of the preset `standard`, in inference: shapes from ResNet-50, YOLO11n,
# MobileNetV3 and sizes that do not divide evenly.

# %%
run = committed("standard")
rows = rows_of(run)
mine = rows[
    (rows["operator"] == "batch_norm")
    & (rows["pass"] == "forward")
    & (rows["target"] == "h200")
    & (rows["status"] == "ok")
]
overview = mine.groupby(["dtype", "variant"], sort=False).agg(
    problems=("problem", "nunique"),
    least_launches=("launches", "min"),
    most_launches=("launches", "max"),
    median_ratio=("traffic_ratio", "median"),
    worst_ratio=("traffic_ratio", "max"),
)
table(overview.reset_index())

# %%
show(plots.traffic_ratio(mine[mine["dtype"] == "bfloat16"], source(run)), "traffic")

# %% [markdown]
# ## Answers


# %%
def launches_of(dtype, variant):
    return len(reports[dtype, variant].launches)


def plural(count):
    return f"{count} launch{'' if count == 1 else 'es'}"


def span(dtype, variant, column):
    values = mine[(mine["dtype"] == dtype) & (mine["variant"] == variant)][column]
    low, high = f"{values.min():.3g}", f"{values.max():.3g}"
    return low if low == high else f"{low} to {high}"


extra = promoted.bytes / cast.bytes
wall = around["pallas_triton"].bytes / around["naive"].bytes
problems = mine["problem"].nunique()
small = [row for row in programs["naive"] if row["read_bytes"] + row["write_bytes"] < 0.001 * minimum]
answer(f"""
**How many kernels does naive batch norm make on an H200?** {plural(launches_of("f32", "naive")).capitalize()} in float32
and {launches_of("bf16", "naive")} in bfloat16 for this shape, of which
{len(programs["naive"]) - len(small)} touches the array; {span("float32", "naive", "launches")} in float32 and
{span("bfloat16", "naive", "launches")} in bfloat16 over the {problems} problems of the preset. The traffic ratio is
{reports["f32", "naive"].traffic_ratio:.2f}: XLA fuses the formula without help.

**Does folding reduce them?** Not where it matters. `folded` within the call makes {launches_of("f32", "folded")} in float32
and {launches_of("bf16", "folded")} in bfloat16; `prefolded` makes {launches_of("f32", "prefolded")} and
{launches_of("bf16", "prefolded")}: ahead of the call, folding saves the launch that works on the
parameters alone. The bytes stay the same to within {100 * abs(reports["bf16", "naive"].bytes / reports["bf16", "prefolded"].bytes - 1):.3f} %.

**What changes in bfloat16?** The type of the result, if one does not watch: without a cast at the end the output is
float32, and {promoted.bytes / 1e6:.1f} MB are moved instead of {cast.bytes / 1e6:.1f} MB, {extra:.2f} times as many. With the cast the
ratio is {cast.traffic_ratio:.2f}. Over the preset, `naive_promoting` has ratios of
{span("bfloat16", "naive_promoting", "traffic_ratio")} and `naive` of {span("bfloat16", "naive", "traffic_ratio")}.

**Is a Pallas kernel worth it for inference?** Not by what is moved: alone it makes
{plural(launches_of("bf16", "pallas_triton"))} with a ratio of {reports["bf16", "pallas_triton"].traffic_ratio:.2f}, what the formula has
({reports["bf16", "naive"].traffic_ratio:.2f}). Between a residual and an activation it makes
{len(around["pallas_triton"].launches)} launches against {len(around["naive"].launches)} and moves {wall:.2f} times the bytes
({around["pallas_triton"].bytes / 1e6:.1f} MB against {around["naive"].bytes / 1e6:.1f} MB), because XLA cannot fuse into it.
""")

# %%
programs = {f"{variant}, {dtype}": report for (dtype, variant), report in reports.items()}
programs |= {f"{name}, bf16, in a block": report for name, report in around.items()}
drawn = pd.DataFrame({name: facts(report) for name, report in programs.items()}).T
in_words = "batch_norm 32×56×56×256 nhwc, compiled for the H200. In a block: after a residual, before a ReLU."
panels = {"launches": drawn["launches"], "MB moved": drawn["moved MB"], "bytes moved ÷ minimum": drawn["traffic ratio"]}
show(in_one_figure(panels, in_words), "answer")
