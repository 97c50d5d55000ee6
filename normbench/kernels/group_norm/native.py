"""A kernel in C++ for the CPU, for both layouts, by all threads."""

import math

import jax
import jax.numpy as jnp

from normbench.kernels.common.checks import compute_dtype
from normbench.kernels.common.second_order import twice_differentiable
from normbench.kernels.group_norm.arguments import checked
from normbench.kernels.native import channels
from normbench.kernels.native.rows import row_norm


def native(
    x: jax.Array,
    gamma: jax.Array,
    beta: jax.Array,
    epsilon: float = 1e-5,
    *,
    groups: int = 32,
    channel_axis: int = 1,
    activation: str = "none",
    output_dtype: str | None = None,
) -> jax.Array:
    """As `naive`, with the mean in two numbers; `output_dtype` is that of y, x's where it is None. A gradient by hand
    from x, mean and 1 / deviation.

    Raises:
      UserError: also where no C++ compiler is found.
    """
    a = checked(x, gamma, beta, epsilon, groups, channel_axis, activation)
    dtype = jnp.dtype(output_dtype or a.x.dtype)
    if a.x.size == 0:
        return a.x.astype(dtype) + jnp.sum(a.gamma * 0 + a.beta * 0).astype(dtype)
    images, total, positions, last = channels.sizes(a.x.shape, channel_axis)
    if positions == 1:  # a group is a row of what is contiguous
        rows = images * groups, math.prod(a.x.shape) // (images * groups)
        y = row_norm(
            a.x,
            rows,
            (a.gamma, a.beta),
            activation,
            centred=True,
            epsilon=a.epsilon,
            period=groups,
            output_dtype=dtype.name,
        )
        assert isinstance(y, jax.Array)  # without a residual there is no z
        return y
    computed = jnp.dtype(compute_dtype(*a[:3])).name
    plan = channels.ChannelPlan(
        images, total, positions, last, groups, False, a.epsilon, activation, dtype.name, computed
    )
    return _differentiable((a.x, a.gamma, a.beta), plan)


def _forward(arrays, plan, saves):
    y, statistics = channels.forward(*arrays, (), plan)
    return y, statistics if saves else None


def _backward(arrays, saved, dy, plan):
    return tuple(channels.backward(*arrays, saved, dy, plan))


_differentiable = twice_differentiable(_forward, _backward, channels.plain)
