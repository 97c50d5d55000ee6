"""The arguments of the norms over the last axes, checked the same way for every variant."""

import math
from typing import Any, NamedTuple

import jax

from kernels.activations import check_activation
from kernels.checks import check_epsilon, floating
from kernels.statistics import Axes
from normbench.errors import UserError


class Arguments(NamedTuple):
    """Checked arguments. `axes` are the normalized ones, counted from the last; beta is None where there is none."""

    x: jax.Array
    gamma: jax.Array
    beta: jax.Array | None
    epsilon: float
    axes: Axes

    @property
    def rows(self) -> tuple[int, int]:
        """The shape of x with the normalized axes made one, and the others."""
        columns = math.prod(self.gamma.shape)
        return math.prod(self.x.shape[: self.x.ndim - self.gamma.ndim]), columns


def checked(x: Any, gamma: Any, beta: Any, epsilon: float, ndim: int, activation: str) -> Arguments:
    """Returns the arguments as arrays; `beta` may be None.

    Raises:
      UserError: dtype that is not supported, a number of normalized axes that x does not have, parameters whose shape
        is not that of the normalized axes, negative epsilon, unknown activation.
    """
    check_activation(activation)
    x = floating("x", x)
    shape = normalized_shape(x.shape, ndim)
    arrays = (
        None if value is None else _parameter(name, value, shape) for name, value in (("gamma", gamma), ("beta", beta))
    )
    return Arguments(x, *arrays, check_epsilon(epsilon), tuple(range(-ndim, 0)))


def normalized_shape(shape: tuple[int, ...], ndim: int) -> tuple[int, ...]:
    """The sizes of the last `ndim` axes, all of them 1 or more."""
    if not isinstance(ndim, int) or isinstance(ndim, bool) or not 1 <= ndim <= len(shape):
        raise UserError(f"ndim {ndim!r} for x of rank {len(shape)}; allowed: 1 to {len(shape)} normalized axes")
    normalized = tuple(shape[-ndim:])
    if 0 in normalized:
        raise UserError(f"x of shape {tuple(shape)} has no elements along its last {ndim} axes; allowed: 1 or more")
    return normalized


def _parameter(name: str, value: Any, shape: tuple[int, ...]) -> jax.Array:
    array = floating(name, value)
    if array.shape != shape:
        raise UserError(f"{name} has shape {array.shape}; allowed: {shape}, the normalized axes of x")
    return array
