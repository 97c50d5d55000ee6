"""Mean and biased variance over some axes of x, the reduced axes kept with size 1: four ways, each with its price.

| function      | reads of x | error of h = (x - mean) / deviation, in units of eps                              |
|---------------|------------|-----------------------------------------------------------------------------------|
| two_pass      | 2          | |mean| / deviation: the mean is rounded, and x - mean keeps what that leaves      |
| centred_twice | 2 or 3     | about 1, whatever the mean: what the rounded mean leaves is taken away, too       |
| one_pass      | 1          | (mean / deviation)²: x - p instead of x, with p near the mean, cures it           |
| welford       | 1          | |mean| / deviation, as two_pass                                                   |

All of them square deviations. In float32, with n terms, no result is right where a deviation exceeds 1.8e19 / sqrt(n)
(its square is infinite), nor, with an epsilon of 0, where all of them are below 1.1e-19 (their squares are subnormal).
"""

import math
from functools import partial

import jax
import jax.numpy as jnp

Axes = tuple[int, ...]
Statistics = tuple[jax.Array, jax.Array]
Welford = tuple[jax.Array, jax.Array, jax.Array]
"""How many terms, their mean, and the sum of their squared deviations from it."""

MOST_TERMS = 16384
"""That Welford's rule takes one after another: of 2^26 squares a sum in float32 loses a quarter, as the last ones are
below half a unit of its last place."""
BLOCK_TERMS = 4096
"""Of longer sums."""


def two_pass(x: jax.Array, axes: Axes) -> Statistics:
    """mean = E[x], variance = E[(x - mean)²]: the textbook formula."""
    mean = mean_over(x, axes)
    return mean, mean_over(jnp.square(x - mean), axes)


def centred_twice(x: jax.Array, axes: Axes, at_hand: bool = False) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns (mean, x - mean, variance), free of the rounding of the mean.

    c = x - mean, d = E[c], variance = E[c²] - d², and c - d stands for x - mean: d is 0 but for rounding, and so is its
    derivative. One more sum than `two_pass`, of what is read anyway.

    Args:
      at_hand: where x is in registers: variance = E[(c - d)²], which never cancels, by sums one after another.
    """
    near = mean_over(x, axes)
    centred = x - near
    offset = jax.lax.stop_gradient(mean_over(centred, axes))
    if at_hand:
        centred = centred - offset
        return near + offset, centred, mean_over(jnp.square(centred), axes)
    variance = jnp.maximum(mean_over(jnp.square(centred), axes) - jnp.square(offset), 0)
    return near + offset, centred - offset, variance


def one_pass(x: jax.Array, axes: Axes) -> Statistics:
    """mean = E[x], variance = max(E[x²] - mean², 0): both sums in one read of x."""
    mean = mean_over(x, axes)
    return mean, jnp.maximum(mean_over(jnp.square(x), axes) - jnp.square(mean), 0)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def welford(x: jax.Array, axes: Axes) -> Statistics:
    """One reduction of (count, mean, sum of squared deviations) by the rule of Chan, Golub and LeVeque (1979).

    The count is a whole number, as a float of 24 bits stays at 2^24 when 1 is added. JAX differentiates no reduction of
    several operands; the derivatives are those of a mean and a variance.
    """
    found: Welford = (jnp.ones(x.shape, jnp.int32), x, jnp.zeros_like(x))
    if terms(x, axes) <= MOST_TERMS:
        found = _combined(found, axes)
    else:
        for axis in reversed(axes):
            found = _combined(_in_blocks(found, axis), (axis,))
    _, mean, squares = found
    return mean, squares / terms(x, axes)


def _combined(values: Welford, axes: Axes) -> Welford:
    # The identity of the rule is a count of 0, which the compiler may combine with anything.
    start = tuple(jnp.zeros((), array.dtype) for array in values)
    count, mean, squares = (jnp.expand_dims(a, axes) for a in jax.lax.reduce(values, start, _combine, axes))
    return count, mean, squares


def _in_blocks(values: Welford, axis: int) -> Welford:
    """Blocks of `BLOCK_TERMS` put together: as many as there are stay along the axis."""
    shape = values[0].shape
    if shape[axis] <= MOST_TERMS:
        return values
    blocks = -(-shape[axis] // BLOCK_TERMS)
    ends = [(0, blocks * BLOCK_TERMS - shape[axis] if a == axis else 0) for a in range(len(shape))]
    cut = (*shape[:axis], blocks, BLOCK_TERMS, *shape[axis + 1 :])
    counts, means, deviations = (jnp.pad(a, ends).reshape(cut) for a in values)
    count, mean, squares = _combined((counts, means, deviations), (axis + 1,))
    return jnp.squeeze(count, axis + 1), jnp.squeeze(mean, axis + 1), jnp.squeeze(squares, axis + 1)


def _combine(left, right):
    (count_left, mean_left, squares_left), (count_right, mean_right, squares_right) = left, right
    count, dtype = count_left + count_right, mean_left.dtype
    # Beside nothing there is no difference: its square might overflow, and times a count of 0 be no number.
    both = (count_left > 0) & (count_right > 0)
    difference = jnp.where(both, mean_right - mean_left, 0)
    share = count_right.astype(dtype) / jnp.maximum(count, 1).astype(dtype)
    squares = squares_left + squares_right + difference * (difference * share) * count_left.astype(dtype)
    return count, jnp.where(count_left > 0, mean_left + difference * share, mean_right), squares


@welford.defjvp
def _welford_jvp(axes, primals, tangents):
    (x,), (dx,) = primals, tangents
    mean, variance = welford(x, axes)
    return (mean, variance), (mean_over(dx, axes), 2 * mean_over((x - mean) * dx, axes))


def inverse_root(variance: jax.Array, epsilon: float | jax.Array) -> jax.Array:
    """r = 1 / sqrt(variance + epsilon), dr = -r³ dvariance / 2 multiplied by one r after another.

    JAX's own derivative makes r³ first, which underflows in float32 for deviations from 4e12 up, and overflows below
    1e-13. In the gradient of a norm the sum that it meets is as large as the deviation, so that no product here is.
    """
    return _inverse_root(variance + epsilon)


@jax.custom_jvp
def _inverse_root(total: jax.Array) -> jax.Array:
    return jax.lax.rsqrt(total)


@_inverse_root.defjvp
def _inverse_root_jvp(primals, tangents):
    r = _inverse_root(*primals)
    return r, tangents[0] * (-0.5 * r) * r * r


def mean_over(x: jax.Array, axes: Axes) -> jax.Array:
    return x.sum(axes, keepdims=True) / terms(x, axes)


def terms(x: jax.Array, axes: Axes) -> int:
    """Number of elements in one sum over `axes`; 1 for an empty one, so that its mean is 0 and no gradient is NaN."""
    return max(math.prod(x.shape[axis] for axis in axes), 1)
