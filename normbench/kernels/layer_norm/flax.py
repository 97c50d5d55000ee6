"""`flax.linen.LayerNorm`, with its own defaults."""

import jax

from normbench.kernels.common.activations import activate
from normbench.kernels.layer_norm.arguments import checked


def flax(
    x: jax.Array, gamma: jax.Array, beta: jax.Array, epsilon: float = 1e-5, *, ndim: int = 1, activation: str = "none"
) -> jax.Array:
    """As `naive`; Flax takes the variance as E[x²] - mean² unless it is told otherwise."""
    from flax import linen

    a = checked(x, gamma, beta, epsilon, ndim, activation)
    module = linen.LayerNorm(epsilon=a.epsilon, dtype=a.x.dtype, reduction_axes=a.axes, feature_axes=a.axes)
    return activate(module.apply({"params": {"scale": a.gamma, "bias": a.beta}}, a.x), activation)
