"""The arguments of the inference batch norm, checked the same way for every variant."""

from typing import Any, NamedTuple

import jax

from normbench.errors import UserError
from normbench.kernels.common.activations import check_activation
from normbench.kernels.common.checks import (
    channel_axis_of,
    channel_vectors,
    check_epsilon,
    floating,
    scale_or_ones,
    shift_or_zeros,
)


class Arguments(NamedTuple):
    """Checked arguments. `broadcast` is the shape that lines a channel vector up with x, e.g. (1, C, 1, 1)."""

    x: jax.Array
    gamma: jax.Array
    beta: jax.Array
    mean: jax.Array
    variance: jax.Array
    epsilon: float
    channel_axis: int
    broadcast: tuple[int, ...]


def checked(
    x: Any, gamma: Any, beta: Any, mean: Any, variance: Any, epsilon: float, channel_axis: int, activation: str
) -> Arguments:
    """Returns the arguments as arrays; gamma and beta may be None, which are ones and zeros.

    Raises:
      UserError: dtype that is not supported, rank 0, no channels, a channel axis other than 1 (0 for rank 1) or the
        last, a parameter that is not one value per channel, negative epsilon, unknown activation.
    """
    check_activation(activation)
    x, axis, broadcast = channels_of(x, channel_axis)
    shape = x.shape[axis : axis + 1]
    gamma, beta = scale_or_ones(gamma, shape, x.dtype), shift_or_zeros(beta, shape, x.dtype)
    gamma, beta, mean, variance = channel_vectors(x.shape[axis], gamma=gamma, beta=beta, mean=mean, variance=variance)
    return Arguments(x, gamma, beta, mean, variance, check_epsilon(epsilon), axis, broadcast)


def channels_of(x: Any, channel_axis: int) -> tuple[jax.Array, int, tuple[int, ...]]:
    """Returns x as an array, its channel axis counted from 0, and the shape that lines a channel vector up with it."""
    x = floating("x", x)
    axis = channel_axis_of(x.ndim, channel_axis)
    if x.shape[axis] == 0:
        raise UserError(f"x of shape {x.shape} has 0 channels on axis {axis}; allowed: 1 or more")
    return x, axis, tuple(size if a == axis else 1 for a, size in enumerate(x.shape))
