"""The arguments of local response norm, checked the same way for every variant."""

import math
from numbers import Real
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from normbench.errors import UserError
from normbench.kernels.common.checks import channel_axis_of, compute_dtype, floating
from normbench.kernels.common.whole import is_whole


class Arguments(NamedTuple):
    """Checked arguments; `axis` is that of the channels."""

    x: jax.Array
    size: int
    alpha: float
    beta: float
    k: float
    axis: int

    @property
    def wide(self) -> jax.Array:
        return self.x.astype(compute_dtype(self.x))


def checked(x: Any, size: int, alpha: float, beta: float, k: float, channel_axis: int) -> Arguments:
    """Returns the arguments, x as an array.

    Raises:
      UserError: dtype that is not supported, rank below 2, a channel axis other than 1 or the last, a window that is no
        whole number of channels, or numbers that are not finite.
    """
    x = floating("x", x)
    if x.ndim < 2:
        raise UserError(f"x has rank {x.ndim}; allowed: rank 2 or more, (N, C, ...) or (N, ..., C)")
    check_numbers(size, alpha, beta, k)
    return Arguments(x, size, float(alpha), float(beta), float(k), channel_axis_of(x.ndim, channel_axis))


def check_numbers(size: int, alpha: float, beta: float, k: float) -> None:
    if not is_whole(size, 1):
        raise UserError(f"size {size!r} is not allowed; allowed: a whole number of channels, 1 or more")
    for name, value in (("alpha", alpha), ("beta", beta), ("k", k)):
        if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value):
            raise UserError(f"{name} {value!r} is not allowed; allowed: a finite Python number")


def reach(size: int) -> tuple[int, int]:
    """How many channels before and after its own one window takes in; an even window takes one more before."""
    return size // 2, (size - 1) // 2


def shifted_sum(values: jax.Array, axis: int, before: int, after: int) -> jax.Array:
    """Sum over the window around each channel, as the sum of shifted copies; zero beyond the ends."""
    pads = [(0, 0)] * values.ndim
    pads[axis] = (before, after)
    padded = jnp.pad(values, pads)
    channels = values.shape[axis]
    total = jax.lax.slice_in_dim(padded, 0, channels, axis=axis)
    for shift in range(1, before + after + 1):
        total += jax.lax.slice_in_dim(padded, shift, shift + channels, axis=axis)
    return total
