"""One fused kernel in Pallas for TPUs: each row is brought to VMEM once and taken away once."""

from typing import Any

import jax

from normbench.kernels.common.form import OPTIONS
from normbench.kernels.contexts import CAST_DTYPES, activation_of
from normbench.kernels.pallas.tpu.row_norm import tpu_row_norm
from normbench.kernels.pallas.tpu.row_norm import unsupported as refused
from normbench.kernels.pallas.tpu.rows import RowPlan
from normbench.kernels.problem import Problem
from normbench.kernels.registry import without_options
from normbench.kernels.rms_norm.arguments import checked


def pallas_tpu(
    x: jax.Array,
    gamma: jax.Array | None,
    epsilon: float | None = 1e-5,
    *,
    ndim: int = 1,
    activation: str = "none",
    residual: jax.Array | None = None,
    output_dtype: str | None = None,
    cotangent: Any = None,
) -> Any:
    """As `naive`, and what a compiler would have to fuse by itself:

    Args:
      x, gamma, epsilon, ndim, activation: as for `naive`; float32 or bfloat16.
      residual: as x; then z = x + residual is normalized, and (y, z) returned.
      output_dtype: of y; None: x's.
      cotangent: of y, or of (y, z): then (y, gradients) or ((y, z), gradients) are returned, those of x and of
        the parameters, and x is read once for both.

    Gradients by hand: x (or z) is saved, and its root mean square is made again. On a CPU the kernel is interpreted.

    Raises:
      UserError: as `naive`, and for another dtype, a cotangent that is not as y, or rows that VMEM does not hold.
    """
    a = checked(x, gamma, epsilon, ndim, activation)
    plan = _plan(a.epsilon, activation, output_dtype or a.x.dtype.name)
    return tpu_row_norm(a.x, ndim, (a.gamma,), plan, residual, cotangent)


def unsupported(problem: Problem, target: str) -> str | None:
    """The reason why the kernel cannot compute `problem` on `target`, or None."""
    dtype = CAST_DTYPES[problem.dtype] if problem.context == "cast" else problem.dtype
    return without_options(problem, OPTIONS) or refused(
        _plan(problem.epsilon, activation_of(problem.context), dtype), problem, target
    )


def _plan(epsilon: float, activation: str, output_dtype: str) -> RowPlan:
    return RowPlan("rms_norm", False, False, epsilon, activation, output_dtype)
