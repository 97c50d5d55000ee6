"""`flax.linen.RMSNorm`, with its own defaults."""

import jax

from normbench.kernels.common.activations import activate
from normbench.kernels.rms_norm.arguments import checked


def flax(
    x: jax.Array, gamma: jax.Array | None, epsilon: float | None = 1e-5, *, ndim: int = 1, activation: str = "none"
) -> jax.Array:
    """As `naive`."""
    from flax import linen

    a = checked(x, gamma, epsilon, ndim, activation)
    module = linen.RMSNorm(epsilon=a.epsilon, dtype=a.x.dtype, reduction_axes=a.axes, feature_axes=a.axes)
    return activate(module.apply({"params": {"scale": a.gamma}}, a.x), activation)
