"""Layer norm and RMS norm on TPUs, with the residual and the activation in, and a gradient by hand."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from normbench.errors import UserError
from normbench.kernels.common.activations import activate
from normbench.kernels.common.checks import residual_like
from normbench.kernels.common.second_order import of_both_terms, standardized, twice_differentiable, what_was_normalized
from normbench.kernels.common.targets import not_for_tpu
from normbench.kernels.pallas.tpu import long_rows
from normbench.kernels.pallas.tpu import rows as tpu_rows
from normbench.kernels.pallas.tpu.at_hand import by_passes, checked_cotangents
from normbench.kernels.pallas.tpu.limits import dtype_refusal
from normbench.kernels.pallas.tpu.long_rows import LongRows, long_rows_of
from normbench.kernels.pallas.tpu.rows import RowPlan, Rows, copied, rows_of, rows_view
from normbench.kernels.problem import Problem


def tpu_row_norm(
    x: jax.Array,
    ndim: int,
    parameters: Sequence[jax.Array],
    plan: RowPlan,
    residual: jax.Array | None,
    cotangent: Any = None,
) -> Any:
    """y, or (y, z) with a residual; gradients for every array. With a `cotangent`, of y or (y, z), these and the
    gradients of x and of the parameters, which one visit makes.

    Args:
      x: any shape whose last `ndim` axes are normalized.
      parameters: gamma, and beta where the plan has one, in the shape of the normalized axes.
      plan: what is computed.
      residual: in x's shape and dtype: added to x first.

    Raises:
      UserError: for a dtype that the kernels do not take, a residual or a cotangent that is not as x, rows that VMEM
        does not hold.
    """
    residual = residual_like(x, residual)
    dtypes = x.dtype.name, *(parameter.dtype.name for parameter in parameters)
    if refused := _refusal(x.shape, ndim, dtypes, plan):
        raise UserError(refused)
    if cotangent is not None:
        return _both(x, ndim, parameters, plan, residual, cotangent)
    if x.size == 0:
        zero = jnp.asarray(sum(jnp.sum(array * 0) for array in parameters), plan.output_dtype)
        y, z = x.astype(plan.output_dtype) + zero, residual
    else:
        y, z = _differentiable((x, residual, tuple(parameters)), (plan, ndim, residual is not None))
    return y if z is None else (y, z)


def _both(x, ndim, parameters, plan, residual, cotangent):
    added = residual is not None
    tensors = 4 + 3 * added
    if x.size == 0 or isinstance(rows := _rows(x.shape, ndim, x.dtype.name, plan, tensors), str):
        return by_passes(lambda x, *p: tpu_row_norm(x, ndim, p, plan, residual), (x, *parameters), cotangent)
    cotangents = checked_cotangents(cotangent, x, (plan.output_dtype, *(x.dtype.name,) * added))
    view = rows_view(x.shape, ndim, x.dtype.name)[0]
    seen = view.of(x), view.of(residual) if added else None
    y, z, dw, gradients = _launches(rows).both(*seen, parameters, [view.of(array) for array in cotangents], plan, rows)
    y, dw = view.back(y, x.shape), view.back(dw, x.shape)
    gradients = dw, *(found.astype(p.dtype) for found, p in zip(gradients, parameters, strict=True))
    return (y, view.back(z, x.shape)) if added else y, gradients


def unsupported(plan: RowPlan, problem: Problem, target: str) -> str | None:
    """The reason why the kernels cannot compute `problem` on `target`, or None."""
    if refused := not_for_tpu(target):
        return refused
    ndim = problem.option("ndim", 1)
    dtypes = problem.dtype, *(problem.param_dtype,) * (1 + plan.shifted)
    if refused := _refusal(problem.shape, ndim, dtypes, plan):
        return refused
    if 0 in problem.shape:
        return None
    rows = _rows(problem.shape, ndim, problem.dtype, plan)
    if isinstance(rows, LongRows) and not rows.holds(problem.pass_ != "forward"):
        return (
            f"rows of {rows.shape[2]} elements, of which VMEM does not hold {rows.rows} from one walk to the next, so "
            "that x is read several times: take custom_vjp"
        )
    return copied(problem.shape, ndim, problem.dtype)


def _refusal(shape: tuple[int, ...], ndim: int, dtypes: tuple[str, ...], plan: RowPlan) -> str | None:
    names = ("x", "gamma", "beta")[: len(dtypes)]
    if refused := dtype_refusal((*names, "y"), (*dtypes, plan.output_dtype)):
        return refused
    if 0 in shape:
        return None
    rows = _rows(shape, ndim, dtypes[0], plan)
    return rows if isinstance(rows, str) else None


def _rows(shape: tuple[int, ...], ndim: int, dtype: str, plan: RowPlan, tensors: int = 4) -> Rows | LongRows | str:
    view, lead = rows_view(shape, ndim, dtype)
    rows = rows_of(view.shape, lead, (dtype, plan.output_dtype), tensors)
    if isinstance(rows, str) and lead == 2:
        return long_rows_of(view.shape, (dtype, plan.output_dtype)) or rows
    return rows


def _launches(rows: Rows | LongRows) -> Any:
    return long_rows if isinstance(rows, LongRows) else tpu_rows


def _cut(x: jax.Array, plan: RowPlan, ndim: int):
    view, rows = rows_view(x.shape, ndim, x.dtype.name)[0], _rows(x.shape, ndim, x.dtype.name, plan)
    assert not isinstance(rows, str)  # else refused before
    return view, rows


def _forward(arrays, asked, saves):
    """`asked` is the plan, how many axes are normalized, and whether there is a residual."""
    (x, residual, parameters), (plan, ndim, added) = arrays, asked
    view, rows = _cut(x, plan, ndim)
    y, z = _launches(rows).forward(view.of(x), view.of(residual) if added else None, parameters, plan, rows)
    return (view.back(y, x.shape), view.back(z, x.shape) if added else None), () if saves else None


def _backward(kept, saved, cotangents, asked):
    ((w, parameters), (dy, dz), (plan, ndim, _)) = kept, cotangents, asked
    view, rows = _cut(w, plan, ndim)
    added = None if dz is None else view.of(dz)
    dw, gradients = _launches(rows).backward(view.of(w), parameters, view.of(dy), added, plan, rows)
    gradients = (found.astype(p.dtype) for found, p in zip(gradients, parameters, strict=True))
    return view.back(dw, w.shape), tuple(gradients)


def _plain(kept, asked):
    (w, parameters), (plan, ndim, added) = kept, asked
    axes = tuple(range(w.ndim - ndim, w.ndim))
    h = standardized(w.astype(jnp.float32), axes, plan.epsilon, plan.centered)
    gamma, *beta = (parameter.astype(jnp.float32) for parameter in parameters)
    y = h * gamma + beta[0] if beta else h * gamma
    return activate(y, plan.activation).astype(plan.output_dtype), w if added else None


_differentiable = twice_differentiable(_forward, _backward, _plain, keep=what_was_normalized, expand=of_both_terms)
