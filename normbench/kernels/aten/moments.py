"""What the normalizations have in common: the dtype of the computation, moments in two passes, the affine."""

from collections.abc import Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from normbench.kernels.aten.checks import count

ArrayOrNone = TypeVar("ArrayOrNone", jax.Array, jax.Array | None)


def compute_dtype(dtype: jnp.dtype) -> jnp.dtype:
    """The dtype to compute in (ATen's opmath type): float64 for float64, float32 otherwise."""
    return jnp.promote_types(dtype, jnp.float32)


def widen(array: ArrayOrNone, dtype: jnp.dtype) -> ArrayOrNone:
    """Returns the array in the dtype of the computation; None stays None."""
    return None if array is None else array.astype(dtype)


def moments(x: jax.Array, axes: Sequence[int]) -> tuple[jax.Array, jax.Array]:
    """Returns the mean and the biased variance over the axes, which stay with size 1.

    Two passes: variance = mean((x - mean)^2), which does not cancel. Over no elements the mean is 0 and the variance
    NaN, as in ATen.
    """
    if count(x.shape, axes) == 0:
        shape = tuple(1 if axis in axes else size for axis, size in enumerate(x.shape))
        return jnp.zeros(shape, x.dtype), jnp.full(shape, jnp.nan, x.dtype)
    mean = jnp.mean(x, axes, keepdims=True)
    return mean, jnp.mean(jnp.square(x - mean), axes, keepdims=True)


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
