"""The arguments of group norm, checked the same way for every variant, and x seen as groups."""

import math
from typing import Any, NamedTuple

import jax

from normbench.errors import UserError
from normbench.kernels.common.activations import activate, check_activation
from normbench.kernels.common.checks import (
    channel_axis_of,
    channel_vectors,
    check_epsilon,
    floating,
    scale_or_ones,
    shift_or_zeros,
)
from normbench.kernels.common.statistics import Axes, Statistics, inverse_root
from normbench.kernels.common.whole import is_whole


class Arguments(NamedTuple):
    """Checked arguments.

    `view` is x's shape as (N, groups, channels of a group, S) or (N, S, groups, channels of a group), S all spatial
    axes in one; reshaping to it moves no data. `spatial` is the axis S of the view, `within` that of the channels of a
    group, and `parameters` the shape that lines gamma and beta up with the view.
    """

    x: jax.Array
    gamma: jax.Array
    beta: jax.Array
    epsilon: float
    view: tuple[int, int, int, int]
    parameters: tuple[int, int, int, int]
    spatial: int
    within: int

    @property
    def axes(self) -> Axes:
        """The normalized axes of the view."""
        return tuple(sorted((self.spatial, self.within)))

    def affine(self, values: jax.Array, statistics: Statistics, activation: str) -> jax.Array:
        """`values`, in the view's shape, normalized by their own statistics, scaled, shifted and activated; in the
        shape and dtype of x.

        The scale of each image and channel is made first, and x meets it once: where x is normalized, reshaped, and
        then scaled, the compiler writes what lies between in float32.
        """
        mean, variance = statistics
        gamma, beta = (array.reshape(self.parameters).astype(values.dtype) for array in (self.gamma, self.beta))
        y = (values - mean) * (inverse_root(variance, self.epsilon) * gamma) + beta
        return activate(y, activation).astype(self.x.dtype).reshape(self.x.shape)


def checked(
    x: Any, gamma: Any, beta: Any, epsilon: float, groups: int, channel_axis: int, activation: str
) -> Arguments:
    """Returns the arguments as arrays; gamma and beta may be None, which are ones and zeros.

    Raises:
      UserError: dtype that is not supported, rank below 2, a channel axis other than 1 or the last, channels that the
        groups do not divide, a parameter that is not one value per channel, negative epsilon, unknown activation.
    """
    check_activation(activation)
    x = floating("x", x)
    if x.ndim < 2:
        raise UserError(f"x has rank {x.ndim}; allowed: rank 2 or more, (N, C, ...) or (N, ..., C)")
    axis = channel_axis_of(x.ndim, channel_axis)
    channels = x.shape[axis]
    check_groups(channels, groups)
    gamma, beta = scale_or_ones(gamma, (channels,), x.dtype), shift_or_zeros(beta, (channels,), x.dtype)
    gamma, beta = channel_vectors(channels, gamma=gamma, beta=beta)
    batch, each, spatial = x.shape[0], channels // groups, math.prod(x.shape[1:]) // channels
    if axis == 1:
        shapes = (batch, groups, each, spatial), (1, groups, each, 1), 3, 2
    else:
        shapes = (batch, spatial, groups, each), (1, 1, groups, each), 1, 3
    return Arguments(x, gamma, beta, check_epsilon(epsilon), *shapes)


def check_groups(channels: int, groups: int) -> None:
    if not is_whole(groups, 1):
        raise UserError(f"groups {groups!r} is not allowed; allowed: a whole number, 1 or more")
    if channels == 0 or channels % groups:
        raise UserError(f"groups {groups} does not divide the {channels} channels of x; allowed: a divisor of them")
