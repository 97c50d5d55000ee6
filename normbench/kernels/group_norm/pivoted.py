"""One read of x, like `one_pass`, of x - p with p the first element of the group."""

import jax

from normbench.kernels.common.checks import compute_dtype
from normbench.kernels.common.statistics import one_pass
from normbench.kernels.group_norm.arguments import Arguments, checked


def pivoted(
    x: jax.Array,
    gamma: jax.Array,
    beta: jax.Array,
    epsilon: float = 1e-5,
    *,
    groups: int = 32,
    channel_axis: int = 1,
    activation: str = "none",
) -> jax.Array:
    """As `two_pass`, with d = E[x - p], variance = E[(x - p)²] - d² and y made of (x - p) - d.

    The error grows with ((p - mean) / deviation)²: about one where p is drawn like the others, large where the first
    element is an outlier. The pivot is a constant to the gradient; y does not depend on it.
    """
    a = checked(x, gamma, beta, epsilon, groups, channel_axis, activation)
    dtype = compute_dtype(a.x, a.gamma, a.beta)
    shifted = a.x.astype(dtype).reshape(a.view) - first_of_group(a).astype(dtype)
    return a.affine(shifted, one_pass(shifted, a.axes), activation)


def first_of_group(a: Arguments) -> jax.Array:
    first = tuple(slice(0, 1) if axis in a.axes else slice(None) for axis in range(4))
    return jax.lax.stop_gradient(a.x.reshape(a.view)[first])
