"""`jax.nn.standardize` of the groups, then the affine: what JAX itself offers."""

import jax

from normbench.kernels.common.activations import activate
from normbench.kernels.common.checks import compute_dtype
from normbench.kernels.group_norm.arguments import checked


def jax_nn(
    x: jax.Array,
    gamma: jax.Array,
    beta: jax.Array,
    epsilon: float = 1e-5,
    *,
    groups: int = 32,
    channel_axis: int = 1,
    activation: str = "none",
) -> jax.Array:
    """As `naive`; `jax.nn.standardize` takes the variance as E[x²] - mean². In float32, as users have to ask for."""
    a = checked(x, gamma, beta, epsilon, groups, channel_axis, activation)
    grouped = a.x.astype(compute_dtype(a.x, a.gamma, a.beta)).reshape(a.view)
    normalized = jax.nn.standardize(grouped, axis=a.axes, epsilon=a.epsilon)
    gamma, beta = (array.reshape(a.parameters).astype(grouped.dtype) for array in (a.gamma, a.beta))
    return activate(normalized * gamma + beta, activation).astype(a.x.dtype).reshape(a.x.shape)
