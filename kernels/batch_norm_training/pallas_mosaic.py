"""One fused kernel in Pallas Mosaic GPU for channels that fit on chip, in both layouts: read once, written once."""

import math
from functools import partial

import jax
import jax.numpy as jnp

from kernels.batch_norm_training.arguments import Outputs, checked
from kernels.contexts import CAST_DTYPES, activation_of
from kernels.pallas import mosaic_columns
from kernels.pallas.against_xla import TRAINING, moves_more
from kernels.pallas.mosaic_batch import TrainingPlan, backward, channel_refusal, forward
from kernels.pallas.mosaic_columns import ColumnsPlan
from kernels.pallas.mosaic_columns_config import ColumnsConfig, columns_config
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
      UserError: as `naive`, and for another dtype, or channels that do not fit.
    """
    a = checked(x, gamma, beta, running_mean, running_variance, epsilon, momentum, channel_axis, activation)
    plan = TrainingPlan(a.epsilon, a.momentum, activation, jnp.dtype(output_dtype or a.x.dtype).name)
    if a.x.size == 0:
        zero = jnp.sum(a.gamma * 0 + a.beta * 0).astype(plan.output_dtype)
        return a.updated(a.x.astype(plan.output_dtype) + zero, a.running_mean, a.running_variance)
    dtypes = tuple(array.dtype.name for array in a[:5])
    first = _first(a.x.shape, channel_axis % a.x.ndim)
    refused = _refusal(a.x.shape, first, dtypes, plan, backward=False)
    if refused:
        raise UserError(refused)
    running = jax.lax.stop_gradient((a.running_mean, a.running_variance))
    view = (*a.x.shape[:2], -1) if first else (1, -1, a.x.shape[-1])
    y, *moved = _differentiable(a.x.reshape(view), a.gamma, a.beta, running, plan, first)
    return y.reshape(a.x.shape), *map(jax.lax.stop_gradient, moved)


def unsupported(problem: Problem, target: str) -> str | None:
    """The reason why the kernels cannot compute `problem` on `target`, or None."""
    if target == "cpu":
        return "compiled for GPU targets only; a CPU checks it in interpret mode and never times it"
    if target not in TARGETS:
        return f"target {target}; Mosaic GPU needs the bulk copies of Hopper or newer ({', '.join(TARGETS[1:])})"
    dtype = CAST_DTYPES[problem.dtype] if problem.context == "cast" else problem.dtype
    plan = TrainingPlan(problem.epsilon, problem.option("momentum", 0.1), activation_of(problem.context), dtype)
    first = _first(problem.shape, problem.channel_axis % len(problem.shape))
    dtypes = problem.dtype, *(problem.param_dtype,) * len(PARAMETERS)
    refused = _refusal(problem.shape, first, dtypes, plan, problem.pass_ != "forward")
    return refused or moves_more(problem, 2, 3, TRAINING)


def _first(shape: tuple[int, ...], axis: int) -> bool:
    """Whether channels come first; of rank 2 they come last, too."""
    return axis == 1 and len(shape) > 2


def _refusal(
    shape: tuple[int, ...], first: bool, dtypes: tuple[str, ...], plan: TrainingPlan, backward: bool
) -> str | None:
    for name, value in zip(("x", *PARAMETERS, "y"), (*dtypes, plan.output_dtype), strict=True):
        if value not in DTYPES:
            return f"{name} is {value}; allowed for pallas_mosaic: {', '.join(DTYPES)}"
    if first:
        return channel_refusal(shape[0], math.prod(shape[2:]), dtypes[0], plan.output_dtype, backward)
    config = _columns(math.prod(shape[:-1]), shape[-1], dtypes[0], plan, backward)
    return config if isinstance(config, str) else None


def _columns(positions: int, channels: int, dtype: str, plan: TrainingPlan, backward: bool) -> ColumnsConfig | str:
    """How the kernels cut x where channels come last, or why they do not."""
    tensors = (dtype, plan.output_dtype) if backward or plan.output_dtype != dtype else (dtype,)
    return columns_config(1, positions, channels, 1, tensors)


def _columns_plan(plan: TrainingPlan) -> ColumnsPlan:
    return ColumnsPlan(plan.epsilon, plan.activation, plan.output_dtype, plan.momentum)


@partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _differentiable(x, gamma, beta, running, plan, first):
    return _forward(x, gamma, beta, running, plan, first)[0]


def _forward(x, gamma, beta, running, plan, first):
    """x is (images, channels, positions), or (1, positions, channels)."""
    if first:
        y, *moved, mean, r = forward(x, gamma, beta, running, plan)
    else:
        config = _columns(*x.shape[1:], x.dtype.name, plan, backward=False)
        y, mean, r, *moved = mosaic_columns.forward(x, gamma, beta, running, _columns_plan(plan), config)
    return (y, *moved), (x, gamma, beta, mean, r)


def _backward(plan, first, saved, cotangents):
    x, gamma, beta, *_ = saved
    dtypes = x.dtype.name, gamma.dtype.name, beta.dtype.name, gamma.dtype.name, beta.dtype.name
    refused = _refusal(x.shape, first, dtypes, plan, backward=True)
    if refused:
        raise UserError(refused)
    if first:
        return *backward(saved, cotangents[0], plan), None
    config = _columns(*x.shape[1:], x.dtype.name, plan, backward=True)
    return *mosaic_columns.backward(saved, cotangents[0], _columns_plan(plan), config), None


_differentiable.defvjp(_forward, _backward)
