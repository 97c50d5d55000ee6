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
from flax.core import FrozenDict
from IPython.display import Markdown, display

from normbench import explain, kernels

BF16 = jnp.bfloat16


def shape(*sizes, dtype=BF16):
    return jax.ShapeDtypeStruct(sizes, dtype)


def words(text):
    """Text as it is, in the columns that it has."""
    display(Markdown(f"```\n{text}\n```"))


def compared(name, before, said, after):
    """What `report.norms.replaced` says of a program, beside the program that was written with these calls."""
    rows = []
    for what, scale, was, told, is_now in (
        ("MB", 1e-6, before.bytes, said.bytes, after.bytes),
        ("us, predicted", 1e6, before.predicted_s, said.predicted_s, after.predicted_s),
    ):
        rows.append(
            {
                "model": name,
                "norms replaced": len(said.variants),
                "what": what,
                "before": was * scale,
                "said": told * scale,
                "after": is_now * scale,
                "change in %": 100 * (is_now - was) / was,
                "off by % of the change": 100 * abs(told - is_now) / abs(is_now - was) if is_now != was else 0.0,
            }
        )
        assert is_now != was or told == was
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

words(before.norms[0].replacement())

# %% [markdown]
# `replaced` puts the variants that `replacement` names in their places in the program that was compiled, and compiles it
# again: what was fused across a norm, copies into another layout and what several norms share all count. Beside it
# stands the model as it is written by hand with these calls.

# %%
said = before.norms.replaced()
words(said)
(variant,) = set(said.variants.values())
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


def flax_rms(x, scale):
    return nn.RMSNorm(epsilon=1e-5, dtype=BF16).apply({"params": {"scale": scale}}, x)


def llama_block(x, w, rms=flax_rms):
    y = rms(x, w["norm1"])
    q, k, v = ((y @ w[name]).reshape(*x.shape[:2], -1, 128) for name in "qkv")
    x = x + jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(x.shape) @ w["o"]
    y = rms(x, w["norm2"])
    return x + (jax.nn.silu(y @ w["gate"]) * (y @ w["up"])) @ w["down"]


llama_arguments = shape(2, 2048, WIDTH), weights
llama = explain(llama_block, *llama_arguments)
words(llama.norms)

# %% [markdown]
# The report says "nothing". Replaced all the same, by each of the registry's two kernels, the block becomes no better:


# %%
def with_kernel(name):
    rms = kernels.get("rms_norm", name)
    return explain(lambda x, w: llama_block(x, w, lambda x, scale: rms(x, scale, epsilon=1e-5)), *llama_arguments)


llama_rows = pd.concat(
    [
        compared(f"Llama-3 block, {name}", llama, llama.norms.replaced({0: name, 1: name}), with_kernel(name))
        for name in ("pallas_triton", "pallas_mosaic")
    ]
)
table(llama_rows)

# %% [markdown]
# ## The train step of a ResNet-50
# Flax, bfloat16, 32 images, momentum and weight decay. The report judges each norm by its own launches, and names a kernel
# for a few. What all of them together come to, `replaced` compiles as well: every norm of the 16 blocks that the registry's
# Triton kernel fits.

# %%
from tests.explanation.resnet import train_step

step, arguments = train_step()
resnet = explain(step, *arguments)
words(resnet.norms)

# %%
KERNEL = kernels.get("batch_norm_training", "pallas_triton")
fitting = {
    site.index: KERNEL.name
    for site in resnet.norms
    if "Bottleneck" in site.scope and site.problem and KERNEL.supports(site.problem, resnet.target) is None
}
named, every = resnet.norms.replaced(), resnet.norms.replaced(fitting)
words(named)
words(every)


# %%
class ReplacedNorm(nn.Module):
    """The same call, with flax's parameters and running statistics."""

    variant: str
    activation: str
    scale_init: object = nn.initializers.ones

    @nn.compact
    def __call__(self, x):
        sizes = x.shape[-1:]
        scale = self.param("scale", self.scale_init, sizes)
        bias = self.param("bias", nn.initializers.zeros, sizes)
        mean = self.variable("batch_stats", "mean", jnp.zeros, sizes)
        variance = self.variable("batch_stats", "var", jnp.ones, sizes)
        norm = kernels.get("batch_norm_training", self.variant)
        y, mean.value, variance.value = norm(
            x, scale, bias, mean.value, variance.value, 1e-5, channel_axis=-1, activation=self.activation
        )
        return y


class Bottleneck(nn.Module):
    """The same block, with a call in the place of each norm that was replaced: `variants` by the scope of the norm."""

    features: int
    strides: int
    train: bool
    variants: FrozenDict = FrozenDict()

    def norm(self, x, name, activation="none", **how):
        variant = self.variants.get("/".join(("ResNet", *self.scope.path, name)))
        if variant:
            return ReplacedNorm(variant, activation, name=name, **how)(x)
        y = nn.BatchNorm(not self.train, momentum=0.9, dtype=BF16, name=name, **how)(x)
        return nn.relu(y) if activation == "relu" else y

    @nn.compact
    def __call__(self, x):
        conv = partial(nn.Conv, use_bias=False, dtype=BF16)
        y = self.norm(conv(self.features, (1, 1))(x), "BatchNorm_0", "relu")
        y = self.norm(conv(self.features, (3, 3), self.strides)(y), "BatchNorm_1", "relu")
        y = self.norm(conv(4 * self.features, (1, 1))(y), "BatchNorm_2", scale_init=nn.initializers.zeros_init())
        if x.shape != y.shape:
            x = self.norm(conv(4 * self.features, (1, 1), self.strides, name="conv_proj")(x), "norm_proj")
        return nn.relu(x + y)


def by_hand(said):
    variants = FrozenDict({resnet.norms[index].scope: variant for index, variant in said.variants.items()})
    step, arguments = train_step(block=partial(Bottleneck, variants=variants))
    return explain(step, *arguments)


resnet_rows = compared("ResNet-50, what the report names", resnet, named, by_hand(named))
table(resnet_rows)

# %%
table(resnet.norms.accounting.reset_index().tail(2))

# %% [markdown]
# ## The answer

# %%
rows = pd.concat([unet_rows, llama_rows, resnet_rows], ignore_index=True)
worst = rows["off by % of the change"].max()
assert worst <= 5
shares = {name: each.norms for name, each in (("U-Net block", before), ("Llama-3 block", llama), ("ResNet-50", resnet))}
told = "; ".join(
    f"{name}: {len(norms)}, {100 * sum(norms.launch_bytes[i] for i in norms.alone) / norms.bytes:.0f} % of the bytes "
    f"theirs alone and {100 * sum(norms.launch_bytes[i] for i in norms.touching) / norms.bytes:.0f} % in launches that touch them"
    for name, norms in shares.items()
)
changes = "; ".join(
    f"{model}: " + " and ".join(f"{change:+.1f} % {what}" for change, what in zip(same["change in %"], same["what"]))
    for model, same in rows.groupby("model", sort=False)
)
answer(
    f"**Normalizations found.** {told}. **Replaced by kernels**, bytes and predicted time change as the report said within "
    f"{worst:.1f} % of the change. {changes}."
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
