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
# # 8. The normalizations of a model
#
# **The questions.** Which launches of a model belong to its normalizations, and what share of its bytes and time do they
# take? What does the report say could be changed, and does the program change as it said?
#
# Three models by flax: a Llama-3 block, a block of a diffusion U-Net, and the train step of a ResNet-50. Nothing is run:
# each is compiled for an H200, before and after; times are predicted, not measured.

# %%
from story import answer, in_one_figure, show, table

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import pandas as pd
from IPython.display import Markdown, display

from normbench import explain, kernels

BF16 = jnp.bfloat16


def shape(*sizes, dtype=BF16):
    return jax.ShapeDtypeStruct(sizes, dtype)


def words(text):
    """Text as it is, in the columns that it has."""
    display(Markdown(f"```\n{text}\n```"))


def seconds(report):
    """Predicted, of all but matrix products and convolutions, which the replacement leaves as they are: beside a kernel
    written by hand the model gives each product its own operations, elsewhere a share of the program's, and the two do
    not compare."""
    return sum(row["predicted_s"] for row in report.rows if not row["flops"])


def expected(report):
    """Replaces what the report names: each site that it names a kernel for, by the variant that `replacement()` names."""
    worth = [site for site in report.norms if site.advice[0].action == "a Pallas kernel"]
    calls = [(site, site.replacement()) for site in worth]
    calls = [(site, call) for site, call in calls if call.is_worthwhile]
    return calls, {
        "bytes": report.bytes - sum(call.saved_bytes for _, call in calls),
        "seconds": seconds(report) - sum(call.saved_s for _, call in calls),
    }


def compared(name, before, said, after):
    rows = []
    for column, unit, scale, of in (
        ("bytes", "MB", 1e-6, lambda report: report.bytes),
        ("seconds", "us without products, predicted", 1e6, seconds),
    ):
        was, is_now = of(before), of(after)
        change = said[column] - was
        rows.append(
            {
                "model": name,
                "what": unit,
                "before": was * scale,
                "said": said[column] * scale,
                "after": is_now * scale,
                "off by %": 100 * (is_now - said[column]) / said[column],
                "off by % of the change": 100 * (is_now - said[column]) / change if change else 0.0,
            }
        )
    return pd.DataFrame(rows)


# %% [markdown]
# ## A block of a diffusion U-Net
# Group norm and SiLU before each convolution, 64 x 64 with 640 channels, as in Stable Diffusion's second stage.


# %%
class FlaxNorm(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.silu(nn.GroupNorm(32, dtype=BF16)(x))


class Replaced(nn.Module):
    """The call that `site.replacement()` names."""

    variant: str

    @nn.compact
    def __call__(self, x):
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        norm = kernels.get("group_norm", self.variant)
        return norm(x, scale, bias, epsilon=1e-6, groups=32, channel_axis=-1, activation="silu")


class UNetBlock(nn.Module):
    norm: Callable[[], nn.Module]

    @nn.compact
    def __call__(self, x):
        y = nn.Conv(x.shape[-1], (3, 3), dtype=BF16)(self.norm()(x))
        return x + nn.Conv(x.shape[-1], (3, 3), dtype=BF16)(self.norm()(y))


def unet(norm):
    model, x = UNetBlock(norm), shape(4, 64, 64, 640)
    return explain(model.apply, jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros(x.shape, x.dtype))), x)


before = unet(FlaxNorm)
words(before.norms)

# %%
table(before.norms[0].variants())

# %%
calls, said = expected(before)
words(calls[0][1])
(variant,) = {call.variant for _, call in calls}
unet_rows = compared("U-Net block", before, said, unet(partial(Replaced, variant)))
table(unet_rows)

# %% [markdown]
# ## A Llama-3 block
# 8B: width 4096, 32 heads of which 8 hold keys and values, 14336 hidden; two sequences of 2048 tokens.

# %%
WIDTH, HIDDEN = 4096, 14336
SIZES = {
    "q": (WIDTH, WIDTH),
    "k": (WIDTH, 1024),
    "v": (WIDTH, 1024),
    "o": (WIDTH, WIDTH),
    "gate": (WIDTH, HIDDEN),
    "up": (WIDTH, HIDDEN),
    "down": (HIDDEN, WIDTH),
}
weights = {name: shape(*sizes) for name, sizes in SIZES.items()}
weights |= {name: shape(WIDTH, dtype=jnp.float32) for name in ("norm1", "norm2")}


def rms(x, scale):
    return nn.RMSNorm(epsilon=1e-5, dtype=BF16).apply({"params": {"scale": scale}}, x)


def llama_block(x, w):
    y = rms(x, w["norm1"])
    q, k, v = ((y @ w[name]).reshape(*x.shape[:2], -1, 128) for name in "qkv")
    x = x + jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(x.shape) @ w["o"]
    y = rms(x, w["norm2"])
    return x + (jax.nn.silu(y @ w["gate"]) * (y @ w["up"])) @ w["down"]


llama = explain(llama_block, shape(2, 2048, WIDTH), weights)
words(llama.norms)

# %% [markdown]
# Where the report says "nothing", nothing is replaced, and the best variant of the registry bears it out:

# %%
table(llama.norms[0].variants())

# %% [markdown]
# ## The train step of a ResNet-50
# Flax, bfloat16, 32 images, momentum and weight decay. Where the report names a kernel here, the figure is the most
# that it would save; for the largest site the registry's best variant moves about as much as the site does, and nothing is
# replaced.

# %%
from tests.explanation.resnet import train_step

step, arguments = train_step()
resnet = explain(step, *arguments)
words(resnet.norms)

# %%
largest = max(resnet.norms, key=lambda site: site.own_bytes)
words(largest.replacement())

# %%
table(resnet.norms.accounting.reset_index().tail(2))

# %% [markdown]
# ## The answer

# %%
worst = unet_rows["off by % of the change"].abs().max()
shares = {name: each.norms for name, each in (("U-Net block", before), ("Llama-3 block", llama), ("ResNet-50", resnet))}
told = "; ".join(
    f"{name}: {len(norms)}, {100 * sum(norms.launch_bytes[i] for i in norms.alone) / norms.bytes:.0f} % of the bytes "
    f"theirs alone and {100 * sum(norms.launch_bytes[i] for i in norms.touching) / norms.bytes:.0f} % in launches that touch them"
    for name, norms in shares.items()
)
nothing = [name for name, norms in shares.items() if all(site.advice[0].action == "nothing" for site in norms)]
answer(
    f"**Normalizations found.** {told}. **Replaced as the report said**, the U-Net block's bytes, and its predicted time "
    f"without the products, changed as it had said within {worst:.1f} % of the change. "
    + (f"For {' and '.join(nothing)} it names nothing to replace." if nothing else "")
)

# %%
panels = {
    name: pd.Series(
        {
            "launches of norms alone": 100 * sum(norms.launch_bytes[i] for i in norms.alone) / norms.bytes,
            "launches that touch a norm": 100 * sum(norms.launch_bytes[i] for i in norms.touching) / norms.bytes,
        }
    )
    for name, norms in shares.items()
}
show(in_one_figure(panels, "Per cent of a program's bytes, compiled for an H200."), "answer")
