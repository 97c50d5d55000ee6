"""y = act((x - mean) / sqrt(variance + epsilon) * gamma + beta) over the axes of x itself, with a gradient by hand.

With r = 1 / sqrt(variance + epsilon), h = (x - mean) r, dz = dy act'(z) and E the mean over the normalized axes:

    dx = r (gamma dz - E[gamma dz] - h E[gamma dz h]),   dgamma = sum(dz h),   dbeta = sum(dz)

What is saved is x, as it came, and the mean and r in float32 (float64 where an input is), the mean as p + (mean - p).

Every sum is one of x - p or of dz (x - p) for a pivot p that is known before x is read, and the mean enters after the
summing: E[gamma dz h] = r (E[gamma dz (x - p)] - E[gamma dz] (mean - p)). So no sum waits for another, and where x and
dy are at hand together one launch can make all of them. Near the mean the pivot also keeps them from cancelling: the
error of y and of the gradients grows with ((p - mean) / deviation)². A pivot that is no number is taken as 0.

The rules are plain JAX, so that gradients have gradients.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from normbench.jax_compat.varying import alike
from normbench.kernels.common.activations import activate
from normbench.kernels.common.checks import compute_dtype
from normbench.kernels.common.partial_sums import FEW_BLOCKS, sum_over
from normbench.kernels.common.statistics import (
    Axes,
    Statistics,
    centred_twice,
    inverse_root,
    one_pass,
    terms,
    two_pass,
    welford,
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is summed over which axes of x.

    Attributes:
      shared: axes summed for the statistics and for the parameters alike.
      statistics: further axes that are normalized over.
      parameters: further axes that the gradients of gamma and beta are summed over.
      epsilon, activation: as in the equation.
      method: "pivoted", "centred_twice" or "welford": how the mean and the variance are found; see
        `normbench.kernels.common.statistics`. method_alone: the same where no gradient follows.
    """

    shared: Axes
    statistics: Axes
    parameters: Axes
    epsilon: float
    activation: str
    method: str = "pivoted"
    method_alone: str = "pivoted"

    @property
    def normalized(self) -> Axes:
        return tuple(sorted((*self.shared, *self.statistics)))


def normalize(x: jax.Array, gamma: jax.Array, beta: jax.Array, pivot: jax.Array, plan: Plan):
    """Returns (y, mean, variance).

    Args:
      x: any shape.
      gamma, beta: of x's rank, of size 1 along the axes that their gradients are summed over.
      pivot: of x's rank, of size 1 along the normalized axes; any values, best near the mean.
      plan: axes, epsilon, activation, method.

    Returns:
      y in x's shape and dtype; mean and biased variance, of size 1 along the normalized axes, in float32 or float64.
      Gradients are taken through y alone: the mean and the variance, and the pivot, are constants to them.
    """
    return _normalize(*alike((x, gamma, beta, pivot)), plan)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _normalize(x, gamma, beta, pivot, plan):
    return _forward(x, gamma, beta, pivot, plan, plan.method_alone)[0]


def _forward(x, gamma, beta, pivot, plan, method):
    dtype = compute_dtype(x, gamma, beta)
    if method == "pivoted":
        pivot = jnp.where(jnp.isfinite(pivot), pivot, 0).astype(dtype)
        shifted = x.astype(dtype) - pivot
        offset, variance = _statistics(shifted, plan)
        centred = shifted - offset
    else:  # a pivot would be a needless read, and in the way of XLA's Triton rewriter
        pivot, centred, variance = _around(x.astype(dtype), plan, method)
        offset = jnp.zeros_like(pivot)
    rstd = inverse_root(variance, plan.epsilon)
    y = activate(_affine(centred, rstd, gamma.astype(dtype), beta.astype(dtype), plan), plan.activation)
    return (y.astype(x.dtype), pivot + offset, variance), (x, gamma, beta, pivot, offset, rstd)


def _affine(centred, rstd, gamma, beta, plan):
    if plan.shared:  # the scale of each channel is made first, and x meets it once
        return centred * (rstd * gamma) + beta
    return centred * rstd * gamma + beta


def _around(x: jax.Array, plan: Plan, method: str) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The mean, x - mean and the variance."""
    if method == "centred_twice":
        return centred_twice(x, plan.normalized, at_hand=True)
    mean, variance = welford(x, plan.normalized)
    return mean, x - mean, variance


def _statistics(shifted: jax.Array, plan: Plan) -> Statistics:
    if not plan.shared:
        return one_pass(shifted, plan.statistics)
    count = terms(shifted, plan.shared)
    mean = _channel_sum(shifted, plan) / count
    variance = jnp.maximum(_channel_sum(jnp.square(shifted), plan) / count - jnp.square(mean), 0)
    if not plan.statistics:
        return mean, variance
    # Over several channels: the mean of the variances and the variance of the means.
    overall, between = two_pass(mean, plan.statistics)
    return overall, variance.mean(plan.statistics, keepdims=True) + between


def _forward_rule(x, gamma, beta, pivot, plan):
    return _forward(x, gamma, beta, pivot, plan, plan.method)


def _backward_rule(plan, saved, cotangents):
    x, gamma, beta, pivot, offset, rstd = saved
    dtype = rstd.dtype
    scale, dz = gamma.astype(dtype), cotangents[0].astype(dtype)
    shifted = x.astype(dtype) - pivot
    if plan.activation != "none":
        z = _affine(shifted - offset, rstd, scale, beta.astype(dtype), plan)
        (dz,) = jax.vjp(partial(activate, activation=plan.activation), z)[1](dz)
    plain, weighted = _channel_sum(dz, plan), _channel_sum(dz * shifted, plan)
    count = terms(x, plan.normalized)
    mean_dh = _sum(scale * plain, plan.statistics) / count
    mean_dh_h = rstd * (_sum(scale * weighted, plan.statistics) / count - offset * mean_dh)
    dx = rstd * (scale * dz - mean_dh - (shifted - offset) * rstd * mean_dh_h)
    # Partial sums pay where x itself is summed, not where the sums over the shared axes are.
    over = _sum if plan.shared else sum_over
    dgamma = over(rstd * (weighted - offset * plain), plan.parameters)
    dbeta = over(plain, plan.parameters)
    return dx.astype(x.dtype), dgamma.astype(gamma.dtype), dbeta.astype(beta.dtype), None


def _channel_sum(values: jax.Array, plan: Plan) -> jax.Array:
    return sum_over(values, plan.shared, FEW_BLOCKS)


def _sum(values: jax.Array, axes: Axes) -> jax.Array:
    return values.sum(axes, keepdims=True)


_normalize.defvjp(_forward_rule, _backward_rule)
