"""One fused kernel in Pallas Mosaic GPU for channels that fit on chip, in both layouts: read once, written once."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from normbench.errors import UserError
from normbench.kernels.batch_norm_training.arguments import Outputs, checked
from normbench.kernels.common.second_order import (
    none_for_running,
    of_first,
    plain_norm,
    twice_differentiable,
    without_running,
)
from normbench.kernels.common.targets import not_for_mosaic
from normbench.kernels.contexts import CAST_DTYPES, activation_of
from normbench.kernels.pallas.left_to_xla import TRAINING, few_that_wait, leaves_idle, moves_more, passes_of
from normbench.kernels.pallas.mosaic import columns, slabs
from normbench.kernels.pallas.mosaic.columns import LEAST_POSITIONS, ColumnsConfig, columns_of
from normbench.kernels.pallas.mosaic.plan import WARPGROUP, Plan, dtype_refusal
from normbench.kernels.pallas.mosaic.slabs import Slabs, element_bytes, slabs_of
from normbench.kernels.problem import Problem

LEAST_ELEMENTS = 512
"""Mean and 1 / deviation in float32 are then 0.8 % of a channel in bfloat16."""
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

    The variance is taken around the mean, of the channel of all images in shared memory, piece by piece where it does
    not fit. Gradients by hand: x, and mean and 1 / deviation in float32 are saved. On a CPU the kernel is interpreted,
    with races looked for.

    Raises:
      UserError: as `naive`, and for another dtype, or numbers of channels that bulk copies do not take where they come
        last.
    """
    a = checked(x, gamma, beta, running_mean, running_variance, epsilon, momentum, channel_axis, activation)
    plan = _plan(a.epsilon, activation, jnp.dtype(output_dtype or a.x.dtype).name, a.momentum)
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
    y, *moved = _differentiable((a.x.reshape(view), a.gamma, a.beta, running), (plan, first))
    return y.reshape(a.x.shape), *map(jax.lax.stop_gradient, moved)


def unsupported(problem: Problem, target: str) -> str | None:
    """The reason why the kernels cannot compute `problem` on `target`, or None."""
    if refused := not_for_mosaic(target):
        return refused
    plan, first = _asked(problem)
    dtypes = problem.dtype, *(problem.param_dtype,) * len(PARAMETERS)
    refused = _refusal(problem.shape, first, dtypes, plan, problem.pass_ != "forward")
    refused = refused or _few(problem.shape, first)
    if refused:
        return refused
    forward, backward = _cuts(problem)
    of_image = math.prod(problem.shape[2:])
    if isinstance(forward, Slabs) and of_image < WARPGROUP and not forward.runs.copied_in_bulk(problem.dtype):
        return f"{of_image} positions of an image; allowed for pallas_mosaic: {WARPGROUP} or more, of 128 at a time"
    return few_that_wait(problem, forward, backward)


def more(problem: Problem) -> str | None:
    """The reason why XLA moves less, or None."""
    return moves_more(problem, *passes_of(*_cuts(problem)), TRAINING)


def idle(problem: Problem) -> str | None:
    """The reason why half of the device would have nothing to do, or None."""
    return leaves_idle(problem, *_cuts(problem))


def _cuts(problem: Problem) -> tuple[Any, Any]:
    """How x is cut in each pass; None where it is not: it fits on the chip."""
    plan, first = _asked(problem)
    cuts = (_cut(problem.shape, first, problem.dtype, plan, backward) for backward in (False, True))
    forward, backward = (None if isinstance(cut, str) else cut for cut in cuts)
    return forward, backward


def _asked(problem: Problem) -> tuple[Plan, bool]:
    """What is computed, and whether channels come first."""
    dtype = CAST_DTYPES[problem.dtype] if problem.context == "cast" else problem.dtype
    plan = _plan(problem.epsilon, activation_of(problem.context), dtype, problem.option("momentum", 0.1))
    return plan, _first(problem.shape, problem.channel_axis % len(problem.shape))


def _plan(epsilon: float, activation: str, output_dtype: str, momentum: float) -> Plan:
    return Plan("batch_norm_training", epsilon, activation, output_dtype, momentum=momentum)


def _few(shape: tuple[int, ...], first: bool) -> str | None:
    """Why so few elements are left to XLA although the kernels take them."""
    elements = shape[0] * math.prod(shape[2:] if first else shape[1:-1])
    least = LEAST_ELEMENTS if first else LEAST_POSITIONS
    if elements < least:
        return f"{elements} elements of a channel; allowed for pallas_mosaic: {least} or more"
    return None


def _first(shape: tuple[int, ...], axis: int) -> bool:
    """Whether channels come first; of rank 2 they come last, too."""
    return axis == 1 and len(shape) > 2


def _refusal(shape: tuple[int, ...], first: bool, dtypes: tuple[str, ...], plan: Plan, backward: bool) -> str | None:
    named = zip(("x", *PARAMETERS, "y"), (*dtypes, plan.output_dtype), strict=True)
    cut = dtype_refusal(named) or _cut(shape, first, dtypes[0], plan, backward)
    return cut if isinstance(cut, str) else None


def _cut(shape: tuple[int, ...], first: bool, dtype: str, plan: Plan, backward: bool) -> Slabs | ColumnsConfig | str:
    """How the kernels share x out among programs, or why they do not."""
    if first:
        view = shape[0], shape[1], math.prod(shape[2:])
        return slabs_of(view, 0, element_bytes(dtype, plan.output_dtype, backward))
    tensors = (dtype, plan.output_dtype) if backward or plan.output_dtype != dtype else (dtype,)
    return columns_of(1, math.prod(shape[:-1]), shape[-1], 1, tensors)


def _forward(arrays, asked, saves):
    """x is (images, channels, positions), or (1, positions, channels); `asked` is the plan, and whether channels come
    first."""
    x, gamma, beta, running = arrays
    plan, first = asked
    cut = _cut(x.shape, first, x.dtype.name, plan, backward=False)
    if first:
        y, mean, r, *moved = slabs.forward(x, (gamma, beta), running, plan, cut)
    else:
        y, mean, r, *moved = columns.forward(x, gamma, beta, running, plan, cut)
    return (y, *moved), (mean, r) if saves else None


def _backward(arrays, saved, dy, asked):
    x, gamma, beta = arrays
    plan, first = asked
    kept = (x, gamma, beta, *saved)
    dtypes = x.dtype.name, gamma.dtype.name, beta.dtype.name, gamma.dtype.name, beta.dtype.name
    refused = _refusal(x.shape, first, dtypes, plan, backward=True)
    if refused:
        raise UserError(refused)
    kernels = slabs if first else columns
    return kernels.backward(kept, dy, plan, _cut(x.shape, first, x.dtype.name, plan, backward=True))


def _plain(arrays, asked):
    x, gamma, beta = arrays
    plan, first = asked
    parameters, axes = ((1, -1, 1), (0, 2)) if first else ((1, 1, -1), (0, 1))
    gamma, beta = gamma.reshape(parameters), beta.reshape(parameters)
    return plain_norm(x, gamma, beta, axes, plan.epsilon, plan.activation, plan.output_dtype)


_differentiable = twice_differentiable(
    _forward, _backward, _plain, keep=without_running, used=of_first, expand=none_for_running
)
