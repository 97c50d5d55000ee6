"""Batch, group and instance norm by the native kernels: one for channels first, and one for channels last."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from normbench.kernels.common.second_order import plain_norm
from normbench.kernels.native.call import NUMBER_OF_ACTIVATION, call


@dataclass(frozen=True, slots=True)
class ChannelPlan:
    """What the kernels are told.

    Attributes:
      images, channels, positions: x is (images, channels, positions), or (images, positions, channels) where `last`.
      groups: of group and instance norm; 0 for batch norm.
      given: whether mean and variance are arguments.
      epsilon, activation: as for the operator.
      output_dtype: of y.
      dtype: that is computed in.
      momentum: of running statistics; None where there are none.
    """

    images: int
    channels: int
    positions: int
    last: bool
    groups: int
    given: bool
    epsilon: float
    activation: str
    output_dtype: str
    dtype: str
    momentum: float | None = None

    @property
    def units(self) -> int:
        """How many statistics of one kind there are."""
        return self.images * self.groups if self.groups else self.channels

    @property
    def kernel(self) -> str:
        return "columns" if self.last else "segments"

    def numbers(self, backward: bool) -> list[int]:
        moves = self.momentum is not None and not backward
        common = [self.given, NUMBER_OF_ACTIVATION[self.activation], moves, self.dtype == "float64"]
        if not self.last:
            return [backward, self.images, self.channels, self.positions, self.groups, *common]
        if self.groups:
            return [backward, self.images, self.positions, self.channels, self.groups, *common]
        return [backward, 1, self.images * self.positions, self.channels, self.channels, *common]

    @property
    def settings(self) -> list[float]:
        return [self.epsilon, self.momentum or 0.0]


def sizes(shape: tuple[int, ...], channel_axis: int) -> tuple[int, int, int, bool]:
    """`ChannelPlan`'s images, channels, positions and last."""
    axis = channel_axis % len(shape)
    if axis == len(shape) - 1:
        positions = math.prod(shape[1:-1]) if len(shape) > 1 else 1
        return (shape[0] if len(shape) > 1 else 1), shape[-1], positions, True
    return shape[0], shape[1], math.prod(shape[2:]), False


def forward(x, gamma, beta, others, plan: ChannelPlan):
    """Returns (y, statistics or None, *new running statistics); `others`: mean and variance, given or running."""
    outputs = [jax.ShapeDtypeStruct(x.shape, jnp.dtype(plan.output_dtype))]
    if not plan.given:
        outputs.append(jax.ShapeDtypeStruct((3, plan.units), jnp.dtype(plan.dtype)))
    if plan.momentum is not None:
        outputs += [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in others]
    y, *rest = call(plan.kernel, (x, gamma, beta, *others), outputs, plan.numbers(False), plan.settings)
    return (y, None, *rest) if plan.given else (y, *rest)


def backward(x, gamma, beta, statistics, dy, plan: ChannelPlan, parameter_dtype=None):
    """Returns (dx, dgamma, dbeta); `statistics`: what a forward pass kept, or (mean, variance) where they are given."""
    outputs = [
        jax.ShapeDtypeStruct(x.shape, x.dtype),
        jax.ShapeDtypeStruct(gamma.shape, parameter_dtype or gamma.dtype),
        jax.ShapeDtypeStruct(beta.shape, parameter_dtype or beta.dtype),
    ]
    known = statistics if plan.given else (statistics,)
    return call(plan.kernel, (x, gamma, beta, *known, dy), outputs, plan.numbers(True), plan.settings)


def plain(arrays: Sequence[jax.Array], plan: ChannelPlan) -> jax.Array:
    """The same formula of (x, gamma, beta) in JAX's own operations, for second derivatives."""
    x, gamma, beta = arrays
    groups, each = plan.groups or plan.channels, plan.channels // (plan.groups or plan.channels)
    images = () if plan.groups else (0,)
    if plan.last:
        shape, lined_up, axes = (plan.images, plan.positions, groups, each), (1, 1, groups, each), (*images, 1, 3)
    else:
        shape, lined_up, axes = (plan.images, groups, each, plan.positions), (1, groups, each, 1), (*images, 2, 3)
    gamma, beta = gamma.reshape(lined_up), beta.reshape(lined_up)
    y = plain_norm(x.reshape(shape), gamma, beta, axes, plan.epsilon, plan.activation, plan.output_dtype)
    return y.reshape(x.shape)
