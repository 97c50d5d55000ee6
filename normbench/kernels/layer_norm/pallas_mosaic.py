"""One fused kernel in Pallas Mosaic GPU: bulk copies bring each row to shared memory once and take it away once."""

import jax

from normbench.kernels.contexts import CAST_DTYPES, activation_of
from normbench.kernels.layer_norm.arguments import checked
from normbench.kernels.pallas.mosaic.plan import Plan
from normbench.kernels.pallas.mosaic.row_norm import mosaic_row_norm
from normbench.kernels.pallas.mosaic.row_norm import unsupported as refused
from normbench.kernels.problem import Problem


def pallas_mosaic(
    x: jax.Array,
    gamma: jax.Array,
    beta: jax.Array,
    epsilon: float = 1e-5,
    *,
    ndim: int = 1,
    activation: str = "none",
    residual: jax.Array | None = None,
    output_dtype: str | None = None,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """As `naive`, and what a compiler would have to fuse by itself:

    Args:
      x, gamma, beta, epsilon, ndim, activation: as for `naive`; float32, bfloat16 or float16.
      residual: as x; then z = x + residual is normalized, and (y, z) returned.
      output_dtype: of y; None: x's.

    The variance is taken around the mean, of the row in shared memory, centred twice; bounds as of `pallas_triton`.
    Gradients by hand: x (or z), mean and 1 / deviation are saved, the latter in float32. On a CPU the kernel is
    interpreted, with races looked for.

    Raises:
      UserError: as `naive`, and for another dtype.
    """
    a = checked(x, gamma, beta, epsilon, ndim, activation)
    plan = _plan(a.epsilon, activation, output_dtype or a.x.dtype.name)
    return mosaic_row_norm(a.x, a.rows, (a.gamma, a.beta), plan, residual)


def unsupported(problem: Problem, target: str) -> str | None:
    """The reason why the kernel cannot compute `problem` on `target`, or None."""
    dtype = CAST_DTYPES[problem.dtype] if problem.context == "cast" else problem.dtype
    return refused(_plan(problem.epsilon, activation_of(problem.context), dtype), problem, target)


def _plan(epsilon: float, activation: str, output_dtype: str) -> Plan:
    return Plan("layer_norm", epsilon, activation, output_dtype)
