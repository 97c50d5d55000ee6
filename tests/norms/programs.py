"""The list of programs on which finding normalizations is judged: what each holds is written beside it, by hand.

Sizes are small: what is recognised is structure. `PROGRAMS` holds builders, so that a framework is imported only where
its program is asked for.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import pytest

BF16, F32 = jnp.bfloat16, jnp.float32


def array(*shape, dtype=F32):
    return jax.ShapeDtypeStruct(shape, dtype)


@dataclass(frozen=True)
class Listed:
    """A program, its arguments, and the normalizations in it: how often each (kind, axes, dtype of x)."""

    function: Callable
    arguments: tuple
    norms: Counter
    keywords: dict[str, Any] | None = None


def loss_of(function):
    """A sum of squares: its gradient passes through everything."""

    def loss(*arguments):
        return sum(jnp.sum(jnp.square(leaf.astype(F32))) for leaf in jax.tree.leaves(function(*arguments)))

    return loss


def initialised(model, *inputs, **keywords):
    """Shapes of the variables of a linen module."""
    return jax.eval_shape(lambda: model.init(jax.random.key(0), *(jnp.zeros(x.shape, x.dtype) for x in inputs),
                                             **keywords))  # fmt: skip


# --- plain functions


def rms(x, scale, axis=-1):
    wide = x.astype(F32)
    return (wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis, keepdims=True) + 1e-6) * scale).astype(x.dtype)


def layer(x, scale, shift):
    mean = x.mean(-1, keepdims=True)
    return (x - mean) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5) * scale + shift


def rotary(x):
    half = x.shape[-1] // 2
    angles = jnp.arange(x.shape[1])[:, None] * 10000.0 ** (-jnp.arange(half) / half)
    a, b = jnp.split(x, 2, -1)
    cos, sin = jnp.cos(angles)[:, None].astype(x.dtype), jnp.sin(angles)[:, None].astype(x.dtype)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def llama_layer(x, weights):
    batch, length, width = x.shape
    heads = 4
    y = rms(x, weights["norm1"])
    q, k, v = ((y @ weights[name]).reshape(batch, length, heads, width // heads) for name in "qkv")
    x = x + jax.nn.dot_product_attention(rotary(q), rotary(k), v, is_causal=True).reshape(x.shape) @ weights["o"]
    y = rms(x, weights["norm2"])
    return x + (jax.nn.silu(y @ weights["gate"]) * (y @ weights["up"])) @ weights["down"]


def llama_weights(width=64, hidden=128, layers=None):
    leading = () if layers is None else (layers,)
    shapes = {name: (width, width) for name in "qkvo"}
    shapes |= {"gate": (width, hidden), "up": (width, hidden), "down": (hidden, width)}
    norms = {name: array(*leading, width) for name in ("norm1", "norm2")}
    return {name: array(*leading, *shape, dtype=BF16) for name, shape in shapes.items()} | norms


def llama(layers=2, scanned=False, remat=False, gradient=True):
    body = jax.checkpoint(llama_layer) if remat else llama_layer

    def unrolled(x, weights):
        for one in weights:
            x = body(x, one)
        return x

    def in_a_scan(x, weights):
        return jax.lax.scan(lambda x, one: (body(x, one), None), x, weights)[0]

    function = in_a_scan if scanned else unrolled
    weights = llama_weights(layers=layers) if scanned else [llama_weights() for _ in range(layers)]
    arguments = array(2, 16, 64, dtype=BF16), weights
    found = Counter({("rms", (2,), "bfloat16"): 2 if scanned else 2 * layers})
    return Listed(jax.grad(loss_of(function), argnums=(0, 1)) if gradient else function, arguments, found)


def int8_llama_mlp():
    def quantised(x):
        scale = jnp.max(jnp.abs(x), -1, keepdims=True).astype(F32) / 127
        return jnp.round(x / scale).astype(jnp.int8), scale

    def product(x, weight, scale):
        whole, own = quantised(x)
        y = jax.lax.dot_general(whole, weight, (((1,), (0,)), ((), ())), preferred_element_type=jnp.int32)
        return (y * own * scale).astype(BF16)

    def function(x, norm, gate, up, down, scales):
        y = rms(x, norm)
        y = jax.nn.silu(product(y, gate, scales[0])) * product(y, up, scales[0])
        return x + product(y, down, scales[1][:64])

    weight, narrow = array(64, 128, dtype=jnp.int8), array(128, 64, dtype=jnp.int8)
    arguments = array(32, 64, dtype=BF16), array(64), weight, weight, narrow, (array(128), array(128))
    return Listed(function, arguments, Counter({("rms", (1,), "bfloat16"): 1}))


# --- flax linen


def resnet(stages, bottleneck=True, train=False, gradient=False):
    pytest.importorskip("flax")
    from tests.explanation.resnet import ResNet, train_step
    from tests.norms.small_models import BasicResNet

    count = 1 + sum(stages) * (3 if bottleneck else 2) + (len(stages) if bottleneck else len(stages) - 1)
    found = Counter({("batch", (0, 1, 2), "bfloat16"): count})
    if bottleneck and gradient:
        step, arguments = train_step(batch=2, pixels=32, stages=stages, features=8, classes=4)
        return Listed(step, arguments, found)
    model = (ResNet if bottleneck else BasicResNet)(stages=stages, features=8, classes=4)
    images = array(2, 32, 32, 3, dtype=BF16)
    variables = initialised(model, images, train=False)

    def inference(variables, images):
        return model.apply(variables, images, train=False)

    def training(variables, images):
        return model.apply(variables, images, train=True, mutable=["batch_stats"])

    if not train:
        return Listed(inference, (variables, images), found)
    return Listed(jax.grad(loss_of(training)), (variables, images), found)


def linen(name, shape, found, gradient=False, **sizes):
    pytest.importorskip("flax")
    from tests.norms import small_models

    model = getattr(small_models, name)(**sizes)
    x = array(*shape, dtype=BF16)
    function = model.apply
    return Listed(jax.grad(loss_of(function)) if gradient else function, (initialised(model, x), x), Counter(found))


def conformer(gradient=False):
    pytest.importorskip("flax")
    from tests.norms.small_models import ConformerConvolution

    model = ConformerConvolution()
    inputs = array(2, 16, 32, dtype=BF16), array(2, 16, 1, dtype=jnp.bool_)

    def function(variables, x, is_there):
        return model.apply(variables, x, is_there, mutable=["batch_stats"])[0]

    found = Counter({("layer", (2,), "bfloat16"): 1, ("batch", (0, 1), "bfloat16"): 1})
    variables = initialised(model, *inputs)
    return Listed(jax.grad(loss_of(function)) if gradient else function, (variables, *inputs), found)


def synchronised(gradient=False):
    """On four devices, of which each has a part of the batch."""
    pytest.importorskip("flax")
    from tests.norms.small_models import SynchronisedBlock

    model, x = SynchronisedBlock(), array(16, 8, 8, 16, dtype=BF16)
    mesh = jax.sharding.AbstractMesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    whole, parts = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec("data")

    def part(variables, x):
        return model.apply(variables, x, mutable=["batch_stats"])[0]

    function = jax.shard_map(part, mesh=mesh, in_specs=(whole, parts), out_specs=parts)
    found = Counter({("batch", (0, 1, 2), "bfloat16"): 2})
    return Listed(jax.grad(loss_of(function)) if gradient else function, (initialised(model, x), x), found)


# --- other frameworks


def nnx_stack(gradient=True):
    nnx = pytest.importorskip("flax.nnx")
    from tests.norms.small_models import nnx_transformer

    model = nnx.eval_shape(nnx_transformer)
    graph, state = nnx.split(model)

    def function(state, x):
        return nnx.merge(graph, state)(x)

    found = Counter({("layer", (2,), "float32"): 3, ("rms", (2,), "float32"): 3})
    return Listed(jax.grad(loss_of(function)) if gradient else function, (state, array(2, 8, 32)), found)


def haiku_transformer():
    haiku = pytest.importorskip("haiku")

    def function(x):
        for _ in range(2):
            y = haiku.LayerNorm(-1, True, True)(x)
            x = x + haiku.MultiHeadAttention(2, 16, w_init_scale=1.0)(y, y, y)
            y = haiku.LayerNorm(-1, True, True)(x)
            x = x + haiku.Linear(32)(jax.nn.gelu(haiku.Linear(64)(y)))
        return haiku.RMSNorm(-1)(x)

    x = array(2, 8, 32)
    transformed = haiku.without_apply_rng(haiku.transform(function))
    parameters = jax.eval_shape(lambda: transformed.init(jax.random.key(0), jnp.zeros(x.shape)))
    found = Counter({("layer", (2,), "float32"): 4, ("rms", (2,), "float32"): 1})
    return Listed(jax.grad(loss_of(transformed.apply)), (parameters, x), found)


def equinox_vmap(gradient=True):
    equinox = pytest.importorskip("equinox")
    model = equinox.nn.LayerNorm(64)
    groups = equinox.nn.GroupNorm(4, 16)

    def function(x, image):
        return jax.vmap(jax.vmap(model))(x), jax.vmap(groups)(image)

    found = Counter({("layer", (2,), "float32"): 1, ("group", (1, 2, 3), "float32"): 1})
    function = jax.grad(loss_of(function), argnums=(0, 1)) if gradient else function
    return Listed(function, (array(2, 8, 64), array(2, 16, 8, 8)), found)


def keras_cnn(train=False):
    import os

    os.environ.setdefault("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras")
    if keras.backend.backend() != "jax":
        pytest.skip("keras runs on another backend here")
    layers = keras.layers
    model = keras.Sequential([
        keras.Input((16, 16, 3)), layers.Conv2D(8, 3, use_bias=False), layers.BatchNormalization(), layers.ReLU(),
        layers.Conv2D(8, 3, use_bias=False), layers.BatchNormalization(), layers.ReLU(),
        layers.GroupNormalization(2), layers.Flatten(), layers.Dense(16), layers.LayerNormalization(), layers.Dense(4),
    ])  # fmt: skip
    weights = [[array(*v.shape) for v in kind] for kind in (model.trainable_variables, model.non_trainable_variables)]

    def function(trainable, fixed, x):
        return model.stateless_call(trainable, fixed, x, training=train)

    found = Counter({
        ("batch", (0, 1, 2), "float32"): 2, ("group", (1, 2, 3), "float32"): 1, ("layer", (1,), "float32"): 1,
    })  # fmt: skip
    function = jax.grad(loss_of(function)) if train else function
    return Listed(function, (*weights, array(2, 16, 16, 3)), found)


# --- traps: nothing is normalised


def _adam():
    optax = pytest.importorskip("optax")
    optimiser, weight = optax.adamw(1e-3), array(64, 128)
    state = jax.eval_shape(optimiser.init, weight)
    return Listed(optimiser.update, (weight, state, weight), Counter())


def _clipped():
    optax = pytest.importorskip("optax")
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.lamb(1e-3))
    weights = {"a": array(64, 128), "b": array(128)}
    return Listed(optimiser.update, (weights, jax.eval_shape(optimiser.init, weights), weights), Counter())


def _softmax_attention():
    q = array(2, 16, 4, 32, dtype=BF16)

    def function(q, k, v):
        scores = jnp.einsum("bthd,bshd->bhts", q, k) / jnp.sqrt(q.shape[-1])
        return jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(scores, -1), v)

    return Listed(jax.grad(loss_of(function)), (q, q, q), Counter())


def _cosine_similarity():
    def function(a, b):
        unit = [x * jax.lax.rsqrt(jnp.sum(x * x, -1, keepdims=True) + 1e-8) for x in (a, b)]
        return unit[0] @ unit[1].T, jnp.sum(a * b, -1) / (jnp.linalg.norm(a, axis=-1) * jnp.linalg.norm(b, axis=-1))

    return Listed(jax.grad(loss_of(function)), (array(32, 64), array(32, 64)), Counter())


def _weight_norm():
    def function(x, direction, gain):
        return x @ (direction * gain / jnp.sqrt(jnp.sum(direction**2, 0, keepdims=True)))

    return Listed(jax.grad(loss_of(function), argnums=(1, 2)), (array(8, 64), array(64, 32), array(32)), Counter())


def _spectral_norm():
    def function(x, weight, u):
        v = weight.T @ u
        v = v / (jnp.linalg.norm(v) + 1e-12)
        u = weight @ v
        u = u / (jnp.linalg.norm(u) + 1e-12)
        return x @ (weight / (u @ weight @ v)), u

    return Listed(function, (array(8, 64), array(64, 32), array(64)), Counter())


def _batch_renorm():
    """The batch's statistics are corrected towards the running ones: no batch norm can take its place."""

    def function(x, scale, shift, mean, deviation):
        own_mean, own = x.mean((0, 1, 2)), jnp.sqrt(x.var((0, 1, 2)) + 1e-5)
        r = jax.lax.stop_gradient(jnp.clip(own / deviation, 1 / 3, 3))
        d = jax.lax.stop_gradient(jnp.clip((own_mean - mean) / deviation, -5, 5))
        return ((x - own_mean) / own * r + d) * scale + shift, 0.9 * mean + 0.1 * own_mean

    return Listed(jax.grad(loss_of(function)), (array(4, 8, 8, 16), *[array(16)] * 4), Counter())


