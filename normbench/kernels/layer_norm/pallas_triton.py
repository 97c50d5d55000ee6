"""One fused kernel in Pallas Triton: each row is read once and written once, with what stands before and after it."""

import jax

from normbench.kernels.common.pointwise import Pointwise
from normbench.kernels.layer_norm.arguments import checked
from normbench.kernels.pallas.triton.row_norm import row_norm


def pallas_triton(
    x: jax.Array,
    gamma: jax.Array,
    beta: jax.Array,
    epsilon: float = 1e-5,
    *,
    ndim: int = 1,
    activation: str = "none",
    residual: jax.Array | None = None,
    epilogue: Pointwise | None = None,
    output_dtype: str | None = None,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """As `naive`, and what a compiler would have to fuse by itself, which it cannot do with a kernel:

    Args:
      x, gamma, beta, epsilon, ndim, activation: as for `naive`.
      residual: as x; then z = x + residual is normalized, and (y, z) returned.
      epilogue: done to y inside the kernel, and differentiated there.
      output_dtype: of y; None: x's.

    The variance is taken around the mean, of a row in registers, centred twice: the error of y is that of one rounding,
    whatever the mean. Rows that do not fit are streamed with Welford's update. Gradients by hand: x (or z), mean and
    1 / deviation are saved, the latter in float32: the error of a gradient is about eps (1 + |mean| / deviation). On a
    CPU the kernel is interpreted: right, and very slow.
    """
    a = checked(x, gamma, beta, epsilon, ndim, activation)
    return row_norm(
        a.x,
        a.rows,
        (a.gamma, a.beta),
        _affine,
        activation,
        name="layer_norm",
        centered=True,
        epsilon=a.epsilon,
        residual=residual,
        epilogue=epilogue,
        output_dtype=output_dtype,
    )


def _affine(h, gamma, beta):
    return h * gamma + beta
