"""One fused kernel in Pallas Mosaic GPU where channels come first: a channel of an image is read once, written once."""

import math
from functools import partial

import jax
import jax.numpy as jnp

from kernels.batch_norm.arguments import channels_of
from kernels.contexts import CAST_DTYPES, activation_of
from kernels.group_norm.arguments import checked
from kernels.pallas.against_xla import TRAINING, moves_more
from kernels.pallas.mosaic_channels import ChannelsPlan
from kernels.pallas.mosaic_config import row_refusal, shared_refusal
from kernels.pallas.mosaic_instances import backward, forward, shared_bytes
from kernels.pallas.mosaic_row_norm import DTYPES, TARGETS
from kernels.problem import Problem
from normbench.errors import UserError

LEAST_POSITIONS = 512
"""Mean and 1 / deviation, or two sums, in float32 are then at most 0.8 % of a channel in bfloat16."""


def pallas_mosaic(
    x: jax.Array,
    gamma: jax.Array,
    beta: jax.Array,
    epsilon: float = 1e-5,
    *,
    channel_axis: int = 1,
    activation: str = "none",
    output_dtype: str | None = None,
) -> jax.Array:
    """As `naive`, of float32, bfloat16 or float16; `output_dtype` is that of y, x's where it is None.

    The variance is taken around the mean, of the channel in shared memory. Gradients by hand: x, and mean and
    1 / deviation in float32 are saved. On a CPU the kernel is interpreted, with races looked for.

    Raises:
      UserError: as `naive`, and for another dtype, channels that come last, or positions that do not fit.
    """
    x, axis, _ = channels_of(x, channel_axis)
    a = checked(x, gamma, beta, epsilon, x.shape[axis], channel_axis, activation)
    plan = ChannelsPlan(a.epsilon, activation, jnp.dtype(output_dtype or x.dtype).name)
    if x.size == 0:
        return x.astype(plan.output_dtype) + jnp.sum(a.gamma * 0 + a.beta * 0).astype(plan.output_dtype)
    dtypes = x.dtype.name, a.gamma.dtype.name, a.beta.dtype.name
    refused = _refusal(x.shape, axis, dtypes, plan, backward=False)
    if refused:
        raise UserError(refused)
    return _differentiable(x.reshape(*x.shape[:2], -1), a.gamma, a.beta, plan).reshape(x.shape)


def unsupported(problem: Problem, target: str) -> str | None:
    """The reason why the kernel cannot compute `problem` on `target`, or None."""
    if target == "cpu":
        return "compiled for GPU targets only; a CPU checks it in interpret mode and never times it"
    if target not in TARGETS:
        return f"target {target}; Mosaic GPU needs the bulk copies of Hopper or newer ({', '.join(TARGETS[1:])})"
    dtype = CAST_DTYPES[problem.dtype] if problem.context == "cast" else problem.dtype
    plan = ChannelsPlan(problem.epsilon, activation_of(problem.context), dtype)
    axis = problem.channel_axis % len(problem.shape)
    refused = _refusal(problem.shape, axis, (problem.dtype, problem.param_dtype), plan, problem.pass_ != "forward")
    return refused or moves_more(problem, 2, 3, TRAINING)


def _refusal(
    shape: tuple[int, ...], axis: int, dtypes: tuple[str, ...], plan: ChannelsPlan, backward: bool
) -> str | None:
    for name, value in zip(("x", "y", "gamma", "beta"), (dtypes[0], plan.output_dtype, *dtypes[1:]), strict=False):
        if value not in DTYPES:
            return f"{name} is {value}; allowed for pallas_mosaic: {', '.join(DTYPES)}"
    if axis != 1:
        return f"channels on axis {axis} of {len(shape)}; allowed for pallas_mosaic: 1"
    positions = math.prod(shape[2:])
    if positions < LEAST_POSITIONS:
        return f"{positions} positions of a channel; allowed for pallas_mosaic: {LEAST_POSITIONS} or more"
    return row_refusal(positions) or shared_refusal(shared_bytes(positions, dtypes[0], plan.output_dtype, backward))


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _differentiable(x, gamma, beta, plan):
    return forward(x, gamma, beta, plan)[0]


def _forward(x, gamma, beta, plan):
    y, mean, r = forward(x, gamma, beta, plan)
    return y, (x, gamma, beta, mean, r)


def _backward(plan, saved, dy):
    x, gamma, beta, *_ = saved
    dtypes = x.dtype.name, gamma.dtype.name, beta.dtype.name
    refused = _refusal(x.shape, 1, dtypes, plan, backward=True)
    if refused:
        raise UserError(refused)
    return backward(saved, dy, plan)


_differentiable.defvjp(_forward, _backward)
