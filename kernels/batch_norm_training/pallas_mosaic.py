"""One fused kernel in Pallas Mosaic GPU where channels come first and fit: a channel is read once, written once."""

import math
from functools import partial

import jax
import jax.numpy as jnp

from kernels.batch_norm_training.arguments import Outputs, checked
from kernels.contexts import CAST_DTYPES, activation_of
from kernels.pallas.against_xla import TRAINING, moves_more
from kernels.pallas.mosaic_batch import TrainingPlan, backward, channel_refusal, forward
from kernels.pallas.mosaic_row_norm import DTYPES, TARGETS
from kernels.problem import Problem
from normbench.errors import UserError

PARAMETERS = ("gamma", "beta", "running_mean", "running_variance")


def pallas_mosaic(
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
    """As `naive`, of float32, bfloat16 or float16; `output_dtype` is that of y, x's where it is None.

    The variance is taken around the mean, of the channel of all images in shared memory. Gradients by hand: x, and
    mean and 1 / deviation in float32 are saved. On a CPU the kernel is interpreted, with races looked for.

    Raises:
      UserError: as `naive`, and for another dtype, channels that come last, or a channel that does not fit.
    """
    a = checked(x, gamma, beta, running_mean, running_variance, epsilon, momentum, channel_axis, activation)
    plan = TrainingPlan(a.epsilon, a.momentum, activation, jnp.dtype(output_dtype or a.x.dtype).name)
    if a.x.size == 0:
        zero = jnp.sum(a.gamma * 0 + a.beta * 0).astype(plan.output_dtype)
        return a.updated(a.x.astype(plan.output_dtype) + zero, a.running_mean, a.running_variance)
    dtypes = tuple(array.dtype.name for array in a[:5])
    refused = _refusal(a.x.shape, channel_axis % a.x.ndim, dtypes, plan, backward=False)
    if refused:
        raise UserError(refused)
    running = jax.lax.stop_gradient((a.running_mean, a.running_variance))
    y, *moved = _differentiable(a.x.reshape(*a.x.shape[:2], -1), a.gamma, a.beta, running, plan)
    return y.reshape(a.x.shape), *map(jax.lax.stop_gradient, moved)


def unsupported(problem: Problem, target: str) -> str | None:
    """The reason why the kernels cannot compute `problem` on `target`, or None."""
    if target == "cpu":
        return "compiled for GPU targets only; a CPU checks it in interpret mode and never times it"
    if target not in TARGETS:
        return f"target {target}; Mosaic GPU needs the bulk copies of Hopper or newer ({', '.join(TARGETS[1:])})"
    dtype = CAST_DTYPES[problem.dtype] if problem.context == "cast" else problem.dtype
    plan = TrainingPlan(problem.epsilon, problem.option("momentum", 0.1), activation_of(problem.context), dtype)
    axis = problem.channel_axis % len(problem.shape)
    dtypes = problem.dtype, *(problem.param_dtype,) * len(PARAMETERS)
    refused = _refusal(problem.shape, axis, dtypes, plan, problem.pass_ != "forward")
    return refused or moves_more(problem, 2, 3, TRAINING)


def _refusal(
    shape: tuple[int, ...], axis: int, dtypes: tuple[str, ...], plan: TrainingPlan, backward: bool
) -> str | None:
    for name, value in zip(("x", *PARAMETERS, "y"), (*dtypes, plan.output_dtype), strict=True):
        if value not in DTYPES:
            return f"{name} is {value}; allowed for pallas_mosaic: {', '.join(DTYPES)}"
    if axis != 1 or len(shape) == 2:
        return f"channels on axis {axis} of {len(shape)}; allowed for pallas_mosaic: 1 of 3 or more"
    return channel_refusal(shape[0], math.prod(shape[2:]), dtypes[0], plan.output_dtype, backward)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _differentiable(x, gamma, beta, running, plan):
    return forward(x, gamma, beta, running, plan)[:3]


def _forward(x, gamma, beta, running, plan):
    *outputs, mean, r = forward(x, gamma, beta, running, plan)
    return tuple(outputs), (x, gamma, beta, mean, r)


def _backward(plan, saved, cotangents):
    x = saved[0]
    refused = channel_refusal(x.shape[0], x.shape[2], x.dtype.name, plan.output_dtype, backward=True)
    if refused:
        raise UserError(refused)
    return *backward(saved, cotangents[0], plan), None


_differentiable.defvjp(_forward, _backward)
