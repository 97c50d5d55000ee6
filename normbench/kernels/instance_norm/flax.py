"""`flax.linen.InstanceNorm`, with its own defaults."""

import jax

from normbench.kernels.batch_norm.arguments import channels_of
from normbench.kernels.common.activations import activate
from normbench.kernels.group_norm.arguments import checked


def flax(
    x: jax.Array,
    gamma: jax.Array,
    beta: jax.Array,
    epsilon: float = 1e-5,
    *,
    channel_axis: int = 1,
    activation: str = "none",
) -> jax.Array:
    """As `naive`; Flax takes the variance as E[x²] - mean² unless it is told otherwise."""
    from flax import linen

    x, axis, _ = channels_of(x, channel_axis)
    a = checked(x, gamma, beta, epsilon, x.shape[axis], channel_axis, activation)
    module = linen.InstanceNorm(epsilon=a.epsilon, dtype=x.dtype, feature_axes=channel_axis)
    return activate(module.apply({"params": {"scale": a.gamma, "bias": a.beta}}, x), activation)
