"""Layer norm and RMS norm in Mosaic GPU, with the residual and the activation in, and a gradient by hand."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from normbench.errors import UserError
from normbench.kernels.common.activations import activate
from normbench.kernels.pallas.hardware import not_for_mosaic
from normbench.kernels.pallas.mosaic import rows_norm
from normbench.kernels.pallas.mosaic.limits import WARPGROUP, Plan, dtype_refusal
from normbench.kernels.pallas.mosaic.rows import Rows
from normbench.kernels.pallas.mosaic.rows_norm import backward_rows, forward_rows
from normbench.kernels.pallas.second_order import of_both_terms, standardized, twice_differentiable, what_was_normalized
from normbench.kernels.problem import Problem

LEAST_COLUMNS = 64
"""A program computes 128 elements of a row at a time: of shorter rows more than half of its threads do nothing."""


def mosaic_row_norm(
    x: jax.Array, rows: tuple[int, int], parameters: Sequence[jax.Array], plan: Plan, residual: jax.Array | None
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """y, or (y, z) with a residual; gradients for every array.

    Args:
      x: any shape whose last axes are normalized.
      rows: x seen as (rows, columns).
      parameters: gamma, and beta where the plan has one, in the shape of the normalized axes.
      plan: what is computed.
      residual: in x's shape and dtype: added to x first.

    Raises:
      UserError: for a dtype that the kernels do not take, and a residual that is not as x.
    """
    if residual is not None and (residual.shape, residual.dtype) != (x.shape, x.dtype):
        raise UserError(f"residual is {residual.dtype.name}{residual.shape}; allowed: {x.dtype.name}{x.shape}, as x is")
    dtypes = x.dtype.name, *(parameter.dtype.name for parameter in parameters)
    refused = _refusal(rows, dtypes, plan, residual is not None, backward=False)
    if refused:
        raise UserError(refused)
    sides = None if residual is None else residual.reshape(rows)
    if x.size == 0:
        zero = jnp.asarray(sum(jnp.sum(array * 0) for array in parameters), plan.output_dtype)
        y, z = x.astype(plan.output_dtype) + zero, residual
    else:
        arrays = x.reshape(rows), sides, tuple(p.reshape(-1) for p in parameters)
        y, z = _differentiable(arrays, (plan, residual is not None))
        y = y.reshape(x.shape)
    return y if z is None else (y, z.reshape(x.shape))


def unsupported(plan: Plan, problem: Problem, target: str) -> str | None:
    """The reason why the kernels cannot compute `problem` on `target`, or None."""
    if refused := not_for_mosaic(target):
        return refused
    columns = math.prod(problem.shape[-problem.option("ndim", 1) :])
    rows = math.prod(problem.shape) // max(columns, 1), columns
    residual, backward = problem.context == "residual", problem.pass_ != "forward"
    dtypes = problem.dtype, *(problem.param_dtype,) * (1 + plan.shifted)
    return _refusal(rows, dtypes, plan, residual, backward) or _too_slow(rows, dtypes, plan, residual, backward)


def _refusal(rows: tuple[int, int], dtypes: tuple[str, ...], plan: Plan, residual: bool, backward: bool) -> str | None:
    if refused := dtype_refusal(zip(("y", "x", "gamma", "beta"), (plan.output_dtype, *dtypes), strict=False)):
        return refused
    config = None if 0 in rows else _rows(rows, dtypes, plan, residual, backward)
    return config if isinstance(config, str) else None


def _rows(rows: tuple[int, int], dtypes: tuple[str, ...], plan: Plan, residual: bool, backward: bool) -> Rows | str:
    """How the kernels share rows out, or why they do not."""
    return (backward_rows if backward else forward_rows)(rows, dtypes[0], dtypes[1:], plan, residual)


def _too_slow(rows: tuple[int, int], dtypes: tuple[str, ...], plan: Plan, residual: bool, backward: bool) -> str | None:
    """Why rows are left to XLA although the kernels take them."""
    columns = rows[1]
    if 0 in rows:
        return None
    if columns < LEAST_COLUMNS:
        return (
            f"rows of {columns} elements; allowed for pallas_mosaic: {LEAST_COLUMNS} or more, of {WARPGROUP} at a time"
        )
    config = _rows(rows, dtypes, plan, residual, backward)
    if isinstance(config, Rows) and not config.runs.resident:
        return f"rows of {columns} elements, which shared memory does not hold: they are read twice, as by XLA"
    return None


def _forward(arrays, asked, saves):
    """`asked` is the plan, and whether there is a residual."""
    (x, residual, parameters), plan = arrays, asked[0]
    y, z, mean, r = rows_norm.forward(x, residual, parameters, plan, saves)
    return (y, z), (mean, r) if saves else None


def _backward(kept, saved, cotangents, asked):
    (w, parameters), (plan, added) = kept, asked
    dtypes = w.dtype.name, *(parameter.dtype.name for parameter in parameters)
    if refused := _refusal(w.shape, dtypes, plan, added, backward=True):
        raise UserError(refused)
    dw, gradients = rows_norm.backward((w, parameters, *saved), *cotangents, plan)
    return dw, tuple(gradients)


def _plain(kept, asked):
    (w, parameters), (plan, added) = kept, asked
    h = standardized(w.astype(jnp.float32), (1,), plan.epsilon, plan.centered)
    gamma, *beta = (parameter.astype(jnp.float32) for parameter in parameters)
    scaled = plan.form.rounded(h) * plan.form.scale(gamma)
    y = scaled + beta[0] if beta else scaled
    return activate(y, plan.activation).astype(plan.output_dtype), w if added else None


_differentiable = twice_differentiable(_forward, _backward, _plain, keep=what_was_normalized, expand=of_both_terms)
