"""Whole programs at small sizes: what people compile, beside the single normalization."""

from functools import partial

import jax
import jax.numpy as jnp

F32, BF16 = jnp.float32, jnp.bfloat16
LAYERS = 3


def array(shape, dtype=F32):
    return jax.ShapeDtypeStruct(shape, dtype)


def rms_norm(x, gamma):
    x32 = x.astype(F32)
    return (x32 * jax.lax.rsqrt(jnp.mean(jnp.square(x32), -1, keepdims=True) + 1e-6)).astype(x.dtype) * gamma


def layer_norm(x, gamma, beta):
    x32 = x.astype(F32)
    mean = x32.mean(-1, keepdims=True)
    variance = jnp.square(x32 - mean).mean(-1, keepdims=True)
    return ((x32 - mean) * jax.lax.rsqrt(variance + 1e-6) * gamma + beta).astype(x.dtype)


def attention(x, wqkv, wo, heads, causal):
    batch, length, width = x.shape
    q, k, v = jnp.moveaxis((x @ wqkv).reshape(batch, length, 3, heads, width // heads), 2, 0)
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k).astype(F32) * (width // heads) ** -0.5
    if causal:
        scores = jnp.where(jnp.tril(jnp.ones((length, length), bool)), scores, -1e9)
    mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores).astype(x.dtype), v)
    return mixed.reshape(batch, length, width) @ wo


# --- Llama --------------------------------------------------------------------------------------------------------


def llama_block(x, w):
    x = x + attention(rms_norm(x, w["norm1"]), w["qkv"], w["out"], 4, causal=True)
    h = rms_norm(x, w["norm2"])
    return x + (jax.nn.silu(h @ w["gate"]) * (h @ w["up"])) @ w["down"]


def llama_weights(layers=None, width=256, hidden=512):
    stack = () if layers is None else (layers,)
    shapes = {
        "norm1": (width,), "norm2": (width,), "qkv": (width, 3 * width), "out": (width, width),
        "gate": (width, hidden), "up": (width, hidden), "down": (hidden, width),
    }  # fmt: skip
    return {name: array((*stack, *shape), BF16) for name, shape in shapes.items()}


def llama_unrolled(x, layers):
    for w in layers:
        x = llama_block(x, w)
    return x


def llama_scanned(x, stacked):
    return jax.lax.scan(lambda x, w: (jax.checkpoint(llama_block)(x, w), None), x, stacked)[0]


def gradient(function):
    def with_gradient(x, w):
        return jax.grad(lambda w: function(x, w).astype(F32).sum())(w)

    return with_gradient


# --- ViT ----------------------------------------------------------------------------------------------------------


def vit_block(x, w):
    x = x + attention(layer_norm(x, w["gamma1"], w["beta1"]), w["qkv"], w["out"], 12, causal=False)
    h = layer_norm(x, w["gamma2"], w["beta2"])
    return x + jax.nn.gelu(h @ w["up"] + w["bias"]) @ w["down"]


def vit_weights(width=192, hidden=384):
    vectors = {name: array((width,)) for name in ("gamma1", "beta1", "gamma2", "beta2")}
    shapes = {"qkv": (width, 3 * width), "out": (width, width), "up": (width, hidden), "down": (hidden, width)}
    return {**vectors, "bias": array((hidden,), BF16), **{name: array(shape, BF16) for name, shape in shapes.items()}}


# --- convolutional networks ---------------------------------------------------------------------------------------