def _masked_loss():
    """The root of a mean over what is there, of differences; it scales nothing."""

    def function(x, y, is_there):
        return jnp.sqrt(jnp.sum(jnp.where(is_there, (x - y) ** 2, 0)) / is_there.sum() + 1e-6)

    there = array(8, 32, dtype=jnp.bool_)
    return Listed(jax.grad(function), (array(8, 32), array(8, 32), there), Counter())


def _masked_maximum():
    """Over the root of squares that are counted by another mask, and centred by the largest."""

    def function(x, is_there, other):
        largest = jnp.max(x, -1, keepdims=True, where=is_there, initial=-1e9)
        squares = jnp.sum(jnp.where(is_there, x * x, 0), -1, keepdims=True) / other.sum(-1, keepdims=True)
        return (x - largest) * jax.lax.rsqrt(squares + 1e-6)

    there = array(8, 32, dtype=jnp.bool_)
    return Listed(function, (array(8, 32), there, there), Counter())


def _moving_average():
    def function(gradient, average, squares):
        average = 0.9 * average + 0.1 * gradient
        squares = 0.99 * squares + 0.01 * jnp.mean(gradient**2, -1, keepdims=True)
        return gradient * jax.lax.rsqrt(squares + 1e-8), average, squares

    return Listed(function, (array(64, 128), array(64, 128), array(64, 1)), Counter())


