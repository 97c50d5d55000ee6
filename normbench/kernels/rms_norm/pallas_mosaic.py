"""One fused kernel in Pallas Mosaic GPU: bulk copies bring each row to shared memory once and take it away once."""

import jax

from normbench.kernels.common.form import PLAIN, Form, form_of
from normbench.kernels.contexts import CAST_DTYPES, activation_of
from normbench.kernels.pallas.mosaic.plan import Plan
from normbench.kernels.pallas.mosaic.row_norm import mosaic_row_norm
from normbench.kernels.pallas.mosaic.row_norm import unsupported as refused
from normbench.kernels.problem import Problem
from normbench.kernels.rms_norm.arguments import checked


def pallas_mosaic(
    x: jax.Array,
    gamma: jax.Array | None,
    epsilon: float | None = 1e-5,
    *,
    ndim: int = 1,
    activation: str = "none",
    form: Form = PLAIN,
    residual: jax.Array | None = None,
    output_dtype: str | None = None,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """As `naive`, and what a compiler would have to fuse by itself:

    Args:
      x, gamma, epsilon, ndim, activation, form: as for `naive`; float32, bfloat16 or float16.
      residual: as x; then z = x + residual is normalized, and (y, z) returned.
      output_dtype: of y; None: x's.

    The variance is taken around the mean, of the row in shared memory. Gradients by hand: x (or z), mean and
    1 / deviation are saved, the latter in float32. On a CPU the kernel is interpreted, with races looked for.

    Raises:
      UserError: as `naive`, and for another dtype.
    """
    a = checked(x, gamma, epsilon, ndim, activation, form)
    plan = _plan(a.epsilon, activation, output_dtype or a.x.dtype.name, form)
    return mosaic_row_norm(a.x, a.rows, (a.gamma,), plan, residual)


def unsupported(problem: Problem, target: str) -> str | None:
    """The reason why the kernel cannot compute `problem` on `target`, or None."""
    dtype = CAST_DTYPES[problem.dtype] if problem.context == "cast" else problem.dtype
    return refused(_plan(problem.epsilon, activation_of(problem.context), dtype, form_of(problem)), problem, target)


def _plan(epsilon: float, activation: str, dtype: str, form: Form) -> Plan:
    return Plan("rms_norm", epsilon, activation, form.output_dtype(dtype), centered=False, shifted=False, form=form)
