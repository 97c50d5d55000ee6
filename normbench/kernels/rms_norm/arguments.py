"""The arguments of RMS norm, checked the same way for every variant."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from normbench.kernels.common.activations import check_activation
from normbench.kernels.common.checks import check_epsilon, compute_dtype, floating, scale_or_ones
from normbench.kernels.common.form import PLAIN, Form
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
    form: Form


def checked(
    x: Any, gamma: Any, epsilon: float | None = 1e-5, ndim: int = 1, activation: str = "none", form: Form = PLAIN
) -> Arguments:
    """Returns the arguments as arrays; gamma may be None, which is ones. An epsilon of None is, as in PyTorch, the
    machine epsilon of the dtype that is computed in.

    Raises:
      UserError: as for layer norm, and for a form that makes no sense.
    """
    check_activation(activation)
    x = floating("x", x)
    shape = normalized_shape(x.shape, ndim)
    gamma = parameter("gamma", scale_or_ones(gamma, shape, x.dtype), shape)
    if epsilon is None:
        epsilon = float(jnp.finfo(compute_dtype(x, gamma)).eps)
    return Arguments(x, gamma, check_epsilon(epsilon), tuple(range(-ndim, 0)), rows_of(x.shape, ndim), form.checked())
