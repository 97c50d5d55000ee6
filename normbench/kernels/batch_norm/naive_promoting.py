"""The textbook formula as it is often typed: JAX's type promotion decides, so bfloat16 x may give a float32 output."""

import jax
import jax.numpy as jnp

from normbench.kernels.batch_norm.arguments import checked
from normbench.kernels.common.activations import activate


def naive_promoting(
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
    """y = act((x - mean) / sqrt(variance + epsilon) * gamma + beta), without a cast anywhere.

    Arguments and errors as for `naive`. The output has the dtype that x and the parameters promote to: bfloat16 x with
    float32 parameters gives a float32 y, which doubles the bytes written; all bfloat16 computes in bfloat16. The square
    root is in the variance's dtype: bfloat16 parameters cost a float32 x its precision.
    """
    a = checked(x, gamma, beta, mean, variance, epsilon, channel_axis, activation)
    gamma, beta, mean, variance = (p.reshape(a.broadcast) for p in a[1:5])
    return activate((a.x - mean) / jnp.sqrt(variance + a.epsilon) * gamma + beta, activation)
