"""One fused kernel in Pallas Triton where a channel fits on the chip, and two otherwise, forward and backward each."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from normbench.errors import UserError
from normbench.kernels.batch_norm_training.arguments import checked
from normbench.kernels.common.checks import residual_like
from normbench.kernels.common.second_order import none_for_running, plain_norm, twice_differentiable
from normbench.kernels.common.targets import not_for_triton
from normbench.kernels.pallas.hardware import MOST_ELEMENTS
from normbench.kernels.pallas.left_to_xla import LAST, TRAINING, WITHIN, moves_more
from normbench.kernels.pallas.triton import training_resident as batch_resident
from normbench.kernels.pallas.triton import training_streamed as batch_statistics
from normbench.kernels.pallas.triton.channel_tiles import view_of
from normbench.kernels.pallas.triton.training_resident import ResidentConfig, resident_config
from normbench.kernels.pallas.triton.training_shares import BatchPlan
from normbench.kernels.pallas.tuning import tuned
from normbench.kernels.problem import Problem


def pallas_triton(
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
    residual: jax.Array | None = None,
    output_dtype: str | None = None,
) -> tuple[Any, jax.Array, jax.Array]:
    """As `naive`; `output_dtype` is that of y, x's where it is None. With a residual, as x, z = x + residual is
    normalized, and (y, z) stands in the place of y.

    Where a channel fits into the registers of a program, x is read once, and x and dy once for a gradient; the variance
    is taken around the mean. Where none fits they are read twice, by one launch each: partial statistics are taken
    around a mean of the data and put together by Chan's formula. x, and mean and 1 / deviation in float32 are saved. On
    a CPU the kernels are interpreted: right, and very slow.

    Raises:
      UserError: also for more elements than 32-bit indices reach.
    """
    a = checked(x, gamma, beta, running_mean, running_variance, epsilon, momentum, channel_axis, activation)
    if a.x.size > MOST_ELEMENTS:
        raise UserError(f"x has {a.x.size} elements; allowed for pallas_triton: {MOST_ELEMENTS} (32-bit indices)")
    residual = residual_like(a.x, residual)
    dtype = jnp.dtype(output_dtype or a.x.dtype)
    if a.x.size == 0:
        y = a.x.astype(dtype) + jnp.sum(a.gamma * 0 + a.beta * 0).astype(dtype)
        y, mean, variance = a.updated(y, a.running_mean, a.running_variance)
        return (y if residual is None else (y, a.x + residual)), mean, variance
    view = view_of(a.x.shape, 1 if a.axes[-1] == a.x.ndim - 1 else a.x.ndim - 1)
    plan = BatchPlan(view, a.epsilon, a.momentum, activation, dtype.name, a.dtype.name)
    running = jax.lax.stop_gradient((a.running_mean, a.running_variance))
    terms = (a.x.reshape(-1), None if residual is None else residual.reshape(-1))
    y, z, *moved = _differentiable((*terms, a.gamma, a.beta, running), (plan, residual is not None))
    y, (mean, variance) = y.reshape(a.x.shape), map(jax.lax.stop_gradient, moved)
    return (y if z is None else (y, z.reshape(a.x.shape))), mean, variance


def unsupported(problem: Problem, target: str) -> str | None:
    """The reason why the kernels cannot compute `problem` on `target`, or None."""
    if refused := not_for_triton(target):
        return refused
    if math.prod(problem.shape) > MOST_ELEMENTS:
        return f"more than {MOST_ELEMENTS} elements; the kernels' indices are 32-bit"
    return None


def more(problem: Problem) -> str | None:
    """The reason why XLA moves less, or None."""
    walks = 2 if config_of(problem, "forward") else 3, 3 if config_of(problem, "backward") else 5
    last = view_of(problem.shape, problem.channel_axis).last
    return moves_more(problem, *walks, LAST if last else TRAINING, WITHIN)


def config_of(problem: Problem, pass_: str) -> ResidentConfig | None:
    """How the kernel of a pass, forward or backward, holds the channels of a problem; None: it reads them twice."""
    tensors = 1 if pass_ == "forward" else 2
    view, wide = view_of(problem.shape, problem.channel_axis), jnp.promote_types(problem.param_dtype, jnp.float32)
    return resident_config(view, problem.dtype, jnp.promote_types(problem.dtype, wide).name, tensors)


def _forward(arrays, asked, saves):
    """y, x + residual or None, and the new running statistics; the batch's mean and 1 / deviation."""
    x, residual, gamma, beta, running = arrays
    plan, terms = asked[0], (x,) if residual is None else (x, residual)
    config = resident_config(plan.view, x.dtype.name, plan.dtype, 1)
    if config:
        config = tuned(config, plan.view.key("batch_norm_training.forward", "on chip", x.dtype.name))
        y, *found = batch_resident.forward(terms, gamma, beta, running, plan, config)
    else:
        y, *found = batch_statistics.forward(terms, gamma, beta, running, plan)
    z = None if residual is None else found.pop(0)
    *moved, mean, r = found
    return (y, z, *moved), (mean, r) if saves else None


def _backward(kept, saved, cotangents, asked):
    plan, x = asked[0], kept[0]
    cotangents = tuple(cotangent for cotangent in cotangents if cotangent is not None)
    config = resident_config(plan.view, x.dtype.name, plan.dtype, 2)
    if config:
        config = tuned(config, plan.view.key("batch_norm_training.backward", "on chip", x.dtype.name))
        return tuple(batch_resident.backward((*kept, *saved), cotangents, plan, config))
    return tuple(batch_statistics.backward((*kept, *saved), cotangents, plan))


def _plain(kept, asked):
    (x, gamma, beta), (plan, added) = kept, asked
    view = plan.view
    if view.last:
        shape, parameters, axes = (view.spatial, view.channels), (1, -1), (0,)
    else:
        shape, parameters, axes = (view.images, view.channels, view.spatial), (1, -1, 1), (0, 2)
    gamma, beta = gamma.reshape(parameters), beta.reshape(parameters)
    y = plain_norm(x.reshape(shape), gamma, beta, axes, plan.epsilon, plan.activation, plan.output_dtype)
    return y.reshape(-1), x if added else None


def _kept(arrays, outputs):
    """Of what was normalized, and the parameters: running statistics are constants."""
    x, _, gamma, beta, _ = arrays
    return x if outputs[1] is None else outputs[1], gamma, beta


def _expanded(gradients, cotangents):
    dw, *of_parameters = gradients
    return dw, None if cotangents[1] is None else dw, *none_for_running(of_parameters, cotangents[1:])


_differentiable = twice_differentiable(
    _forward, _backward, _plain, keep=_kept, used=lambda cotangents: tuple(cotangents[:2]), expand=_expanded
)
