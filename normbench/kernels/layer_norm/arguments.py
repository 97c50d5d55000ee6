"""The arguments of the norms over the last axes, checked the same way for every variant."""

import math
from typing import Any, NamedTuple

import jax

from normbench.errors import UserError
from normbench.kernels.common.activations import check_activation
from normbench.kernels.common.checks import check_epsilon, floating, scale_or_ones, shift_or_zeros
from normbench.kernels.common.statistics import Axes
from normbench.kernels.common.whole import is_whole


class Arguments(NamedTuple):
    """Checked arguments. `axes` are the normalized ones, counted from the last; `rows` is x's shape with them as one
    axis, and the others as another."""

    x: jax.Array
    gamma: jax.Array
    beta: jax.Array
    epsilon: float
    axes: Axes
    rows: tuple[int, int]


def checked(x: Any, gamma: Any, beta: Any, epsilon: float, ndim: int, activation: str) -> Arguments:
    """Returns the arguments as arrays; gamma and beta may be None, which are ones and zeros.

    Raises:
      UserError: dtype that is not supported, a number of normalized axes that x does not have, parameters whose shape
        is not that of the normalized axes, negative epsilon, unknown activation.
    """
    check_activation(activation)
    x = floating("x", x)
    shape = normalized_shape(x.shape, ndim)
    gamma = parameter("gamma", scale_or_ones(gamma, shape, x.dtype), shape)
    beta = parameter("beta", shift_or_zeros(beta, shape, x.dtype), shape)
    return Arguments(x, gamma, beta, check_epsilon(epsilon), tuple(range(-ndim, 0)), rows_of(x.shape, ndim))


def rows_of(shape: tuple[int, ...], ndim: int) -> tuple[int, int]:
    return math.prod(shape[:-ndim]), math.prod(shape[-ndim:])


def normalized_shape(shape: tuple[int, ...], ndim: int) -> tuple[int, ...]:
    """The sizes of the last `ndim` axes, all of them 1 or more."""
    if not is_whole(ndim, 1) or ndim > len(shape):
        raise UserError(f"ndim {ndim!r} for x of rank {len(shape)}; allowed: 1 to {len(shape)} normalized axes")
    normalized = tuple(shape[-ndim:])
    if 0 in normalized:
        raise UserError(f"x of shape {tuple(shape)} has no elements along its last {ndim} axes; allowed: 1 or more")
    return normalized


def parameter(name: str, value: Any, shape: tuple[int, ...]) -> jax.Array:
    array = floating(name, value)
    if array.shape != shape:
        raise UserError(f"{name} has shape {array.shape}; allowed: {shape}, the normalized axes of x")
    return array
