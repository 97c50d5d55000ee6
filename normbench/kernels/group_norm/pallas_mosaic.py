"""One fused kernel in Pallas Mosaic GPU: each group is read once and written once, in both layouts."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from normbench.errors import UserError
from normbench.kernels.common.second_order import plain_norm, twice_differentiable
from normbench.kernels.common.targets import not_for_mosaic
from normbench.kernels.contexts import CAST_DTYPES, activation_of
from normbench.kernels.group_norm.arguments import checked
from normbench.kernels.pallas.left_to_xla import LAST, TRAINING, few_that_wait, leaves_idle, moves_more, passes_of
from normbench.kernels.pallas.mosaic import columns, slabs
from normbench.kernels.pallas.mosaic.columns import LEAST_POSITIONS, ColumnsConfig, columns_of
from normbench.kernels.pallas.mosaic.plan import Plan, dtype_refusal
from normbench.kernels.pallas.mosaic.slabs import Slabs, element_bytes, slabs_of
from normbench.kernels.problem import Problem

LEAST_ELEMENTS = 512
"""Mean and 1 / deviation in float32 are then at most 0.8 % of a group in bfloat16, and a thread has four elements."""


def pallas_mosaic(
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
    """As `naive`, of float32, bfloat16 or float16; `output_dtype` is that of y, x's where it is None.

    The variance is taken around the mean, of the group in shared memory, piece by piece where it does not fit. The
    gradients are by hand: x, and mean and 1 / deviation in float32 are saved. On a CPU the kernel is interpreted, with
    races looked for.

    Raises:
      UserError: as `naive`, and for another dtype, or numbers of channels that bulk copies do not take where they come
        last.
    """
    a = checked(x, gamma, beta, epsilon, groups, channel_axis, activation)
    x = a.x
    plan = Plan("group_norm", a.epsilon, activation, jnp.dtype(output_dtype or x.dtype).name)
    if x.size == 0:
        return x.astype(plan.output_dtype) + jnp.sum(a.gamma * 0 + a.beta * 0).astype(plan.output_dtype)
    axis, dtypes = channel_axis % x.ndim, (x.dtype.name, a.gamma.dtype.name, a.beta.dtype.name)
    refused = _refusal(x.shape, axis, groups, dtypes, plan, backward=False)
    if refused:
        raise UserError(refused)
    if axis == 1:
        return _channels_first((x.reshape(*x.shape[:2], -1), a.gamma, a.beta), (groups, plan)).reshape(x.shape)
    whole = x.reshape(x.shape[0], -1, x.shape[-1])
    return _channels_last((whole, a.gamma, a.beta), (groups, plan)).reshape(x.shape)


def unsupported(problem: Problem, target: str) -> str | None:
    """The reason why the kernel cannot compute `problem`, of group norm or instance norm, on `target`, or None."""
    if refused := not_for_mosaic(target):
        return refused
    plan, groups, axis = _asked(problem)
    dtypes = problem.dtype, problem.param_dtype
    refused = _refusal(problem.shape, axis, groups, dtypes, plan, problem.pass_ != "forward")
    refused = refused or _few(problem.shape, axis, groups)
    if refused:
        return refused
    return few_that_wait(problem, *_cuts(problem))


def more(problem: Problem) -> str | None:
    """The reason why XLA moves less, or None."""
    first = problem.channel_axis % len(problem.shape) == 1
    return moves_more(problem, *passes_of(*_cuts(problem)), TRAINING if first else LAST)


def idle(problem: Problem) -> str | None:
    """The reason why half of the device would have nothing to do, or None."""
    return leaves_idle(problem, *_cuts(problem))


def _cuts(problem: Problem) -> tuple[Any, Any]:
    """How x is cut in each pass; None where it is not: it fits on the chip."""
    plan, groups, axis = _asked(problem)
    cuts = (_cut(problem.shape, axis, groups, problem.dtype, plan, backward) for backward in (False, True))
    forward, backward = (None if isinstance(cut, str) else cut for cut in cuts)
    return forward, backward


def _asked(problem: Problem) -> tuple[Plan, int, int]:
    """What is computed, the number of groups, and the axis of the channels."""
    dtype = CAST_DTYPES[problem.dtype] if problem.context == "cast" else problem.dtype
    plan = Plan("group_norm", problem.epsilon, activation_of(problem.context), dtype)
    groups = problem.option("groups", 32) if problem.operator == "group_norm" else problem.channels
    return plan, groups, problem.channel_axis % len(problem.shape)


def _few(shape: tuple[int, ...], axis: int, groups: int) -> str | None:
    """Why so few elements are left to XLA although the kernels take them."""
    positions, each = math.prod(shape[2:] if axis == 1 else shape[1:-1]), shape[axis] // groups
    if positions < LEAST_POSITIONS or positions * each < LEAST_ELEMENTS * (axis == 1):
        return (
            f"{positions} positions of a channel, {each} channels of a group; allowed for pallas_mosaic: "
            f"{LEAST_POSITIONS} positions or more, and {LEAST_ELEMENTS} of a group where channels come first"
        )
    return None


def _refusal(
    shape: tuple[int, ...], axis: int, groups: int, dtypes: tuple[str, ...], plan: Plan, backward: bool
) -> str | None:
    named = zip(("x", "y", "gamma", "beta"), (dtypes[0], plan.output_dtype, *dtypes[1:]), strict=False)
    cut = dtype_refusal(named) or _cut(shape, axis, groups, dtypes[0], plan, backward)
    return cut if isinstance(cut, str) else None


def _cut(
    shape: tuple[int, ...], axis: int, groups: int, dtype: str, plan: Plan, backward: bool
) -> Slabs | ColumnsConfig | str:
    """How the kernels share x out among programs, or why they do not."""
    each = shape[axis] // groups
    if axis == 1:
        view = shape[0], shape[1], math.prod(shape[2:])
        return slabs_of(view, each, element_bytes(dtype, plan.output_dtype, backward))
    tensors = (dtype, plan.output_dtype) if backward or plan.output_dtype != dtype else (dtype,)
    return columns_of(shape[0], math.prod(shape[1:-1]), shape[-1], each, tensors)


def _first_forward(arrays, asked, saves):
    """Of channels first; `asked` is the number of groups and the plan."""
    x, gamma, beta = arrays
    groups, plan = asked
    cut = _cut(x.shape, 1, groups, x.dtype.name, plan, backward=False)
    y, mean, r = slabs.forward(x, (gamma, beta), (), plan, cut)
    return y, (mean, r) if saves else None


def _first_backward(arrays, saved, dy, asked):
    return slabs.backward((*arrays, *saved), dy, asked[1], _backward_cut(arrays, 1, *asked))


def _first_plain(arrays, asked):
    x, *parameters = arrays
    groups, plan = asked
    images, channels, positions = x.shape
    each = channels // groups
    gamma, beta = (p.reshape(1, groups, each, 1) for p in parameters)
    grouped = x.reshape(images, groups, each, positions)
    y = plain_norm(grouped, gamma, beta, (2, 3), plan.epsilon, plan.activation, plan.output_dtype)
    return y.reshape(x.shape)


_channels_first = twice_differentiable(_first_forward, _first_backward, _first_plain)


def _last_forward(arrays, asked, saves):
    """Of channels last."""
    x, gamma, beta = arrays
    groups, plan = asked
    cut = _cut(x.shape, 2, groups, x.dtype.name, plan, backward=False)
    y, mean, r = columns.forward(x, gamma, beta, (), plan, cut)
    return y, (mean, r) if saves else None


def _last_backward(arrays, saved, dy, asked):
    return columns.backward((*arrays, *saved), dy, asked[1], _backward_cut(arrays, 2, *asked))


def _last_plain(arrays, asked):
    x, *parameters = arrays
    groups, plan = asked
    images, positions, channels = x.shape
    each = channels // groups
    gamma, beta = (p.reshape(1, 1, groups, each) for p in parameters)
    grouped = x.reshape(images, positions, groups, each)
    y = plain_norm(grouped, gamma, beta, (1, 3), plan.epsilon, plan.activation, plan.output_dtype)
    return y.reshape(x.shape)


_channels_last = twice_differentiable(_last_forward, _last_backward, _last_plain)


def _backward_cut(arrays: tuple, axis: int, groups: int, plan: Plan) -> Any:
    """How the kernels share x and dy out; raises UserError where they do not."""
    x, gamma, beta = arrays
    refused = _refusal(x.shape, axis, groups, (x.dtype.name, gamma.dtype.name, beta.dtype.name), plan, backward=True)
    if refused:
        raise UserError(refused)
    return _cut(x.shape, axis, groups, x.dtype.name, plan, backward=True)
