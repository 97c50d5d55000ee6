"""One fused kernel in Pallas Mosaic GPU for channels that fit on chip, in both layouts: read once, written once."""

import math

import jax
import jax.numpy as jnp

from normbench.errors import UserError
from normbench.kernels.batch_norm_training.arguments import Outputs, checked
from normbench.kernels.contexts import CAST_DTYPES, activation_of
from normbench.kernels.pallas.hardware import not_for_mosaic
from normbench.kernels.pallas.left_to_xla import TRAINING, left_to_xla
from normbench.kernels.pallas.mosaic import (
    columns as mosaic_any_columns,
)
from normbench.kernels.pallas.mosaic import (
    columns_backward as mosaic_any_columns_backward,
)
from normbench.kernels.pallas.mosaic import (
    slabs as mosaic_slabs,
)
from normbench.kernels.pallas.mosaic import (
    slabs_backward as mosaic_slabs_backward,
)
from normbench.kernels.pallas.mosaic.columns_config import LEAST_POSITIONS, AnyColumns, ColumnsConfig, columns_of
from normbench.kernels.pallas.mosaic.exact import batch as mosaic_batch
from normbench.kernels.pallas.mosaic.exact import columns as mosaic_columns
from normbench.kernels.pallas.mosaic.exact.batch import LEAST_ELEMENTS, TrainingPlan, channel_refusal
from normbench.kernels.pallas.mosaic.exact.columns import ColumnsPlan
from normbench.kernels.pallas.mosaic.limits import WARPGROUP
from normbench.kernels.pallas.mosaic.row_norm import DTYPES
from normbench.kernels.pallas.mosaic.slabs import SlabPlan, Slabs, element_bytes, slabs_of
from normbench.kernels.pallas.second_order import (
    none_for_running,
    of_first,
    plain_norm,
    twice_differentiable,
    without_running,
)
from normbench.kernels.problem import Problem

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
    y, *moved = _differentiable((a.x.reshape(view), a.gamma, a.beta, running), (plan, first))
    return y.reshape(a.x.shape), *map(jax.lax.stop_gradient, moved)


def unsupported(problem: Problem, target: str) -> str | None:
    """The reason why the kernels cannot compute `problem` on `target`, or None."""
    if refused := not_for_mosaic(target):
        return refused
    dtype = CAST_DTYPES[problem.dtype] if problem.context == "cast" else problem.dtype
    plan = TrainingPlan(problem.epsilon, problem.option("momentum", 0.1), activation_of(problem.context), dtype)
    first = _first(problem.shape, problem.channel_axis % len(problem.shape))
    dtypes = problem.dtype, *(problem.param_dtype,) * len(PARAMETERS)
    refused = _refusal(problem.shape, first, dtypes, plan, problem.pass_ != "forward")
    refused = refused or _few(problem.shape, first)
    if refused:
        return refused
    cuts = [_cut(problem.shape, first, problem.dtype, plan, backward) for backward in (False, True)]
    forward, backward = (None if isinstance(cut, str) else cut for cut in cuts)
    of_image = math.prod(problem.shape[2:])
    if isinstance(forward, Slabs) and of_image < WARPGROUP:
        return f"{of_image} positions of an image; allowed for pallas_mosaic: {WARPGROUP} or more, of 128 at a time"
    return left_to_xla(problem, forward, backward, TRAINING)


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


def _refusal(
    shape: tuple[int, ...], first: bool, dtypes: tuple[str, ...], plan: TrainingPlan, backward: bool
) -> str | None:
    for name, value in zip(("x", *PARAMETERS, "y"), (*dtypes, plan.output_dtype), strict=True):
        if value not in DTYPES:
            return f"{name} is {value}; allowed for pallas_mosaic: {', '.join(DTYPES)}"
    cut = _cut(shape, first, dtypes[0], plan, backward)
    return cut if isinstance(cut, str) else None


def _cut(
    shape: tuple[int, ...], first: bool, dtype: str, plan: TrainingPlan, backward: bool
) -> Slabs | ColumnsConfig | AnyColumns | str | None:
    """How the kernels cut x, or why they do not; None: in the channels of whole warpgroups, channels first."""
    if not first:
        return _columns(math.prod(shape[:-1]), shape[-1], dtype, plan, backward)
    return None if _whole(shape, dtype, plan, backward) else _slabs(shape, dtype, plan, backward)


