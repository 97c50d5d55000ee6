"""A kernel in C++ for the CPU, for both layouts, by all threads."""

import jax
import jax.numpy as jnp

from normbench.kernels.batch_norm_training.arguments import Outputs, checked
from normbench.kernels.common.second_order import none_for_running, of_first, twice_differentiable, without_running
from normbench.kernels.native import channels


def native(
    x: jax.Array,
    gamma: jax.Array,
    beta: jax.Array,
    running_mean: jax.Array,
    running_variance: jax.Array,
    epsilon: float = 1e-5,
    *,
    momentum: float = 0.1,
    channel_axis: int = 1,
    activation: str = "none",
    output_dtype: str | None = None,
) -> Outputs:
    """As `naive`, with the mean in two numbers; `output_dtype` is that of y, x's where it is None. The running
    statistics move in the same launch. A gradient by hand from x, mean and 1 / deviation.

    Raises:
      UserError: also where no C++ compiler is found.
    """
    a = checked(x, gamma, beta, running_mean, running_variance, epsilon, momentum, channel_axis, activation)
    dtype = jnp.dtype(output_dtype or a.x.dtype)
    if a.x.size == 0:
        zero = jnp.sum(a.gamma * 0 + a.beta * 0).astype(dtype)
        return a.updated(a.x.astype(dtype) + zero, a.running_mean, a.running_variance)
    images, total, positions, last = channels.sizes(a.x.shape, channel_axis)
    last = last or positions == 1
    plan = channels.ChannelPlan(
        images, total, positions, last, 0, False, a.epsilon, activation, dtype.name, jnp.dtype(a.dtype).name, a.momentum
    )
    running = jax.lax.stop_gradient((a.running_mean, a.running_variance))
    y, *moved = _differentiable((a.x, a.gamma, a.beta, running), plan)
    return y, *map(jax.lax.stop_gradient, moved)


def _forward(arrays, plan, saves):
    y, statistics, *moved = channels.forward(*arrays, plan)
    return (y, *moved), statistics if saves else None


def _backward(arrays, saved, dy, plan):
    return tuple(channels.backward(*arrays, saved, dy, plan))


_differentiable = twice_differentiable(
    _forward,
    _backward,
    channels.plain,
    keep=without_running,
    used=of_first,
    expand=none_for_running,
)
