"""`jax.nn.standardize`, then the affine, and the running statistics beside it: what JAX itself offers."""

import jax

from normbench.kernels.batch_norm_training.arguments import Outputs, checked
from normbench.kernels.common.activations import activate


def jax_nn(
    x: jax.Array,
    gamma: jax.Array,
    beta: jax.Array,
    running_mean: jax.Array,
    running_variance: jax.Array,
    epsilon: float = 1e-5,
    *,
    momentum: float = 0.1,
    channel_axis: int = 1,
    activation: str = "none",
) -> Outputs:
    """As `naive`; `jax.nn.standardize` takes the variance as E[x²] - mean². In float32, as users have to ask for."""
    a = checked(x, gamma, beta, running_mean, running_variance, epsilon, momentum, channel_axis, activation)
    wide = a.x.astype(a.dtype)
    gamma, beta = (array.reshape(a.broadcast).astype(a.dtype) for array in (a.gamma, a.beta))
    y = jax.nn.standardize(wide, axis=a.axes, epsilon=a.epsilon) * gamma + beta
    y = activate(y, activation).astype(a.x.dtype)
    return a.updated(y, wide.mean(a.axes), wide.var(a.axes))
