"""Layer norm and RMS norm in Mosaic GPU, with the residual and the activation in, and a gradient by hand."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from normbench.errors import UserError
from normbench.kernels.common.activations import activate
from normbench.kernels.pallas.hardware import not_for_mosaic
from normbench.kernels.pallas.mosaic import rows as mosaic_any_rows
from normbench.kernels.pallas.mosaic import rows_backward as mosaic_any_rows_backward
from normbench.kernels.pallas.mosaic.exact import rows as mosaic_rows
from normbench.kernels.pallas.mosaic.exact import rows_backward as mosaic_rows_backward
from normbench.kernels.pallas.mosaic.exact.rows import forward_shared_bytes
from normbench.kernels.pallas.mosaic.exact.rows_backward import backward_shared_bytes
from normbench.kernels.pallas.mosaic.limits import Plan, dtype_refusal, row_refusal, shared_refusal
from normbench.kernels.pallas.mosaic.rows import Rows
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
    if 0 in rows or _whole(rows, dtypes, plan, residual, backward):
        return None
    config = _any_rows(rows, dtypes, plan, residual, backward)
    return config if isinstance(config, str) else None


def _whole(rows: tuple[int, int], dtypes: tuple[str, ...], plan: Plan, residual: bool, backward: bool) -> bool:
    """Whether the kernels for whole warpgroups take rows."""
    if backward:
        needed = sum(backward_shared_bytes(rows[1], dtypes[0], dtypes[1], plan, residual))
    else:
        needed = sum(forward_shared_bytes(rows[1], dtypes[0], dtypes[1], plan, residual))
    return not (row_refusal(rows[1]) or shared_refusal(needed))


def _any_rows(rows: tuple[int, int], dtypes: tuple[str, ...], plan: Plan, residual: bool, backward: bool) -> Rows | str:
    """How the kernels for rows of any length share them out, or why they do not."""
    if backward:
        return mosaic_any_rows_backward.backward_rows(rows, dtypes[0], dtypes[1:], plan, residual)
    return mosaic_any_rows.rows_of(*rows, *mosaic_any_rows.forward_bytes(dtypes[0], dtypes[1:], plan, residual))


def _too_slow(rows: tuple[int, int], dtypes: tuple[str, ...], plan: Plan, residual: bool, backward: bool) -> str | None:
    """Why rows, of any length, are left to XLA although the kernels take them."""
    if 0 in rows or _whole(rows, dtypes, plan, residual, backward):
        return None
    columns, config = rows[1], _any_rows(rows, dtypes, plan, residual, backward)
    if columns < LEAST_COLUMNS:
        return f"rows of {columns} elements; allowed for pallas_mosaic: {LEAST_COLUMNS} or more, of 128 at a time"
    if isinstance(config, Rows) and not config.runs.resident:
        return f"rows of {columns} elements, which shared memory does not hold: they are read twice, as by XLA"
    return None


def _forward(arrays, asked, saves):
    """`asked` is the plan, and whether there is a residual."""
    (x, residual, parameters), plan = arrays, asked[0]
    whole = _whole(x.shape, _dtypes(x, parameters), plan, residual is not None, backward=False)
    y, z, mean, r = (mosaic_rows if whole else mosaic_any_rows).forward(x, residual, parameters, plan, saves)
    return (y, z), (mean, r) if saves else None


def _dtypes(x, parameters):
    return x.dtype.name, *(parameter.dtype.name for parameter in parameters)


def _backward(kept, saved, cotangents, asked):
    (w, parameters), (plan, added) = kept, asked
    dtypes = _dtypes(w, parameters)
    refused = _refusal(w.shape, dtypes, plan, added, backward=True)
    if refused:
        raise UserError(refused)
    whole = _whole(w.shape, dtypes, plan, added, backward=True)
    kernel = mosaic_rows_backward if whole else mosaic_any_rows_backward
    dw, gradients = kernel.backward((w, parameters, *saved), *cotangents, plan)
    return dw, tuple(gradients)


def _plain(kept, asked):
    (w, parameters), (plan, added) = kept, asked
    h = standardized(w.astype(jnp.float32), (1,), plan.epsilon, plan.centered)
    gamma, *beta = (parameter.astype(jnp.float32) for parameter in parameters)
    scaled = plan.form.rounded(h) * plan.form.scale(gamma)
    y = scaled + beta[0] if beta else scaled
    return activate(y, plan.activation).astype(plan.output_dtype), w if added else None


_differentiable = twice_differentiable(_forward, _backward, _plain, keep=what_was_normalized, expand=of_both_terms)
