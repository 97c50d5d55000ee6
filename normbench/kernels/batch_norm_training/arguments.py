"""The arguments of the training batch norm, checked the same way for every variant."""

import math
from numbers import Real
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from normbench.errors import UserError
from normbench.kernels.batch_norm.arguments import channels_of
from normbench.kernels.common.activations import activate, check_activation
from normbench.kernels.common.checks import channel_vectors, check_epsilon, compute_dtype, scale_or_ones, shift_or_zeros
from normbench.kernels.common.statistics import Axes, Statistics, inverse_root, terms

Outputs = tuple[jax.Array, jax.Array, jax.Array]


class Arguments(NamedTuple):
    """Checked arguments. `broadcast` lines a channel vector up with x; `axes` are all but that of the channels."""

    x: jax.Array
    gamma: jax.Array
    beta: jax.Array
    running_mean: jax.Array
    running_variance: jax.Array
    epsilon: float
    momentum: float
    broadcast: tuple[int, ...]
    axes: Axes

    @property
    def dtype(self) -> jnp.dtype:
        return compute_dtype(*self[:5])

    @property
    def pivot(self) -> jax.Array:
        """The running mean, lined up with x: known before x is read, near its mean once training is on its way.

        0 where it is no number: y would be none, either, and so every later step."""
        mean = jax.lax.stop_gradient(self.running_mean).reshape(self.broadcast).astype(self.dtype)
        return jnp.where(jnp.isfinite(mean), mean, 0)

    def affine(self, values: jax.Array, statistics: Statistics, activation: str) -> jax.Array:
        """`values` normalized by their own statistics, scaled, shifted and activated, in x's dtype."""
        mean, variance = statistics
        gamma, beta = (array.reshape(self.broadcast).astype(values.dtype) for array in (self.gamma, self.beta))
        y = (values - mean) * (inverse_root(variance, self.epsilon) * gamma) + beta
        return activate(y, activation).astype(self.x.dtype)

    def updated(self, y: jax.Array, mean: jax.Array, variance: jax.Array) -> Outputs:
        """(y, new running mean, new running variance), of the batch's mean and biased variance."""
        if not self.x.size:
            return y, self.running_mean, self.running_variance
        count = terms(self.x, self.axes)
        unbiased = variance * (count / (count - 1))
        return y, self._moved(self.running_mean, mean), self._moved(self.running_variance, unbiased)

    def _moved(self, running: jax.Array, batch: jax.Array) -> jax.Array:
        batch = jax.lax.stop_gradient(batch).reshape(running.shape)
        moved = (1 - self.momentum) * running.astype(batch.dtype) + self.momentum * batch
        return jax.lax.stop_gradient(moved).astype(running.dtype)


def checked(
    x: Any,
    gamma: Any,
    beta: Any,
    running_mean: Any,
    running_variance: Any,
    epsilon: float,
    momentum: float,
    channel_axis: int,
    activation: str,
) -> Arguments:
    """Returns the arguments as arrays; gamma and beta may be None, which are ones and zeros.

    Raises:
      UserError: dtype that is not supported, no channels, a channel axis other than 1 (0 for rank 1) or the last, one
        value per channel (its variance is not defined), a parameter that is not one value per channel, negative
        epsilon, a momentum outside 0 to 1, unknown activation.
    """
    check_activation(activation)
    x, axis, broadcast = channels_of(x, channel_axis)
    check_values(x.shape, axis)
    shape = x.shape[axis : axis + 1]
    gamma, beta = scale_or_ones(gamma, shape, x.dtype), shift_or_zeros(beta, shape, x.dtype)
    gamma, beta, running_mean, running_variance = channel_vectors(
        x.shape[axis], gamma=gamma, beta=beta, running_mean=running_mean, running_variance=running_variance
    )
    axes = tuple(other for other in range(x.ndim) if other != axis)
    epsilon, momentum = check_epsilon(epsilon), check_momentum(momentum)
    return Arguments(x, gamma, beta, running_mean, running_variance, epsilon, momentum, broadcast, axes)


def check_values(shape: tuple[int, ...], axis: int) -> None:
    """As in PyTorch, one value per channel is an error; none is not."""
    if math.prod(size for other, size in enumerate(shape) if other != axis) == 1:
        raise UserError(f"x of shape {tuple(shape)} has one value per channel; allowed in training: 2 or more, or none")


def check_momentum(momentum: float) -> float:
    """The weight of the batch in the new running statistics."""
    if not isinstance(momentum, Real) or isinstance(momentum, bool) or not 0 <= momentum <= 1:
        raise UserError(f"momentum {momentum!r} is not allowed; allowed: a Python float, 0 to 1")
    return float(momentum)
