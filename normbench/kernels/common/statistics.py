"""Mean and biased variance over some axes of x, the reduced axes kept with size 1: three ways, each with its price.

| function | reads of x | error of the variance, relative, where |mean| is large against the deviation |
|----------|------------|------------------------------------------------------------------------------|
| two_pass | 2          | about eps                                                                    |
| one_pass | 1          | about eps (mean / deviation)²: x - p instead of x, with p near the mean, cures it |
| welford  | 1          | about eps; the mean takes a rounding, and a division, at each step           |
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

Axes = tuple[int, ...]
Statistics = tuple[jax.Array, jax.Array]


def two_pass(x: jax.Array, axes: Axes) -> Statistics:
    """mean = E[x], variance = E[(x - mean)²]: the textbook formula."""
    mean = mean_over(x, axes)
    return mean, mean_over(jnp.square(x - mean), axes)


def one_pass(x: jax.Array, axes: Axes) -> Statistics:
    """mean = E[x], variance = max(E[x²] - mean², 0): both sums in one read of x."""
    mean = mean_over(x, axes)
    return mean, jnp.maximum(mean_over(jnp.square(x), axes) - jnp.square(mean), 0)


def welford(x: jax.Array, axes: Axes) -> Statistics:
    """One reduction of (count, mean, sum of squared deviations) by the rule of Chan, Golub and LeVeque (1979).

    It has no gradient of its own: JAX differentiates no reduction of several operands.
    """
    # The identity of the rule is a count of 0, which the compiler may combine with anything.
    start = (jnp.zeros((), x.dtype),) * 3
    _, mean, squares = jax.lax.reduce((jnp.ones_like(x), x, jnp.zeros_like(x)), start, _combine, axes)
    mean, squares = (jnp.expand_dims(sums, axes) for sums in (mean, squares))
    return mean, squares / terms(x, axes)


def _combine(left, right):
    (count_left, mean_left, squares_left), (count_right, mean_right, squares_right) = left, right
    count = count_left + count_right
    difference = mean_right - mean_left
    share = jnp.where(count == 0, 0, count_right / jnp.maximum(count, 1))
    squares = squares_left + squares_right + jnp.square(difference) * count_left * share
    return count, mean_left + difference * share, squares


def mean_over(x: jax.Array, axes: Axes) -> jax.Array:
    return x.sum(axes, keepdims=True) / terms(x, axes)


def terms(x: jax.Array, axes: Axes) -> int:
    """Number of elements in one sum over `axes`; 1 for an empty one, so that its mean is 0 and no gradient is NaN."""
    return max(math.prod(x.shape[axis] for axis in axes), 1)


METHODS: dict[str, Callable[[jax.Array, Axes], Statistics]] = {
    "two_pass": two_pass,
    "one_pass": one_pass,
    "welford": welford,
}
