"""One fused kernel in Pallas Triton: each group that fits is read once and written once, in both layouts."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from normbench.errors import UserError
from normbench.kernels.common.checks import compute_dtype, residual_like
from normbench.kernels.common.second_order import of_both_terms, plain_norm, twice_differentiable, what_was_normalized
from normbench.kernels.common.targets import not_for_triton
from normbench.kernels.group_norm.arguments import checked
from normbench.kernels.pallas.hardware import MOST_ELEMENTS
from normbench.kernels.pallas.left_to_xla import LAST, TRAINING, WITHIN, moves_more
from normbench.kernels.pallas.triton.channel_tiles import View
from normbench.kernels.pallas.triton.groups import GroupPlan, backward, forward
from normbench.kernels.pallas.triton.groups_config import WIDEST, GroupConfig, backward_config, forward_config
from normbench.kernels.problem import Problem

LEAST_IMAGE, FEW_IMAGES = 128, 4096
"""Elements, and images whose programs take no longer than a launch: group norm of 63149 images of 16 channels,
forward, is predicted for the H200 to take 5.4 times as long as XLA's best (the model's error: 1.6 times); of images of
240 to 1000 elements no line of the table takes longer than XLA."""


def pallas_triton(
    x: jax.Array,
    gamma: jax.Array,
    beta: jax.Array,
    epsilon: float = 1e-5,
    *,
    groups: int = 32,
    channel_axis: int = 1,
    activation: str = "none",
    residual: jax.Array | None = None,
    output_dtype: str | None = None,
) -> Any:
    """As `naive`; `output_dtype` is that of y, x's where it is None. With a residual, as x, z = x + residual is
    normalized, and (y, z) returned.

    The variance is taken around the mean, of groups in registers; groups that do not fit are streamed, with sums around
    the mean of their first tile. Gradients by hand: x, and mean and 1 / deviation in float32 are saved. On a CPU the
    kernel is interpreted: right, and very slow.

    Raises:
      UserError: also for more elements than 32-bit indices reach, and for a group of more than `WIDEST` channels.
    """
    a = checked(x, gamma, beta, epsilon, groups, channel_axis, activation)
    residual = residual_like(a.x, residual)
    dtype = jnp.dtype(output_dtype or a.x.dtype)
    reason = _refusal(a.x.shape, a.gamma.size // groups)
    if reason:
        raise UserError(f"x of shape {a.x.shape} in {groups} groups is not allowed for pallas_triton: {reason}")
    if a.x.size == 0:
        y = a.x.astype(dtype) + jnp.sum(a.gamma * 0 + a.beta * 0).astype(dtype)
        return y if residual is None else (y, a.x + residual)
    view = _view(a.x.shape, a.gamma.size, a.spatial == 1)
    plan = GroupPlan(view, groups, a.epsilon, activation, dtype.name, jnp.dtype(compute_dtype(*a[:3])).name)
    sides = None if residual is None else residual.reshape(-1)
    y, z = _differentiable((a.x.reshape(-1), sides, (a.gamma, a.beta)), (plan, residual is not None))
    y = y.reshape(a.x.shape)
    return y if z is None else (y, z.reshape(a.x.shape))


def unsupported(problem: Problem, target: str) -> str | None:
    """The reason why the kernel cannot compute `problem` on `target`, or None."""
    if refused := not_for_triton(target):
        return refused
    groups = problem.option("groups", 32) if problem.operator == "group_norm" else problem.channels
    return _refusal(problem.shape, problem.channels // groups)


def more(problem: Problem) -> str | None:
    """The reason why XLA moves less, or None."""
    forward, backward = (config_of(problem, pass_) for pass_ in ("forward", "backward"))
    passes = 2 if forward.resident else 3, 3 if backward.resident else 5
    return moves_more(problem, *passes, LAST if forward.view.last else TRAINING, WITHIN)


def idle(problem: Problem) -> str | None:
    """The reason to leave a problem to XLA where nobody predicted it: images too short for a warp each."""
    images, *others = problem.shape
    elements = math.prod(others)
    if images <= FEW_IMAGES or elements >= LEAST_IMAGE:
        return None
    return (
        f"images of {elements} elements, each in a program of its own; allowed for pallas_triton where nobody "
        f"predicted it: {LEAST_IMAGE} or more"
    )


def config_of(problem: Problem, pass_: str) -> GroupConfig:
    """How the kernel of a pass, forward or backward, cuts a problem of group norm or instance norm."""
    groups = problem.option("groups", 32) if problem.operator == "group_norm" else problem.channels
    view = _view(problem.shape, problem.channels, problem.channel_axis % len(problem.shape) != 1)
    if pass_ == "forward":
        return forward_config(view, groups, problem.dtype)
    wide_bytes = max(4, jnp.dtype(problem.dtype).itemsize, jnp.dtype(problem.param_dtype).itemsize)
    return backward_config(view, groups, problem.dtype, wide_bytes)


def _view(shape: tuple[int, ...], channels: int, last: bool) -> View:
    # One position: both layouts are the same, and channels are what is contiguous.
    spatial = math.prod(shape[1:]) // channels
    return View(shape[0], channels, spatial, last or spatial == 1)


def _refusal(shape: tuple[int, ...], each: int) -> str | None:
    if math.prod(shape) > MOST_ELEMENTS:
        return f"more than {MOST_ELEMENTS} elements; the kernel's indices are 32-bit"
    if each > WIDEST:
        return f"more than {WIDEST} channels in a group; a tile of them does not fit"
    return None


def _forward(arrays, asked, saves):
    x, residual, parameters = arrays
    terms = (x,) if residual is None else (x, residual)
    y, z, *statistics = forward(terms, *parameters, asked[0], save=saves)
    return (y, z), tuple(statistics) if saves else None


def _backward(kept, saved, cotangents, asked):
    w, parameters = kept
    cotangents = tuple(cotangent for cotangent in cotangents if cotangent is not None)
    dw, *gradients = backward((w, *parameters, *saved), cotangents, asked[0])
    return dw, tuple(gradients)


def _plain(kept, asked):
    (x, (gamma, beta)), (plan, added) = kept, asked
    view, each = plan.view, plan.view.channels // plan.groups
    if view.last:
        shape, parameters, axes = (view.images, view.spatial, plan.groups, each), (1, 1, plan.groups, each), (1, 3)
    else:
        shape, parameters, axes = (view.images, plan.groups, each, view.spatial), (1, plan.groups, each, 1), (2, 3)
    gamma, beta = gamma.reshape(parameters), beta.reshape(parameters)
    y = plain_norm(x.reshape(shape), gamma, beta, axes, plan.epsilon, plan.activation, plan.output_dtype)
    return y.reshape(-1), x if added else None


_differentiable = twice_differentiable(_forward, _backward, _plain, keep=what_was_normalized, expand=of_both_terms)
