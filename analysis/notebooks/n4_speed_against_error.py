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
# # 4. What does a fast statistic cost in accuracy?
#
# A norm needs a mean and a variance. The textbook reads the input for the mean, then once more for the mean square of what
# is left (*two passes*; the variant `naive`). `one_pass` takes E[x²] − mean² in one read and subtracts two large numbers.
# `pivoted` also reads once, but sums x − p for a p near the mean. `welford` merges partial statistics pairwise.
#
# **The questions.** How much faster are they, how wrong can they get, and does bfloat16 make it worse?

# %%
from story import answer, committed, in_one_figure, rows_of, show, source, table

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from normbench import kernels
from normbench.report.plots import scatter as plots
from normbench.report.plots.pareto import error_by_offset, pareto

VARIANTS = ("naive", "one_pass", "pivoted", "welford")
run = committed("quick")
rows = rows_of(run)

# %% [markdown]
# ## On ordinary data
# The committed run checked each case against a float64 reference and timed it on a CPU. A point is a case: to the left is
# faster than the baseline, down is more accurate. The units of the error are ulp, the distance between neighbouring numbers.

# %%
norms = rows[rows["operator"].isin(["layer_norm", "batch_norm_training", "group_norm", "instance_norm"])]
norms = norms[(norms["target"] == "cpu") & (norms["pass"] == "forward") & (norms["status"] == "ok")]
show(plots.error_against_speed(norms, "wall_cold", source(run)), "error-speed")

# %% [markdown]
# The Pareto front: variants that no other one beats in both, by the geometric mean of the time over that of the baseline and
# the largest error, within each operator and dtype.

# %%
front = pareto(norms, "wall_cold")
table(front)

# %% [markdown]
# ## On data that is not centred
# Activations need not have a mean of zero. Here is layer norm of 64 rows of 1024 numbers with a deviation of 1 and a growing
# mean, computed now, on this machine's CPU, against float64. The input is exact in the dtype in question.

# %%
OFFSETS = [0.0, 1.0, 10.0, 100.0, 1e3, 1e4, 1e5]


def errors(dtype):
    generator = np.random.default_rng(0)
    noise = generator.standard_normal((64, 1024))
    gamma, beta = jnp.ones(1024, jnp.float32), jnp.zeros(1024, jnp.float32)
    for offset in OFFSETS:
        x = jnp.asarray(noise + offset, dtype)
        wide = np.asarray(x).astype(np.float64)
        centred = wide - wide.mean(-1, keepdims=True)
        truth = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        for variant in VARIANTS:
            found = np.asarray(jax.jit(kernels.get("layer_norm", variant).function)(x, gamma, beta)).astype(np.float64)
            yield {
                "dtype": str(jnp.dtype(dtype)),
                "variant": variant,
                "offset": offset,
                "error": np.abs(found - truth).max(),
            }


found = pd.DataFrame([*errors(jnp.float32), *errors(jnp.bfloat16)])
show(error_by_offset(found, "layer_norm 64×1024, deviation 1, against float64; computed with the notebook."), "offsets")

# %%
table(found.pivot_table("error", ["dtype", "offset"], "variant", sort=False).reset_index())

# %% [markdown]
# In bfloat16 the input itself has 8 bits: at a mean of 1000 neighbouring numbers are 4 apart, and the deviation of 1 is lost
# before any norm sees it. What is measured here is the error against the norm of the rounded input.
#
# ## Answers


# %%
def ratio(variant):
    mine = norms[(norms["variant"] == variant) & norms["wall_cold_ratio"].notna()]["wall_cold_ratio"].astype(float)
    return float(np.exp(np.log(mine).mean())), len(mine)


def worst(variant, dtype):
    mine = norms[(norms["variant"] == variant) & (norms["dtype"] == dtype)]["max_ulp"]
    return f"{mine.max():.3g}"


def at(variant, dtype, offset):
    return f"{found[(found['variant'] == variant) & (found['dtype'] == dtype) & (found['offset'] == offset)]['error'].iloc[0]:.2g}"


first = found[(found["variant"] == "one_pass") & (found["dtype"] == "float32") & (found["error"] > 0.01)]["offset"]
answer(f"""
**How much faster?** On this CPU, over {ratio("one_pass")[1]} problems, `one_pass` takes {ratio("one_pass")[0]:.2f} times the time of the
textbook form, `pivoted` {ratio("pivoted")[0]:.2f} and `welford` {ratio("welford")[0]:.2f} (geometric means).

**How wrong can they get?** On ordinary data, not at all: the largest errors in float32 are {worst("naive", "float32")} ulp for the
textbook, {worst("one_pass", "float32")} for `one_pass`, {worst("pivoted", "float32")} for `pivoted` and {worst("welford", "float32")} for
`welford`. With a mean of 1000 deviations, `one_pass` is off by {at("one_pass", "float32", 1e3)} where the result is about 1, `pivoted`
by {at("pivoted", "float32", 1e3)} and the textbook by {at("naive", "float32", 1e3)}. `one_pass` is off by more than 0.01 from a mean of
{f"{first.min():,.0f} deviations" if len(first) else "none of those tried"} on.

**Does bfloat16 make it worse?** No: the statistics are computed in float32 whatever x is. At a mean of 10 the errors are
{at("naive", "bfloat16", 10.0)} for the textbook and {at("one_pass", "bfloat16", 10.0)} for `one_pass`, the rounding of the result. At 1000
`one_pass` has {at("one_pass", "bfloat16", 1e3)}, `pivoted` {at("pivoted", "bfloat16", 1e3)}.

So: `pivoted` reads x as seldom as `one_pass` and does not cancel while its pivot is near the mean; `docs/pivot.md` has the
data where it fails.
""")


# %%
def errors_at(dtype, offset):
    mine = found[(found["dtype"] == dtype) & (found["offset"] == offset)]
    return mine.set_index("variant")["error"]


panels = {
    "CPU: time ÷ the textbook's": pd.Series({variant: ratio(variant)[0] for variant in VARIANTS}),
    "float32, a mean of 10: error": errors_at("float32", 10.0),
    "float32, a mean of 1000: error": errors_at("float32", 1e3),
    "bfloat16, a mean of 1000: error": errors_at("bfloat16", 1e3),
}
in_words = (
    "Times: geometric mean of measured ones. Errors: the largest of layer_norm 64×1024, whose results are about 1."
)
show(in_one_figure(panels, f"{in_words} {source(run)}"), "answer")
