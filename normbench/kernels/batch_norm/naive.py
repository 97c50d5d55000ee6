"""The textbook formula with the parameters reshaped to line up with x; computed in float32, returned in x's dtype."""

import jax
import jax.numpy as jnp

from normbench.kernels.batch_norm.arguments import checked
from normbench.kernels.common.activations import activate
from normbench.kernels.common.checks import compute_dtype


def naive(
    x: jax.Array,
    gamma: jax.Array,
    beta: jax.Array,
    mean: jax.Array,
    variance: jax.Array,
    epsilon: float = 1e-5,
    *,
    channel_axis: int = 1,
    activation: str = "none",
) -> jax.Array:
    """y = act((x - mean) / sqrt(variance + epsilon) * gamma + beta).

    Args:
      x: (C,), (N, C), (N, C, ...) or (N, ..., C).
      gamma, beta, mean, variance: (C,).
      epsilon: added to the variance; a Python number.
      channel_axis: 1 (0 where x is 1-D) or -1.
      activation: "none", "relu", "silu" or "gelu".

    Returns:
      y in the shape and dtype of x. Computed in float32, or in float64 where an input is.

    Raises:
      UserError: for arguments that do not fit together.
    """
    a = checked(x, gamma, beta, mean, variance, epsilon, channel_axis, activation)
    dtype = compute_dtype(*a[:5])
    gamma, beta, mean, variance = (p.reshape(a.broadcast).astype(dtype) for p in a[1:5])
    y = (a.x.astype(dtype) - mean) / jnp.sqrt(variance + a.epsilon) * gamma + beta
    return activate(y, activation).astype(a.x.dtype)