def _whole(shape: tuple[int, ...], dtype: str, plan: TrainingPlan, backward: bool) -> bool:
    """Whether the kernels for whole warpgroups take x, channels first."""
    return not channel_refusal(shape[0], math.prod(shape[2:]), dtype, plan.output_dtype, backward)


def _slabs(shape: tuple[int, ...], dtype: str, plan: TrainingPlan, backward: bool) -> Slabs | str:
    """How the kernels for any number of positions cut x, channels first, or why they do not."""
    view = shape[0], shape[1], math.prod(shape[2:])
    return slabs_of(view, 0, element_bytes(dtype, plan.output_dtype, backward))


def _slab_plan(plan: TrainingPlan) -> SlabPlan:
    return SlabPlan("batch_norm_training", plan.epsilon, plan.activation, plan.output_dtype, momentum=plan.momentum)


def _columns(
    positions: int, channels: int, dtype: str, plan: TrainingPlan, backward: bool
) -> ColumnsConfig | AnyColumns | str:
    """How the kernels cut x where channels come last, or why they do not."""
    tensors = (dtype, plan.output_dtype) if backward or plan.output_dtype != dtype else (dtype,)
    return columns_of(1, positions, channels, 1, tensors)


def _columns_plan(plan: TrainingPlan) -> ColumnsPlan:
    return ColumnsPlan(plan.epsilon, plan.activation, plan.output_dtype, plan.momentum)


def _forward(arrays, asked, saves):
    """x is (images, channels, positions), or (1, positions, channels); `asked` is the plan, and whether channels come
    first."""
    x, gamma, beta, running = arrays
    plan, first = asked
    if first and _whole(x.shape, x.dtype.name, plan, backward=False):
        y, *moved, mean, r = mosaic_batch.forward(x, gamma, beta, running, plan)
    elif first:
        slabs = _slabs(x.shape, x.dtype.name, plan, backward=False)
        y, mean, r, *moved = mosaic_slabs.forward(x, (gamma, beta), running, _slab_plan(plan), slabs)
    else:
        config = _columns(*x.shape[1:], x.dtype.name, plan, backward=False)
        kernel = mosaic_any_columns if isinstance(config, AnyColumns) else mosaic_columns
        y, mean, r, *moved = kernel.forward(x, gamma, beta, running, _columns_plan(plan), config)
    return (y, *moved), (mean, r) if saves else None


def _backward(arrays, saved, dy, asked):
    x, gamma, beta = arrays
    plan, first = asked
    kept = (x, gamma, beta, *saved)
    dtypes = x.dtype.name, gamma.dtype.name, beta.dtype.name, gamma.dtype.name, beta.dtype.name
    refused = _refusal(x.shape, first, dtypes, plan, backward=True)
    if refused:
        raise UserError(refused)
    if first and _whole(x.shape, x.dtype.name, plan, backward=True):
        return tuple(mosaic_batch.backward(kept, dy, plan))
    if first:
        slabs = _slabs(x.shape, x.dtype.name, plan, backward=True)
        return tuple(mosaic_slabs_backward.backward(kept, dy, _slab_plan(plan), slabs))
    config = _columns(*x.shape[1:], x.dtype.name, plan, backward=True)
    kernel = mosaic_any_columns_backward if isinstance(config, AnyColumns) else mosaic_columns
    return tuple(kernel.backward(kept, dy, _columns_plan(plan), config))


def _plain(arrays, asked):
    x, gamma, beta = arrays
    plan, first = asked
    parameters, axes = ((1, -1, 1), (0, 2)) if first else ((1, 1, -1), (0, 1))
    gamma, beta = gamma.reshape(parameters), beta.reshape(parameters)
    return plain_norm(x, gamma, beta, axes, plan.epsilon, plan.activation, plan.output_dtype)


_differentiable = twice_differentiable(
    _forward, _backward, _plain, keep=without_running, used=of_first, expand=none_for_running
)
