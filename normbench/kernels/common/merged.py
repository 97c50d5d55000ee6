"""Normalization over an axis that is divided between devices, with one collective forward and one backward.

Each device has n terms of the N of a mean. Forward, with a pivot p near its own terms (the first of them), it makes

    o = E[x - p],   s = sum((x - p - o)²)

in one read of x, and sends (p, o, s) to all others. From those of all devices each makes the mean and the variance by
the rule of Chan, Golub and LeVeque (1979), where no term is larger than a deviation, whatever the mean:

    mean - p0 = E[(p - p0) + o],   N variance = sum(s) + n sum(((p - p0) + o - (mean - p0))²)

Backward, with r = 1 / sqrt(variance + epsilon), h = (x - mean) r and g = gamma dy, each sends two sums, the second
around its own mean m = p + o:

    a = sum(g),   b = sum(g (x - m));      sum(g) = sum(a),   sum(g h) = r sum(b + a (m - mean))
    dx = r (g - E[g] - h E[g h]),   dgamma = sum(dy h),   dbeta = sum(dy)

They wait for nothing that other devices send, so that XLA joins both collectives where dy is at hand as x is: where the
forward pass is computed again for the backward one (`jax.checkpoint`).

Or sum(x) and sum(x²), then sum(g) and sum(g x), are added over the devices: fewer bytes on the wire, but
variance = E[x²] - mean² cancels, and so does sum(g x) - mean sum(g).
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

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


class Moments(NamedTuple):
    """Of x over the normalized axes, each of size 1 along them.

    Attributes:
      mean, variance: of all devices' terms.
      pivot, offset: of a device; offset is the mean less its pivot.
      own: what a device's sums are taken around, less its pivot: its own mean, or zero.
      apart: pivot + own less the mean, of each device along a first axis, or of all alike where that has size 1.
    """

    mean: jax.Array
    variance: jax.Array
    pivot: jax.Array
    offset: jax.Array
    own: jax.Array
    apart: jax.Array


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
        found = (_added if plan.sums else _merged)(x.astype(dtype), plan)
        scale = inverse_root(found.variance, plan.epsilon) * _lined_up(gamma, x, plan)
        y = (x.astype(dtype) - found.pivot - found.offset) * scale + _lined_up(beta, x, plan)
        return y.astype(x.dtype), found

    arguments = (division.x, division.parameters, division.parameters)
    y, found = division.map(part, arguments, (division.x, _specs(division)))(x, gamma, beta)
    return (y, found.mean, found.variance), (x, gamma, beta, found)


def _specs(division: Division) -> Any:
    """How the moments lie on the devices."""
    each = division.x
    return Moments._make((WHOLE, WHOLE, each, each, each, WHOLE))


def _merged(x, plan):
    n, devices = terms(x, plan.axes), plan.division.devices
    first = (slice(0, 1) if axis in plan.axes else slice(None) for axis in range(x.ndim))
    pivot = lax.stop_gradient(x[tuple(first)])
    shifted = x - pivot
    own = shifted.sum(plan.axes, keepdims=True) / n
    squares = jnp.maximum(jnp.square(shifted).sum(plan.axes, keepdims=True) - n * own * own, 0)
    pivots, offsets, squares = _gathered(pivot, own, squares)
    from_first = (pivots - pivots[0]) + offsets
    mean = from_first.mean(0)
    deviations = squares.sum(0) + n * jnp.square(from_first - mean).sum(0)
    offset = (pivots[0] - pivot) + mean
    return Moments(pivots[0] + mean, deviations / (n * devices), pivot, offset, own, from_first - mean)


def _added(x, plan):
    """As `_merged`, without a pivot."""
    total = terms(x, plan.axes) * plan.division.devices
    sums = jnp.stack((x.sum(plan.axes, keepdims=True), jnp.square(x).sum(plan.axes, keepdims=True)))
    mean, square = lax.psum(sums, AXIS) / total
    nothing = jnp.zeros_like(mean)
    return Moments(mean, jnp.maximum(square - mean * mean, 0), nothing, mean, nothing, -mean[None])


def _gathered(*arrays):
    """Each of these arrays of all devices along a new first axis, in one collective."""
    return jnp.moveaxis(lax.all_gather(jnp.stack(arrays), AXIS), 1, 0)


def _lined_up(vector, x, plan):
    """A vector along its axis of x: the normalized one where that is the last, else the one that is not normalized."""
    rows = plan.axes == (x.ndim - 1,)
    along = x.ndim - 1 if rows else next(axis for axis in range(x.ndim) if axis not in plan.axes)
    return vector.reshape([-1 if axis == along else 1 for axis in range(x.ndim)])


def _backward_rule(plan, saved, cotangents):
    x, gamma, beta, found = saved
    division, dtype = plan.division, found.variance.dtype
    others = tuple(axis for axis in range(x.ndim) if axis not in plan.axes)
    rows = plan.axes == (x.ndim - 1,)  # gamma lies along what is normalized

    def part(x, gamma, found, dy):
        total = terms(x, plan.axes) * division.devices
        shifted, dy, scale = x.astype(dtype) - found.pivot, dy.astype(dtype), _lined_up(gamma, x, plan).astype(dtype)
        r, g = inverse_root(found.variance, plan.epsilon), scale * dy if rows else dy
        own = [one.sum(plan.axes, keepdims=True) for one in (g, g * (shifted - found.own))]
        a, b = lax.psum(jnp.stack(own), AXIS)[:, None] if plan.sums else _gathered(*own)
        sum_g, sum_g_h = a.sum(0), r * (b + a * found.apart).sum(0)
        h = (shifted - found.offset) * r
        dx = r * (g - sum_g / total - h * (sum_g_h / total)) * (1 if rows else scale)
        dbeta, dgamma = (dy.sum(others), (dy * h).sum(others)) if rows else (sum_g.reshape(-1), sum_g_h.reshape(-1))
        return dx.astype(x.dtype), dgamma.astype(gamma.dtype), dbeta.astype(gamma.dtype)

    arguments = (division.x, division.parameters, _specs(division), division.x)
    mapped = division.map(part, arguments, (division.x, division.parameters, division.parameters))
    dx, dgamma, dbeta = mapped(x, gamma, found, cotangents[0])
    return dx, dgamma, dbeta.astype(beta.dtype)


normalize.defvjp(_forward, _backward_rule)
