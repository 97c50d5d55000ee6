"""Normalization over an axis that is divided between devices, with one collective forward and one backward.

Each device has n terms of the N of a mean. Forward, with a pivot p near its own terms (the first of them), it makes

    o = E[x - p],   s = sum((x - p - o)²)

in one read of x, and sends (p, o, s) to all others. From those of all devices each makes the mean and the variance by
the rule of Chan, Golub and LeVeque (1979), where no term is larger than a deviation, whatever the mean:

    mean - p0 = E[(p - p0) + o],   N variance = sum(s) + n sum(((p - p0) + o - (mean - p0))²)

Or it adds sum(x) and sum(x²) over the devices: fewer bytes on the wire, but variance = E[x²] - mean² cancels.
Backward, with h = (x - mean) r, r = 1 / sqrt(variance + epsilon), g = gamma dy, both sums are added in one collective:

    dx = r (g - E[g] - h E[g h]),   dgamma = sum(dy h),   dbeta = sum(dy)
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from normbench.kernels.common.checks import compute_dtype
from normbench.kernels.common.statistics import Axes, inverse_root, terms
from normbench.kernels.sharding import AXIS, WHOLE, Division


@dataclass(frozen=True)
class Plan:
    """What is normalized.

    Attributes:
      division: how x and the parameters lie on the devices.
      axes: the normalized axes of x, counted from 0; the divided one is among them.
      epsilon: as in the equation.
      sums: whether sum(x) and sum(x²) are added, in place of moments that are merged.
    """

    division: Division
    axes: Axes
    epsilon: float
    sums: bool


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalize(x: jax.Array, gamma: jax.Array, beta: jax.Array, plan: Plan):
    """Returns (y, mean, variance): y in x's shape and dtype, the others of size 1 along the normalized axes, in float32
    or float64.

    gamma and beta are vectors along the last axis that is not normalized, or along the normalized one if that is the
    last. Gradients are taken through y alone.
    """
    return _forward(x, gamma, beta, plan)[0]


def _forward(x, gamma, beta, plan):
    division, dtype = plan.division, compute_dtype(x, gamma, beta)

    def part(x, gamma, beta):
        pivot, offset, mean, variance = (_added if plan.sums else _merged)(x.astype(dtype), plan)
        r = inverse_root(variance, plan.epsilon)
        y = (x.astype(dtype) - pivot - offset) * (r * _lined_up(gamma, x, plan)) + _lined_up(beta, x, plan)
        return y.astype(x.dtype), mean, variance, pivot, offset

    results = (division.x, WHOLE, WHOLE, division.x, division.x)
    arguments = (division.x, division.parameters, division.parameters)
    y, mean, variance, pivot, offset = division.map(part, arguments, results)(x, gamma, beta)
    return (y, mean, variance), (x, gamma, beta, pivot, offset, variance)


def _merged(x, plan):
    """The pivot of this device, the mean less it; the mean and the variance, alike on all devices."""
    n, devices = terms(x, plan.axes), plan.division.devices
    first = (slice(0, 1) if axis in plan.axes else slice(None) for axis in range(x.ndim))
    pivot = lax.stop_gradient(x[tuple(first)])
    shifted = x - pivot
    own = shifted.sum(plan.axes, keepdims=True) / n
    squares = jnp.maximum(jnp.square(shifted).sum(plan.axes, keepdims=True) - n * own * own, 0)
    pivots, offsets, squares = jnp.moveaxis(lax.all_gather(jnp.stack((pivot, own, squares)), AXIS), 1, 0)
    from_first = (pivots - pivots[0]) + offsets
    mean = from_first.mean(0)
    deviations = squares.sum(0) + n * jnp.square(from_first - mean).sum(0)
    return pivot, (pivots[0] - pivot) + mean, pivots[0] + mean, deviations / (n * devices)


def _added(x, plan):
    """As `_merged`, without a pivot."""
    total = terms(x, plan.axes) * plan.division.devices
    sums = jnp.stack((x.sum(plan.axes, keepdims=True), jnp.square(x).sum(plan.axes, keepdims=True)))
    mean, square = lax.psum(sums, AXIS) / total
    return jnp.zeros_like(mean), mean, mean, jnp.maximum(square - mean * mean, 0)


def _lined_up(vector, x, plan):
    """A vector along its axis of x: the normalized one where that is the last, else the one that is not normalized."""
    rows = plan.axes == (x.ndim - 1,)
    along = x.ndim - 1 if rows else next(axis for axis in range(x.ndim) if axis not in plan.axes)
    return vector.reshape([-1 if axis == along else 1 for axis in range(x.ndim)])


def _backward_rule(plan, saved, cotangents):
    x, gamma, beta, pivot, offset, variance = saved
    division, dtype = plan.division, variance.dtype
    others = tuple(axis for axis in range(x.ndim) if axis not in plan.axes)
    rows = plan.axes == (x.ndim - 1,)  # gamma lies along what is normalized

    def part(x, gamma, pivot, offset, variance, dy):
        total = terms(x, plan.axes) * division.devices
        r, dy, scale = inverse_root(variance, plan.epsilon), dy.astype(dtype), _lined_up(gamma, x, plan).astype(dtype)
        h = (x.astype(dtype) - pivot - offset) * r
        g = scale * dy if rows else dy
        sums = lax.psum(jnp.stack([(one).sum(plan.axes, keepdims=True) for one in (g, g * h)]), AXIS)
        mean_g, mean_g_h = sums / total
        dx = r * (g - mean_g - h * mean_g_h) * (1 if rows else scale)
        dbeta, dgamma = (dy.sum(others), (dy * h).sum(others)) if rows else sums.reshape(2, -1)
        return dx.astype(x.dtype), dgamma.astype(gamma.dtype), dbeta.astype(gamma.dtype)

    arguments = (division.x, division.parameters, division.x, division.x, WHOLE, division.x)
    mapped = division.map(part, arguments, (division.x, division.parameters, division.parameters))
    dx, dgamma, dbeta = mapped(x, gamma, pivot, offset, variance, cotangents[0])
    return dx, dgamma, dbeta.astype(beta.dtype)


normalize.defvjp(_forward, _backward_rule)
