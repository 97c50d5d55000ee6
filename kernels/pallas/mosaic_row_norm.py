"""Layer norm and RMS norm in Mosaic GPU, with the residual and the activation in, and a gradient by hand."""

import math
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp

from kernels.pallas.mosaic_config import row_refusal, shared_refusal
from kernels.pallas.mosaic_rows import MosaicPlan, forward, forward_shared_bytes
from kernels.pallas.mosaic_rows_backward import backward, backward_shared_bytes
from kernels.problem import Problem
from normbench.errors import UserError

DTYPES = ("float32", "bfloat16", "float16")
TARGETS = ("gpu", "h100", "h200", "b200")


def mosaic_row_norm(
    x: jax.Array, rows: tuple[int, int], parameters: Sequence[jax.Array], plan: MosaicPlan, residual: jax.Array | None
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """y, or (y, z) with a residual; gradients for every array.

    Args:
      x: any shape whose last axes are normalized.
      rows: x seen as (rows, columns).
      parameters: gamma, and beta where the plan has one, in the shape of the normalized axes.
      plan: what is computed.
      residual: in x's shape and dtype: added to x first.

    Raises:
      UserError: for dtypes, a length of the rows, or an amount of shared memory that the kernels do not take.
    """
    if residual is not None and (residual.shape, residual.dtype) != (x.shape, x.dtype):
        raise UserError(f"residual is {residual.dtype.name}{residual.shape}; allowed: {x.dtype.name}{x.shape}, as x is")
    refused = _refusal(rows[1], x.dtype.name, parameters[0].dtype.name, plan, residual is not None, backward=False)
    if refused:
        raise UserError(refused)
    sides = None if residual is None else residual.reshape(rows)
    if x.size == 0:
        zero = jnp.asarray(sum(jnp.sum(array * 0) for array in parameters), plan.output_dtype)
        y, z = x.astype(plan.output_dtype) + zero, residual
    else:
        y, z = _differentiable(x.reshape(rows), sides, tuple(p.reshape(-1) for p in parameters), plan)
        y = y.reshape(x.shape)
    return y if z is None else (y, z.reshape(x.shape))


def unsupported(plan: MosaicPlan, problem: Problem, target: str) -> str | None:
    """The reason why the kernels cannot compute `problem` on `target`, or None."""
    if target == "cpu":
        return "compiled for GPU targets only; a CPU checks it in interpret mode and never times it"
    if target not in TARGETS:
        return f"target {target}; Mosaic GPU needs the bulk copies of Hopper or newer ({', '.join(TARGETS[1:])})"
    columns = math.prod(problem.shape[-problem.option("ndim", 1) :])
    residual, backward = problem.context == "residual", problem.pass_ != "forward"
    return _refusal(columns, problem.dtype, problem.param_dtype, plan, residual, backward)


def _refusal(
    columns: int, dtype: str, param_dtype: str, plan: MosaicPlan, residual: bool, backward: bool
) -> str | None:
    for name, value in (("x", dtype), ("gamma", param_dtype), ("y", plan.output_dtype)):
        if value not in DTYPES:
            return f"{name} is {value}; allowed for pallas_mosaic: {', '.join(DTYPES)}"
    sizes = (columns, dtype, param_dtype, plan, residual)
    needed = sum(backward_shared_bytes(*sizes)) if backward else forward_shared_bytes(*sizes)
    return row_refusal(columns) or shared_refusal(needed)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _differentiable(x, residual, parameters, plan):
    return forward(x, residual, parameters, plan, saves=False)[:2]


def _forward(x, residual, parameters, plan):
    y, z, mean, r = forward(x, residual, parameters, plan, saves=True)
    return (y, z), (x if z is None else z, parameters, mean, r)


def _backward(plan, saved, cotangents):
    dy, dz = cotangents
    x, parameters, *_ = saved
    refused = _refusal(x.shape[1], x.dtype.name, parameters[0].dtype.name, plan, dz is not None, backward=True)
    if refused:
        raise UserError(refused)
    dx, gradients = backward(saved, dy, dz, plan)
    return dx, None if dz is None else dx, gradients


_differentiable.defvjp(_forward, _backward)
