"""The flax models of the list, small."""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

BF16 = jnp.bfloat16


class Basic(nn.Module):
    features: int
    strides: int
    train: bool

    @nn.compact
    def __call__(self, x):
        conv = partial(nn.Conv, use_bias=False, dtype=BF16)
        norm = partial(nn.BatchNorm, use_running_average=not self.train, momentum=0.9, dtype=BF16)
        y = nn.relu(norm()(conv(self.features, (3, 3), self.strides)(x)))
        y = norm()(conv(self.features, (3, 3))(y))
        if x.shape != y.shape:
            x = norm(name="norm_proj")(conv(self.features, (1, 1), self.strides, name="conv_proj")(x))
        return nn.relu(x + y)


class BasicResNet(nn.Module):
    """ResNet-18 where stages are (2, 2, 2, 2)."""

    stages: Sequence[int] = (2, 2, 2, 2)
    features: int = 64
    classes: int = 1000

    @nn.compact
    def __call__(self, x, train=True):
        x = nn.Conv(self.features, (7, 7), 2, use_bias=False, dtype=BF16)(x)
        x = nn.relu(nn.BatchNorm(not train, momentum=0.9, dtype=BF16)(x))
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")
        for stage, blocks in enumerate(self.stages):
            for block in range(blocks):
                x = Basic(self.features * 2**stage, 2 if stage and not block else 1, train)(x)
        return nn.Dense(self.classes)(x.mean((1, 2)))


class VitBlock(nn.Module):
    heads: int = 4

    @nn.compact
    def __call__(self, x):
        y = nn.LayerNorm(dtype=BF16)(x)
        x = x + nn.MultiHeadDotProductAttention(self.heads, dtype=BF16)(y, y)
        y = nn.LayerNorm(dtype=BF16)(x)
        return x + nn.Dense(x.shape[-1], dtype=BF16)(nn.gelu(nn.Dense(4 * x.shape[-1], dtype=BF16)(y)))


class ConvNext(nn.Module):
    """Two blocks, and the norm before a downsampling convolution."""

    @nn.compact
    def __call__(self, x):
        for _ in range(2):
            width = x.shape[-1]
            y = nn.Conv(width, (7, 7), feature_group_count=width, dtype=BF16)(x)
            y = nn.gelu(nn.Dense(4 * width, dtype=BF16)(nn.LayerNorm(epsilon=1e-6, dtype=BF16)(y)))
            scale = self.param(f"scale_{_}", nn.initializers.constant(1e-6), (width,))
            x = x + nn.Dense(width, dtype=BF16)(y) * scale.astype(BF16)
        return nn.Conv(2 * x.shape[-1], (2, 2), 2, dtype=BF16)(nn.LayerNorm(epsilon=1e-6, dtype=BF16)(x))


class UNetBlock(nn.Module):
    """A residual block and the norm of the attention that follows, of a diffusion U-Net."""

    features: int = 16
    groups: int = 4

    @nn.compact
    def __call__(self, x):
        conv = partial(nn.Conv, self.features, (3, 3), dtype=BF16)
        norm = partial(nn.GroupNorm, self.groups, dtype=BF16)
        y = conv()(nn.silu(norm()(x)))
        y = conv()(nn.silu(norm()(y)))
        x = x + y
        return x + nn.Dense(self.features, dtype=BF16)(norm()(x))


class StyleTransfer(nn.Module):
    """Johnson's net: convolutions down, a residual block and up, each with an instance norm."""

    @nn.compact
    def __call__(self, x):
        conv, norm = partial(nn.Conv, use_bias=False, dtype=BF16), partial(nn.InstanceNorm, dtype=BF16)
        x = nn.relu(norm()(conv(8, (9, 9))(x)))
        x = nn.relu(norm()(conv(16, (3, 3), 2)(x)))
        y = nn.relu(norm()(conv(16, (3, 3))(x)))
        x = x + norm()(conv(16, (3, 3))(y))
        x = nn.relu(norm()(nn.ConvTranspose(8, (3, 3), (2, 2), use_bias=False, dtype=BF16)(x)))
        return jnp.tanh(conv(3, (9, 9))(x))


class _Block(nnx.Module):
    def __init__(self, width, rngs):
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.second = nnx.RMSNorm(width, rngs=rngs)
        self.up = nnx.Linear(width, 2 * width, rngs=rngs)
        self.down = nnx.Linear(2 * width, width, rngs=rngs)

    def __call__(self, x):
        return x + self.second(self.down(jax.nn.gelu(self.up(self.norm(x)))))


class NnxTransformer(nnx.Module):
    """Equal blocks, called from one line: neither scopes nor frames tell them apart."""

    def __init__(self, width, layers, rngs):
        self.layers = nnx.List([_Block(width, rngs) for _ in range(layers)])

    def __call__(self, x):
        for block in self.layers:
            x = block(x)
        return x


class ConformerConvolution(nn.Module):
    """The convolution of a Conformer block, of sequences that are padded."""

    @nn.compact
    def __call__(self, x, is_there):
        width = x.shape[-1]
        y = nn.LayerNorm(dtype=BF16)(x, mask=is_there)
        y = nn.glu(nn.Dense(2 * width, dtype=BF16)(y))
        y = nn.Conv(width, (5,), feature_group_count=width, dtype=BF16)(y)
        y = nn.silu(nn.BatchNorm(use_running_average=False, dtype=BF16)(y, mask=is_there))
        return x + nn.Dense(width, dtype=BF16)(y)


class SynchronisedBlock(nn.Module):
    """Batch norms whose statistics are those of all devices along "data"."""

    @nn.compact
    def __call__(self, x):
        for _ in range(2):
            x = nn.Conv(x.shape[-1], (3, 3), use_bias=False, dtype=BF16)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=False, axis_name="data", dtype=BF16)(x))
        return x


def nnx_transformer(width=32, layers=3):
    return NnxTransformer(width, layers, nnx.Rngs(0))
