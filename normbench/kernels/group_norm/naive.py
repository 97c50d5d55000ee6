"""The textbook formula: normalize the groups, return to x's shape, then scale and shift the channels."""

import jax

from normbench.kernels.common.activations import activate
from normbench.kernels.common.checks import compute_dtype
from normbench.kernels.common.statistics import inverse_root, two_pass
from normbench.kernels.group_norm.arguments import checked


def naive(
    x: jax.Array,
    gamma: jax.Array,
    beta: jax.Array,
    epsilon: float = 1e-5,
    *,
    groups: int = 32,
    channel_axis: int = 1,
    activation: str = "none",
) -> jax.Array:
    """y = act((x - mean) / sqrt(variance + epsilon) * gamma + beta), statistics over each image's group of channels.

    The mean is one rounded number, and x - mean keeps what that leaves: the error of the normalized values is about eps
    (1 + |mean| / deviation), with epsilon in the deviation, and constants do not become 0. docs/numerics.md has the
    bounds of all variants.

    Args:
      x: (N, C, ...) or (N, ..., C).
      gamma, beta: (C,).
      epsilon: added to the variance; a Python number.
      groups: number of groups; divides C.
      channel_axis: 1 or -1.
      activation: "none", "relu", "silu" or "gelu".

    Returns:
      y in the shape and dtype of x. Computed in float32, or in float64 where an input is.

    Raises:
      UserError: for arguments that do not fit together.

    Source: Wu and He (2018), Group Normalization, equations 1, 2 and 6; torch.nn.functional.group_norm.
    """
    a = checked(x, gamma, beta, epsilon, groups, channel_axis, activation)
    wide = a.x.astype(compute_dtype(a.x, a.gamma, a.beta))
    first = a.spatial == 3
    grouped = wide.reshape(*a.view[:2], a.view[2] * a.view[3]) if first else wide.reshape(a.view)
    mean, variance = two_pass(grouped, (2,) if first else a.axes)
    normalized = ((grouped - mean) * inverse_root(variance, a.epsilon)).reshape(a.x.shape)
    channels = (1, -1, *(1,) * (a.x.ndim - 2)) if first else (-1,)
    gamma, beta = (array.astype(grouped.dtype).reshape(channels) for array in (a.gamma, a.beta))
    return activate(normalized * gamma + beta, activation).astype(a.x.dtype)
