"""Prints, as JSON, what `explain` says of programs whose compiled form is known; run under every JAX at hand."""

import json

import jax
import jax.numpy as jnp

from normbench import explain

F32, BF16 = jnp.float32, jnp.bfloat16


def layer_norm(x, gamma, beta):
    x32 = x.astype(F32)
    mean = x32.mean(-1, keepdims=True)
    variance = jnp.square(x32 - mean).mean(-1, keepdims=True)
    return ((x32 - mean) * jax.lax.rsqrt(variance + 1e-5) * gamma + beta).astype(x.dtype)


def layer_norm_one_pass(x, gamma, beta):
    x32 = x.astype(F32)
    mean = x32.mean(-1, keepdims=True)
    variance = jnp.square(x32).mean(-1, keepdims=True) - jnp.square(mean)
    return ((x32 - mean) * jax.lax.rsqrt(variance + 1e-5) * gamma + beta).astype(x.dtype)


def layer_norm_pivoted(x, gamma, beta):
    x32 = x.astype(F32)
    shifted = x32 - jax.lax.stop_gradient(x32[:, :1])
    mean = shifted.mean(-1, keepdims=True)
    variance = jnp.square(shifted).mean(-1, keepdims=True) - jnp.square(mean)
    return ((shifted - mean) * jax.lax.rsqrt(variance + 1e-5) * gamma + beta).astype(x.dtype)


def layer_norm_and_gradient(x, gamma, beta, cotangent):
    output, pullback = jax.vjp(layer_norm, x, gamma, beta)
    return output, pullback(cotangent)


def batch_norm_promoting(x, gamma, beta, mean, variance):
    return (x - mean) * jax.lax.rsqrt(variance + 1e-5) * gamma + beta


def batch_norm(x, *parameters):
    return batch_norm_promoting(x, *parameters).astype(x.dtype)


def batch_norm_training(x, gamma, beta):
    x32 = x.astype(F32)
    mean = x32.mean((0, 1, 2))
    variance = jnp.square(x32 - mean).mean((0, 1, 2))
    return ((x32 - mean) * jax.lax.rsqrt(variance + 1e-5) * gamma + beta).astype(x.dtype), mean, variance


def group_norm_nchw(x, gamma, beta):
    groups = x.astype(F32).reshape(x.shape[0], 32, -1)
    mean = groups.mean(-1, keepdims=True)
    variance = jnp.square(groups - mean).mean(-1, keepdims=True)
    normalized = ((groups - mean) * jax.lax.rsqrt(variance + 1e-5)).reshape(x.shape)
    return (normalized * gamma[:, None, None] + beta[:, None, None]).astype(x.dtype)


def convolution(x, weight):
    return jax.lax.conv_general_dilated(x, weight, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def conv_bn(x, weight, gamma, beta, mean, variance):
    return jax.nn.relu(batch_norm(convolution(x, weight), gamma, beta, mean, variance))


def conv_bn_prefolded(x, weight, bias):
    return jax.nn.relu(convolution(x, weight) + bias)


def array(shape, dtype=F32):
    return jax.ShapeDtypeStruct(shape, dtype)


def rows(count, length):
    return array((count, length), BF16), array((length,)), array((length,))


def cases():
    x, channel = array((64, 56, 56, 256), BF16), array((256,))
    image, weight, features = array((32, 28, 28, 128), BF16), array((3, 3, 128, 128), BF16), array((128,))
    yield "layer_norm", layer_norm, rows(8192, 4096)
    yield "layer_norm_one_pass", layer_norm_one_pass, rows(8192, 4096)
    yield "layer_norm_16384", layer_norm, rows(2048, 16384)
    yield "layer_norm_16385", layer_norm, rows(2048, 16385)
    yield "layer_norm_pivoted", layer_norm_pivoted, rows(2048, 4096)
    yield "layer_norm_and_gradient", layer_norm_and_gradient, (*rows(8192, 4096), array((8192, 4096), BF16))
    yield "batch_norm", batch_norm, (x, *[channel] * 4)
    yield "batch_norm_promoting", batch_norm_promoting, (x, *[channel] * 4)
    yield "batch_norm_training", batch_norm_training, (x, channel, channel)
    yield "group_norm_nchw", group_norm_nchw, (array((16, 256, 28, 28), BF16), channel, channel)
    yield "conv_bn", conv_bn, (image, weight, *[features] * 4)
    yield "conv_bn_prefolded", conv_bn_prefolded, (image, weight, array((128,), BF16))


def fact(function, arguments):
    report = explain(function, *arguments, target="h200")
    calls = report.launches[report.launches["kind"].isin(["library", "pallas", "custom call"])]
    return {
        "launches": len(report.launches),
        "bytes": report.bytes,
        "minimum_bytes": report.minimum_bytes,
        "streaming_minimum_bytes": report.streaming_minimum_bytes,
        "traffic_ratio": report.traffic_ratio,
        "xla_bytes": report.xla_bytes,
        "call_bytes": int(calls["read_bytes"].sum() + calls["write_bytes"].sum()),
        "kinds": report.launches["kind"].tolist(),
        "ops": report.launches["ops"].tolist(),
        "source_ops": report.launches["source_ops"].tolist(),
        "grid": report.launches["grid"].tolist(),
        "load_bytes": report.launches["load_bytes"].tolist(),
        "hints": report.hints,
        "refusals": report.refusals,
    }


if __name__ == "__main__":
    found = {name: fact(function, arguments) for name, function, arguments in cases()}
    print(json.dumps({"jax": jax.__version__, "facts": found}, default=float))
