"""One fused kernel in Pallas Mosaic GPU: bulk copies bring x to shared memory once and take y away once."""

import math
from functools import partial

import jax
import jax.numpy as jnp

from kernels.batch_norm.arguments import checked
from kernels.contexts import CAST_DTYPES, activation_of
from kernels.pallas import mosaic_channels, mosaic_channels_backward, mosaic_positions
from kernels.pallas.against_xla import INFERENCE, moves_more
from kernels.pallas.mosaic_channels import ChannelsPlan
from kernels.pallas.mosaic_channels_config import (
    backward_shared_bytes,
    channels_refusal,
    forward_shared_bytes,
    tile_positions,
)
from kernels.pallas.mosaic_config import shared_refusal
from kernels.pallas.mosaic_positions import positions_refusal
from kernels.pallas.mosaic_row_norm import DTYPES, TARGETS
from kernels.problem import Problem
from normbench.errors import UserError


def pallas_mosaic(
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
    """y = act((x - mean) * (gamma / sqrt(variance + epsilon)) + beta) in one launch.

    Arguments as for `naive`, of float32, bfloat16 or float16; `output_dtype` is that of y, x's where it is None. A
    gradient reads x and dy once: x and the parameters are saved. On a CPU the kernels are interpreted, with races
    looked for.

    Raises:
      UserError: as `naive`, and for another dtype, or numbers of channels or positions that do not fit.
    """
    a = checked(x, gamma, beta, mean, variance, epsilon, channel_axis, activation)
    plan = ChannelsPlan(a.epsilon, activation, jnp.dtype(output_dtype or a.x.dtype).name)
    if a.x.size == 0:
        return a.x.astype(plan.output_dtype) + jnp.sum(sum(a[1:5]) * 0).astype(plan.output_dtype)
    dtypes = tuple(parameter.dtype.name for parameter in a[1:5])
    refused = _refusal(a.x.shape, a.channel_axis, a.x.dtype.name, dtypes, plan, backward=False)
    if refused:
        raise UserError(refused)
    return _differentiable(a.x.reshape(_view(a.x.shape, a.channel_axis)), *a[1:5], plan).reshape(a.x.shape)


def unsupported(problem: Problem, target: str) -> str | None:
    """The reason why the kernel cannot compute `problem` on `target`, or None."""
    if target == "cpu":
        return "compiled for GPU targets only; a CPU checks it in interpret mode and never times it"
    if target not in TARGETS:
        return f"target {target}; Mosaic GPU needs the bulk copies of Hopper or newer ({', '.join(TARGETS[1:])})"
    dtype = CAST_DTYPES[problem.dtype] if problem.context == "cast" else problem.dtype
    plan = ChannelsPlan(problem.epsilon, activation_of(problem.context), dtype)
    axis, backward = problem.channel_axis % len(problem.shape), problem.pass_ != "forward"
    refused = _refusal(problem.shape, axis, problem.dtype, (problem.param_dtype,) * 4, plan, backward)
    return refused or moves_more(problem, 2, 3, INFERENCE)


def _view(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """(positions, channels), or (images, channels, positions) where channels come first."""
    if axis == len(shape) - 1:
        return math.prod(shape[:-1]), shape[-1]
    return shape[0], shape[1], math.prod(shape[2:])


def _refusal(
    shape: tuple[int, ...], axis: int, dtype: str, param_dtypes: tuple[str, ...], plan: ChannelsPlan, backward: bool
) -> str | None:
    for name, value in (("x", dtype), ("y", plan.output_dtype), *(("a parameter", p) for p in param_dtypes)):
        if value not in DTYPES:
            return f"{name} is {value}; allowed for pallas_mosaic: {', '.join(DTYPES)}"
    view = _view(shape, axis)
    if len(view) == 3:
        return positions_refusal(view[2])
    rows, channels = view
    needed_bytes = backward_shared_bytes if backward else forward_shared_bytes
    return channels_refusal(rows, channels, param_dtypes) or shared_refusal(
        needed_bytes(tile_positions(rows, channels) * channels, dtype, param_dtypes, plan.output_dtype)
    )


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def _differentiable(x, gamma, beta, mean, variance, plan):
    forward = mosaic_channels.forward if x.ndim == 2 else mosaic_positions.forward
    return forward(x, (gamma, beta, mean, variance), plan)


def _forward(*arguments):
    return _differentiable(*arguments), arguments[:5]


def _backward(plan, saved, dy):
    x, *parameters = saved
    dtypes = tuple(parameter.dtype.name for parameter in parameters)
    refused = _refusal(x.shape, 1, x.dtype.name, dtypes, plan, backward=True)
    if refused:
        raise UserError(refused)
    backward = mosaic_channels_backward.backward if x.ndim == 2 else mosaic_positions.backward
    return backward(saved, dy, plan)


_differentiable.defvjp(_forward, _backward)
