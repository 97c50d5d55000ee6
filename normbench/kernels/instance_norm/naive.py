"""The textbook formula: the mean first, then the variance around it, of each image's channel."""

import jax

from normbench.kernels.batch_norm.arguments import channels_of
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
    channel_axis: int = 1,
    activation: str = "none",
) -> jax.Array:
    """y = act((x - mean) / sqrt(variance + epsilon) * gamma + beta), statistics over each image's channel.

    The mean is one rounded number, and x - mean keeps what that leaves: the error of the normalized values is about eps
    (1 + |mean| / deviation), with epsilon in the deviation, and constants do not become 0. docs/numerics.md has the
    bounds of all variants.

    Args:
      x: (N, C, ...) or (N, ..., C).
      gamma, beta: (C,).
      epsilon: added to the variance; a Python number.
      channel_axis: 1 or -1.
      activation: "none", "relu", "silu" or "gelu".

    Returns:
      y in the shape and dtype of x. Computed in float32, or in float64 where an input is.

    Raises:
      UserError: for arguments that do not fit together.

    Source: Ulyanov, Vedaldi and Lempitsky (2016), Instance Normalization, equation 5; torch instance_norm.
    """
    x, axis, broadcast = channels_of(x, channel_axis)
    a = checked(x, gamma, beta, epsilon, x.shape[axis], channel_axis, activation)
    wide = x.astype(compute_dtype(*a[:3]))
    mean, variance = two_pass(wide, tuple(other for other in range(1, x.ndim) if other != axis))
    gamma, beta = (array.reshape(broadcast).astype(wide.dtype) for array in (a.gamma, a.beta))
    y = (wide - mean) * inverse_root(variance, a.epsilon) * gamma + beta
    return activate(y, activation).astype(x.dtype)
