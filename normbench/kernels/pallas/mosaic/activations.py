"""Activations and their derivatives of what Mosaic GPU can lower: no `jax.vjp` inside a kernel there.

relu'(z) = 1 where z > 0; silu'(z) = s (1 + z (1 - s)) with s = 1 / (1 + exp(-z)); gelu is the tanh form.
"""

import math

import jax
import jax.numpy as jnp

_GELU_SCALE = math.sqrt(2 / math.pi)
_GELU_CUBIC = 0.044715


def activate(z: jax.Array, activation: str) -> jax.Array:
    """act(z) for a block in float32."""
    if activation == "relu":
        return jnp.maximum(z, 0.0)
    if activation == "silu":
        return z * jax.lax.logistic(z)
    if activation == "gelu":
        return 0.5 * z * (1.0 + jnp.tanh(_GELU_SCALE * (z + _GELU_CUBIC * z * z * z)))
    return z


def pulled(h: jax.Array, dy: jax.Array, gamma: jax.Array, beta: jax.Array, activation: str) -> jax.Array:
    """The cotangent of h gamma + beta, whose activation has dy."""
    return dy if activation == "none" else differentiate(h * gamma + beta, dy, activation)


def differentiate(z: jax.Array, cotangent: jax.Array, activation: str) -> jax.Array:
    """act'(z) times the cotangent."""
    if activation == "relu":
        return jnp.where(z > 0.0, cotangent, 0.0)
    if activation == "silu":
        s = jax.lax.logistic(z)
        return cotangent * s * (1.0 + z * (1.0 - s))
    if activation == "gelu":
        t = jnp.tanh(_GELU_SCALE * (z + _GELU_CUBIC * z * z * z))
        slope = _GELU_SCALE * (1.0 + 3.0 * _GELU_CUBIC * z * z)
        return cotangent * (0.5 * (1.0 + t) + 0.5 * z * (1.0 - t * t) * slope)
    return cotangent
