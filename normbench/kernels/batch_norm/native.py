"""A kernel in C++ for the CPU, for both layouts, by all threads."""

import jax
import jax.numpy as jnp

from normbench.kernels.batch_norm.arguments import checked
from normbench.kernels.common.checks import compute_dtype
from normbench.kernels.common.second_order import plain_given, twice_differentiable
from normbench.kernels.common.statistics import inverse_root
from normbench.kernels.native import channels


def native(
    x: jax.Array,
    gamma: jax.Array,
    beta: jax.Array,
    mean: jax.Array,
    variance: jax.Array,
    epsilon: float = 1e-5,
    *,
    channel_axis: int = 1,
    activation: str = "none",
    output_dtype: str | None = None,
) -> jax.Array:
    """y = act((x - mean) * (gamma / sqrt(variance + epsilon)) + beta), parameters included in one launch.

    Arguments and errors as for `naive`, and an error where no C++ compiler is found; `output_dtype` is that of y, x's
    where it is None. A gradient reads x and dy twice: x and the parameters are saved.
    """
    a = checked(x, gamma, beta, mean, variance, epsilon, channel_axis, activation)
    dtype = jnp.dtype(output_dtype or a.x.dtype)
    if a.x.size == 0:
        return a.x.astype(dtype) + jnp.sum(sum(a[1:5]) * 0).astype(dtype)
    images, total, positions, last = channels.sizes(a.x.shape, a.channel_axis)
    computed = jnp.dtype(compute_dtype(*a[:5])).name
    last = last or positions == 1
    plan = channels.ChannelPlan(images, total, positions, last, 0, True, a.epsilon, activation, dtype.name, computed)
    return _differentiable(tuple(a[:5]), (plan, a.broadcast))


def _forward(arrays, asked, saves):
    x, gamma, beta, mean, variance = arrays
    y, _ = channels.forward(x, gamma, beta, (mean, variance), asked[0])
    return y, () if saves else None


def _backward(arrays, saved, dy, asked):
    """With a = sum(dz) and b = sum(dz h): dmean = -gamma r a, dvariance = -gamma r² b / 2."""
    x, gamma, beta, mean, variance = arrays
    plan = asked[0]
    dtype = jnp.dtype(plan.dtype)
    dx, weighted, summed = channels.backward(x, gamma, beta, (mean, variance), dy, plan, parameter_dtype=dtype)
    r = inverse_root(variance.astype(dtype), plan.epsilon)
    scale = gamma.astype(dtype) * r
    gradients = weighted, summed, -scale * summed, -0.5 * scale * r * weighted
    return dx, *(g.astype(array.dtype) for g, array in zip(gradients, arrays[1:], strict=True))


def _plain(arrays, asked):
    plan, lined_up = asked
    x, *parameters = arrays
    return plain_given(x, tuple(parameters), lined_up, plan.epsilon, plan.activation).astype(plan.output_dtype)


_differentiable = twice_differentiable(_forward, _backward, _plain)
