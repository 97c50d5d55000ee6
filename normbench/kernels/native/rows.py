"""Layer norm and RMS norm by the native kernel: each row is read once, with its neighbours fused in."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from normbench.kernels.common.activations import activate
from normbench.kernels.common.checks import compute_dtype, residual_like
from normbench.kernels.common.second_order import of_both_terms, standardized, twice_differentiable, what_was_normalized
from normbench.kernels.native.call import NUMBER_OF_ACTIVATION, call


@dataclass(frozen=True, slots=True)
class RowPlan:
    """What the kernel is told.

    Attributes:
      rows: x seen as (rows, columns).
      period: row i meets gamma[i % period] of (period, columns).
      centred: False: the mean is 0.
      epsilon, activation: as for the operator.
      output_dtype: of y.
      dtype: that is computed in.
      added: whether there is a residual.
    """

    rows: tuple[int, int]
    period: int
    centred: bool
    epsilon: float
    activation: str
    output_dtype: str
    dtype: str
    added: bool

    def numbers(self, backward: bool, shifted: bool) -> list[int]:
        activation = NUMBER_OF_ACTIVATION[self.activation]
        flags = [self.added, shifted, self.dtype == "float64"]
        return [backward, *self.rows, self.period, self.centred, activation, *flags]


def row_norm(
    x: jax.Array,
    rows: tuple[int, int],
    parameters: tuple[jax.Array, ...],
    activation: str,
    *,
    centred: bool,
    epsilon: float,
    period: int = 1,
    residual: jax.Array | None = None,
    output_dtype: str | None = None,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """y = act(h gamma + beta), or (y, z) with a residual, z = x + residual; gradients for every array.

    Args:
      x: any shape; `rows` is it as (rows, columns).
      parameters: gamma and, where there is one, beta, of period * columns elements.
      centred, epsilon, period: as in `RowPlan`.
      residual: in x's shape and dtype.
      output_dtype: of y; None: x's.

    Raises:
      UserError: for a residual that does not fit x.
    """
    residual = residual_like(x, residual)
    dtype = jnp.dtype(output_dtype or x.dtype)
    if x.size == 0:
        y = x.astype(dtype) + sum((jnp.sum(array * 0) for array in parameters), jnp.zeros(())).astype(dtype)
        return y if residual is None else (y, x + residual)
    computed = jnp.dtype(compute_dtype(x, *parameters)).name
    plan = RowPlan(rows, period, centred, epsilon, activation, dtype.name, computed, residual is not None)
    y, z = _differentiable((x, residual, parameters), plan)
    return y if residual is None else (y, z)


def _forward(arrays, plan, saves):
    x, residual, parameters = arrays
    outputs = [jax.ShapeDtypeStruct(x.shape, jnp.dtype(plan.output_dtype))]
    outputs += [jax.ShapeDtypeStruct(x.shape, x.dtype)] * plan.added
    outputs += [jax.ShapeDtypeStruct((3, plan.rows[0]), jnp.dtype(plan.dtype))] * saves
    inputs = (x, *([residual] if plan.added else []), *parameters)
    y, *more = call("rows", inputs, outputs, plan.numbers(False, len(parameters) > 1), [plan.epsilon])
    return (y, more[0] if plan.added else None), more[-1] if saves else None


def _backward(kept, saved, cotangents, plan):
    (w, parameters), (dy, dz) = kept, cotangents
    outputs = [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in (w, *parameters)]
    inputs = (w, *parameters, saved, dy, *([dz] if plan.added else []))
    dw, *gradients = call("rows", inputs, outputs, plan.numbers(True, len(parameters) > 1), [plan.epsilon])
    return dw, tuple(gradients)


def _plain(kept, plan):
    w, parameters = kept
    rows, columns = plan.rows
    h = standardized(w.astype(plan.dtype).reshape(plan.rows), (1,), plan.epsilon, plan.centred)
    lined_up = [
        jnp.tile(array.astype(plan.dtype).reshape(plan.period, columns), (rows // plan.period, 1))
        for array in parameters
    ]
    z = h * lined_up[0] + (lined_up[1] if len(lined_up) > 1 else 0)
    y = activate(z, plan.activation).reshape(w.shape).astype(plan.output_dtype)
    return y, w if plan.added else None


_differentiable = twice_differentiable(_forward, _backward, _plain, keep=what_was_normalized, expand=of_both_terms)
