"""`flax.linen.GroupNorm`, with its own defaults."""

import jax
import jax.numpy as jnp

from normbench.kernels.common.activations import activate
from normbench.kernels.group_norm.arguments import checked


def flax(
    x: jax.Array,
    gamma: jax.Array,
    beta: jax.Array,
    epsilon: float = 1e-5,
    *,
    groups: int = 32,
    channel_axis: int = 1,
    activation: str = "none",
) -> jax.Array:
    """As `naive`. Flax knows channels last alone: channels first are transposed there and back, as its users do."""
    from flax import linen

    a = checked(x, gamma, beta, epsilon, groups, channel_axis, activation)
    module = linen.GroupNorm(num_groups=groups, epsilon=a.epsilon, dtype=a.x.dtype)
    last = jnp.moveaxis(a.x, channel_axis, -1)
    y = module.apply({"params": {"scale": a.gamma, "bias": a.beta}}, last)
    return activate(jnp.moveaxis(y, -1, channel_axis), activation)
