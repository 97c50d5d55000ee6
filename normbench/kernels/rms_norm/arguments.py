"""The arguments of RMS norm, checked the same way for every variant."""

from typing import Any, NamedTuple

import jax

from normbench.kernels.common.activations import check_activation
from normbench.kernels.common.checks import check_epsilon, floating
from normbench.kernels.common.statistics import Axes
from normbench.kernels.layer_norm.arguments import normalized_shape, parameter, rows_of


class Arguments(NamedTuple):
    """Checked arguments. `axes` are the normalized ones, counted from the last; `rows` is x's shape with them as one
    axis, and the others as another."""

    x: jax.Array
    gamma: jax.Array
    epsilon: float
    axes: Axes
    rows: tuple[int, int]


def checked(x: Any, gamma: Any, epsilon: float, ndim: int, activation: str) -> Arguments:
    """Returns the arguments as arrays.

    Raises:
      UserError: as for layer norm.
    """
    check_activation(activation)
    x = floating("x", x)
    shape = normalized_shape(x.shape, ndim)
    gamma = parameter("gamma", gamma, shape)
    return Arguments(x, gamma, check_epsilon(epsilon), tuple(range(-ndim, 0)), rows_of(x.shape, ndim))
