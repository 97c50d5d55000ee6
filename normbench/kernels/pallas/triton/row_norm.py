"""Layer norm and RMS norm over rows, with neighbours fused in and a gradient by hand: what both families call."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp

from normbench.errors import UserError
from normbench.kernels.common.activations import activate
from normbench.kernels.common.checks import compute_dtype, residual_like
from normbench.kernels.common.pointwise import Pointwise
from normbench.kernels.common.second_order import of_both_terms, standardized, twice_differentiable, what_was_normalized
from normbench.kernels.common.targets import not_for_triton
from normbench.kernels.pallas.hardware import MOST_ELEMENTS
from normbench.kernels.pallas.triton.rows import RowPlan, backward, forward
from normbench.kernels.problem import Problem


def row_norm(
    x: jax.Array,
    rows: tuple[int, int],
    parameters: Sequence[jax.Array],
    affine: Callable[..., jax.Array],
    activation: str,
    *,
    name: str,
    centered: bool,
    epsilon: float,
    residual: jax.Array | None = None,
    epilogue: Pointwise | None = None,
    output_dtype: str | None = None,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """y = epilogue(act(affine(h, *parameters))), or (y, z) with a residual; gradients for every array.

    Args:
      x: any shape whose last axes are normalized; h of it is as in `RowPlan`.
      rows: x seen as (rows, columns).
      parameters: gamma and what else there is, in the shape of the normalized axes.
      affine: (h, *parameters) -> what is activated, elementwise.
      activation: as for the operator.
      name: of the operator.
      centered, epsilon: as in `RowPlan`.
      residual: in x's shape and dtype: added to x first; z is the sum, in x's dtype.
      epilogue: done to y inside the kernel.
      output_dtype: of y; None: x's.

    Raises:
      UserError: for a residual or arrays of the epilogue that do not fit x, or more elements than 32-bit indices reach.
    """
    residual = residual_like(x, residual)
    after = epilogue or Pointwise(_same)
    after.check(parameters[0].shape, x.shape)
    if x.size > MOST_ELEMENTS:
        raise UserError(f"x has {x.size} elements; allowed for pallas_triton: {MOST_ELEMENTS} (32-bit indices)")
    extras = (*parameters, *after.vectors, *after.tensors)
    dtype = jnp.dtype(output_dtype or x.dtype)
    if x.size == 0:
        return _of_nothing(x, extras, residual, dtype)
    plan = RowPlan(
        name=name,
        centered=centered,
        epsilon=epsilon,
        post=partial(_post, affine, activation, len(parameters), len(after.vectors), after.function),
        affine=activation == "none" and epilogue is None,
        vectors=len(parameters) + len(after.vectors),
        tensors=len(after.tensors),
        output_dtype=dtype.name,
        dtype=jnp.dtype(compute_dtype(x, *extras)).name,
    )
    flat = [array.reshape(-1) for array in extras[: plan.vectors]] + [a.reshape(rows) for a in after.tensors]
    sides = None if residual is None else residual.reshape(rows)
    y, z = _differentiable((x.reshape(rows), sides, tuple(flat)), (plan, residual is not None))
    y = y.reshape(x.shape)
    return y if residual is None else (y, z.reshape(x.shape))


def _same(y: jax.Array) -> jax.Array:
    return y


def _post(affine, activation, parameters, vectors, function, h, *extras):
    between = parameters + vectors
    y = activate(affine(h, *extras[:parameters]), activation)
    return function(y, *extras[parameters:between], *extras[between:])


def _of_nothing(x, extras, residual, dtype):
    """Of an empty batch: nothing, with gradients of zero for everything."""
    zero = sum(jnp.sum(array * 0) for array in extras).astype(dtype)
    y = x.astype(dtype) + zero
    return y if residual is None else (y, x + residual)


def _forward(arrays, asked, saves):
    """`asked` is the plan, and whether there is a residual."""
    y, z, mean, r = forward(*arrays, asked[0], save=saves)
    return (y, z), (mean, r) if saves else None


def _backward(kept, saved, cotangents, asked):
    w, extras = kept
    dw, dextras = backward((w, extras, *saved), *cotangents, asked[0])
    return dw, tuple(dextras)


def _plain(kept, asked):
    (w, extras), (plan, added) = kept, asked
    h = standardized(w.astype(plan.dtype), (1,), plan.epsilon, plan.centered)
    y = plan.post(h, *(array.astype(plan.dtype) for array in extras))
    return y.astype(plan.output_dtype), w if added else None


_differentiable = twice_differentiable(_forward, _backward, _plain, keep=what_was_normalized, expand=of_both_terms)


def unsupported(problem: Problem, target: str) -> str | None:
    """The reason why the row kernels cannot compute `problem` on `target`, or None."""
    if refused := not_for_triton(target):
        return refused
    if math.prod(problem.shape) > MOST_ELEMENTS:
        return f"more than {MOST_ELEMENTS} elements; the kernel's indices are 32-bit"
    return None