def _rotary():
    return Listed(jax.grad(loss_of(rotary)), (array(2, 16, 4, 32, dtype=BF16),), Counter())


TRAPS = {
    "rotary": _rotary,
    "adam": _adam,
    "global norm and LAMB": _clipped,
    "softmax attention": _softmax_attention,
    "cosine similarity": _cosine_similarity,
    "weight norm": _weight_norm,
    "spectral norm": _spectral_norm,
    "batch renorm": _batch_renorm,
    "moving average": _moving_average,
    "masked loss": _masked_loss,
    "masked maximum": _masked_maximum,
}

MODELS = {
    "ResNet-18, inference": partial(resnet, (2, 2, 2, 2), bottleneck=False),
    "ResNet-18, training": partial(resnet, (2, 2, 2, 2), bottleneck=False, train=True),
    "ResNet-50, inference": partial(resnet, (3, 4, 6, 3)),
    "ResNet-50, training": partial(resnet, (3, 4, 6, 3), gradient=True),
    "ViT block": partial(linen, "VitBlock", (2, 16, 32), {("layer", (2,), "bfloat16"): 2}),
    "ViT block, gradient": partial(linen, "VitBlock", (2, 16, 32), {("layer", (2,), "bfloat16"): 2}, gradient=True),
    "Llama": partial(llama, gradient=False),
    "Llama, gradient": llama,
    "Llama, remat, gradient": partial(llama, remat=True),
    "Llama in a scan, gradient": partial(llama, scanned=True),
    "Llama in a scan, remat, gradient": partial(llama, scanned=True, remat=True),
    "ConvNeXt": partial(linen, "ConvNext", (2, 16, 16, 8), {("layer", (3,), "bfloat16"): 3}),
    "ConvNeXt, gradient": partial(linen, "ConvNext", (2, 16, 16, 8), {("layer", (3,), "bfloat16"): 3}, gradient=True),
    "U-Net": partial(linen, "UNetBlock", (2, 8, 8, 16), {("group", (1, 2, 3), "bfloat16"): 3}),
    "U-Net, gradient": partial(linen, "UNetBlock", (2, 8, 8, 16), {("group", (1, 2, 3), "bfloat16"): 3}, gradient=True),
    "style transfer": partial(linen, "StyleTransfer", (2, 16, 16, 3), {("instance", (1, 2), "bfloat16"): 5}),
    "style transfer, gradient": partial(
        linen, "StyleTransfer", (2, 16, 16, 3), {("instance", (1, 2), "bfloat16"): 5}, gradient=True
    ),
    "nnx transformer in a Python loop, gradient": nnx_stack,
    "keras CNN, inference": keras_cnn,
    "keras CNN, training": partial(keras_cnn, train=True),
    "haiku transformer, gradient": haiku_transformer,
    "equinox under vmap": partial(equinox_vmap, gradient=False),
    "equinox under vmap, gradient": equinox_vmap,
    "int8 Llama MLP": int8_llama_mlp,
    "Conformer convolution, padded": conformer,
    "Conformer convolution, padded, gradient": partial(conformer, gradient=True),
    "batch norms of four devices": synchronised,
    "batch norms of four devices, gradient": partial(synchronised, gradient=True),
}

PROGRAMS = {**MODELS, **TRAPS}