def convolution(x, weight):
    return jax.lax.conv_general_dilated(x, weight, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def batch_norm_training(x, gamma, beta, running):
    x32 = x.astype(F32)
    mean, variance = x32.mean((0, 1, 2)), x32.var((0, 1, 2))
    new = jax.tree.map(lambda old, now: 0.9 * old + 0.1 * now, running, {"mean": mean, "variance": variance})
    return ((x32 - mean) * jax.lax.rsqrt(variance + 1e-5) * gamma + beta).astype(x.dtype), new


def bottleneck(w, running, x):
    h, updated = x, []
    for i, weight in enumerate(w["conv"]):
        h, new = batch_norm_training(convolution(h, weight), w["gamma"][i], w["beta"][i], running[i])
        updated.append(new)
        h = jax.nn.relu(h) if i < 2 else h
    return jax.nn.relu(h + x), updated


def bottleneck_step(w, running, x):
    """One step of training: weights by gradient descent, running statistics by their average."""

    def loss(w):
        y, updated = bottleneck(w, running, x)
        return jnp.square(y.astype(F32)).mean(), updated

    gradients, updated = jax.grad(loss, has_aux=True)(w)
    return jax.tree.map(lambda w, g: (w - 0.1 * g).astype(w.dtype), w, gradients), updated


def bottleneck_arguments(batch=4, size=14, wide=64, narrow=16):
    kernels = [(1, 1, wide, narrow), (3, 3, narrow, narrow), (1, 1, narrow, wide)]
    w = {
        "conv": [array(shape, BF16) for shape in kernels],
        "gamma": [array(shape[-1:]) for shape in kernels],
        "beta": [array(shape[-1:]) for shape in kernels],
    }
    running = [{"mean": array(shape[-1:]), "variance": array(shape[-1:])} for shape in kernels]
    return w, running, array((batch, size, size, wide), BF16)


def unet_block(x, w):
    """Group normalization, SiLU and a convolution, twice, with a residual; channels last."""
    h = x
    for i in range(2):
        groups = h.astype(F32).reshape(*h.shape[:3], 8, -1)
        mean, variance = groups.mean((1, 2, 4), keepdims=True), groups.var((1, 2, 4), keepdims=True)
        normalized = ((groups - mean) * jax.lax.rsqrt(variance + 1e-5)).reshape(h.shape)
        h = convolution(jax.nn.silu(normalized * w["gamma"][i] + w["beta"][i]).astype(x.dtype), w["conv"][i])
    return x + h


def unet_arguments(batch=2, size=16, width=64):
    vectors = [array((width,)) for _ in range(2)]
    convs = [array((3, 3, width, width), BF16) for _ in range(2)]
    return array((batch, size, size, width), BF16), {"gamma": vectors, "beta": vectors, "conv": convs}


# --- optimisers and tables ----------------------------------------------------------------------------------------


def adamw(gradient, state, weights, state_first):
    """AdamW with float32 master weights and moments, and bfloat16 gradients."""
    count, moments = state

    def update(g, m, w):
        g = g.astype(F32)
        mean, square = 0.9 * m["mean"] + 0.1 * g, 0.999 * m["square"] + 0.001 * g * g
        step = mean / (1 - 0.9**count) / (jnp.sqrt(square / (1 - 0.999**count)) + 1e-8)
        return w - 1e-3 * (step + 0.01 * w), {"mean": mean, "square": square}

    new = {name: update(gradient[name], moments[name], weights[name]) for name in weights}
    updated = {name: one for name, (one, _) in new.items()}
    state = (count + 1, {name: one for name, (_, one) in new.items()})
    return (state, updated) if state_first else (updated, state)


def adamw_arguments(shape=(512, 256)):
    names = ("a", "b")
    moments = {name: {"mean": array(shape), "square": array(shape)} for name in names}
    return {name: array(shape, BF16) for name in names}, (array(()), moments), {name: array(shape) for name in names}


def embedding(table, ids):
    return table[ids] * jnp.asarray(2, table.dtype)


def embedding_gradient(table, ids, cotangent):
    return jax.vjp(lambda table: embedding(table, ids), table)[1](cotangent)[0]


def add_rows(table, ids, rows):
    return table.at[ids].add(rows)


# --- products of narrow types -------------------------------------------------------------------------------------


def fp8_product(x, w, scale):
    y = jax.lax.dot_general(x, w, (((1,), (0,)), ((), ())), preferred_element_type=F32)
    return (y * scale).astype(BF16)


def int8_product(x, w, scale):
    y = jax.lax.dot_general(x, w, (((1,), (0,)), ((), ())), preferred_element_type=jnp.int32)
    return jax.nn.relu(y.astype(F32) * scale).astype(BF16)


# --- control flow -------------------------------------------------------------------------------------------------


def either(flag, x, w):
    return jax.lax.cond(flag, lambda x: jax.nn.silu(rms_norm(x, w)), lambda x: x * 2, x)


def one_of_three(index, x, w):
    branches = [lambda x: x * 2, lambda x: rms_norm(x, w), lambda x: jax.nn.silu(rms_norm(rms_norm(x, w), w))]
    return jax.lax.switch(index, branches, x) + 1


def until_small(x, limit):
    def halve(x):
        return x * 0.5 - jnp.mean(x, -1, keepdims=True)

    return jax.lax.while_loop(lambda x: jnp.max(x) > limit, halve, x)


def sharded_norm(x, gamma):
    """What one of the devices of a mesh does: the mesh has one device, and the mean goes over it."""
    mesh = jax.make_mesh((1,), ("d",), (jax.sharding.AxisType.Auto,), devices=jax.devices("cpu")[:1])
    spec = jax.sharding.PartitionSpec

    def local(x, gamma):
        square = jax.lax.psum(jnp.square(x).mean(-1, keepdims=True), "d")
        return x * jax.lax.rsqrt(square + 1e-6) * gamma

    return jax.shard_map(local, mesh=mesh, in_specs=(spec(None, "d"), spec("d")), out_specs=spec(None, "d"))(x, gamma)


def double_kernel(x_ref, y_ref):
    y_ref[...] = x_ref[...] * 2


def with_own_kernel(x, interpret=False):
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton as pallas_triton

    kernel = pl.pallas_call(
        double_kernel,
        out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype),
        grid=(x.shape[0] // 16,),
        in_specs=[pl.BlockSpec((16, x.shape[1]), lambda i: (i, 0))],
        out_specs=pl.BlockSpec((16, x.shape[1]), lambda i: (i, 0)),
        compiler_params=pallas_triton.CompilerParams(num_warps=4),
        interpret=interpret,
    )
    return jnp.tanh(kernel(x + 1))


# --- normalizations that a hint is about ---------------------------------------------------------------------------


def promoting(x, gamma):
    """The scale in float32 makes the result wider than x."""
    return rms_norm(x, jnp.asarray(1, x.dtype)) * gamma


def side_by_side(x):
    x32 = x.astype(F32)
    mean, square = x32.mean(-1, keepdims=True), jnp.square(x32).mean(-1, keepdims=True)
    return ((x32 - mean) * jax.lax.rsqrt(square - mean * mean + 1e-6)).astype(x.dtype)


# --- the smallest examples of what was once read wrongly ----------------------------------------------------------


def two_products(x, a, b):
    return jax.nn.silu(jax.nn.silu(x @ a) @ b)


def table_and_zeros(table, ids):
    return table[ids] * 2, jnp.zeros((256, 64))


def captured(x):
    return x @ jnp.asarray(_WEIGHT)


def handed_through(x, y):
    return x, y + 1


def _captured_weight():
    import numpy as np

    return np.random.default_rng(0).standard_normal((256, 128), np.float32)


_WEIGHT = _captured_weight()


def programs():
    """(name, function, arguments, names of donated arguments) of each; a few are for a GPU alone."""
    x = array((2, 128, 256), BF16)
    unrolled = [llama_weights() for _ in range(LAYERS)]
    yield "llama_unrolled", llama_unrolled, (x, unrolled)
    yield "llama_unrolled_gradient", gradient(llama_unrolled), (x, unrolled)
    yield "llama_scanned", llama_scanned, (x, llama_weights(LAYERS))
    yield "llama_scanned_gradient", gradient(llama_scanned), (x, llama_weights(LAYERS))
    yield "vit_block", vit_block, (array((2, 197, 192), BF16), vit_weights())
    yield "bottleneck_step", bottleneck_step, bottleneck_arguments()
    yield "bottleneck_step_donated", jax.jit(bottleneck_step, donate_argnums=(0, 1)), bottleneck_arguments()
    yield "unet_block", unet_block, unet_arguments()
    for order, state_first in (("weights_first", False), ("state_first", True)):
        step = partial(adamw, state_first=state_first)
        yield f"adamw_{order}", step, adamw_arguments()
        yield f"adamw_{order}_donated", jax.jit(step, donate_argnums=(1, 2)), adamw_arguments()
    table, ids, rows = array((4096, 64), BF16), array((128,), jnp.int32), array((128, 64), BF16)
    yield "embedding", embedding, (table, ids)
    yield "embedding_gradient", embedding_gradient, (table, ids, rows)
    yield "add_rows", add_rows, (table, ids, rows)
    yield "add_rows_donated", jax.jit(add_rows, donate_argnums=0), (table, ids, rows)
    fp8, int8 = jnp.float8_e4m3fn, jnp.int8
    yield "fp8_product", fp8_product, (array((256, 256), fp8), array((256, 128), fp8), array(()))
    yield "int8_product", int8_product, (array((256, 256), int8), array((256, 128), int8), array(()))
    y, gamma = array((512, 256), BF16), array((256,), BF16)
    yield "either", either, (array((), jnp.bool_), y, gamma)
    yield "one_of_three", one_of_three, (array((), jnp.int32), y, gamma)
    yield "until_small", until_small, (array((512, 256)), array(()))
    yield "sharded_norm", sharded_norm, (array((512, 256)), array((256,)))
    yield "with_own_kernel", with_own_kernel, (array((512, 256)),)
    yield "with_own_kernel_interpreted", partial(with_own_kernel, interpret=True), (array((512, 256)),)
    yield "promoting", promoting, (y, array((256,)))
    yield "side_by_side", side_by_side, (y,)
    yield "long_rows", rms_norm, (array((64, 20000), BF16), array((20000,), BF16))
    yield "two_products", two_products, (y, array((256, 256), BF16), array((256, 256), BF16))
    yield "table_and_zeros", table_and_zeros, (array((4096, 64)), ids)
    yield "captured", captured, (array((8, 256)),)
    yield "handed_through", handed_through, (array((256, 256)), array((256, 256)))
