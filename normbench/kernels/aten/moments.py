"""What the normalizations have in common: the dtype of the computation, moments centred twice, the affine."""

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from normbench.kernels.aten.checks import count
from normbench.kernels.common.statistics import centred_twice, inverse_root

ArrayOrNone = TypeVar("ArrayOrNone", jax.Array, jax.Array | None)


def compute_dtype(dtype: jnp.dtype) -> jnp.dtype:
    """The dtype to compute in (ATen's opmath type): float64 for float64, float32 otherwise."""
    return jnp.promote_types(dtype, jnp.float32)


def widen(array: ArrayOrNone, dtype: jnp.dtype) -> ArrayOrNone:
    """Returns the array in the dtype of the computation; None stays None."""
    return None if array is None else array.astype(dtype)


class Moments(NamedTuple):
    """The mean and the biased variance over some axes, which stay with size 1, and x - mean, of which the rounding of
    the mean has been taken away."""

    mean: jax.Array
    centred: jax.Array
    variance: jax.Array


def moments(x: jax.Array, axes: Sequence[int], at_hand: bool = False) -> Moments:
    """Returns the moments over the axes by `normbench.kernels.common.statistics.centred_twice`.

    The error of the normalized values is then that of one rounding, however large the mean is beside the deviation.
    Over no elements the mean is 0 and the variance NaN, as in ATen.
    """
    if count(x.shape, axes) == 0:
        shape = tuple(1 if axis in axes else size for axis, size in enumerate(x.shape))
        return Moments(jnp.zeros(shape, x.dtype), x, jnp.full(shape, jnp.nan, x.dtype))
    return Moments(*centred_twice(x, tuple(axes), at_hand))


def reciprocal_root(variance: jax.Array, eps: float | jax.Array) -> jax.Array:
    """1 / sqrt(variance + eps) in the dtype of the variance, whatever kind of number eps is."""
    return inverse_root(variance, jnp.asarray(eps, variance.dtype))


def batch_invstd(variance: jax.Array, eps: float | jax.Array) -> jax.Array:
    """As `reciprocal_root`, but 0 where variance and eps both are: ATen has it so in batch and instance norm alone.

    A constant channel is then the bias, and its gradient 0.
    """
    nothing = (variance == 0) & (jnp.asarray(eps, variance.dtype) == 0)
    return jnp.where(nothing, 0, reciprocal_root(jnp.where(nothing, 1, variance), eps))


def channel_axes(ndim: int) -> tuple[int, ...]:
    """All axes but 1: what batch norm reduces over."""
    return (0, *range(2, ndim))


def along_channels(vector: jax.Array, ndim: int) -> jax.Array:
    """Reshapes (C,) to (1, C, 1, ...) of rank ndim."""
    return lax.expand_dims(vector, (0, *range(2, ndim)))


def unbiased(variance: jax.Array, n: int) -> jax.Array:
    """variance * n / (n - 1); NaN for one element, as in ATen."""
    return variance * n / jnp.asarray(n - 1, variance.dtype)


def affine(x_hat: jax.Array, weight: jax.Array | None, bias: jax.Array | None) -> jax.Array:
    """x_hat * weight + bias, where present."""
    scaled = x_hat if weight is None else x_hat * weight
    return scaled if bias is None else scaled + bias


def channel_affine(x_hat: jax.Array, weight: jax.Array | None, bias: jax.Array | None) -> jax.Array:
    """As `affine`, with weight and bias of shape (C,) along axis 1."""
    rank = x_hat.ndim
    return affine(
        x_hat,
        None if weight is None else along_channels(weight, rank),
        None if bias is None else along_channels(bias, rank),
    )
