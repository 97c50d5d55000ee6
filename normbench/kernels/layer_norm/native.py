"""A kernel in C++ for the CPU: each row is read once and written once, by all threads."""

import jax

from normbench.kernels.layer_norm.arguments import checked
from normbench.kernels.native.rows import row_norm


def native(
    x: jax.Array,
    gamma: jax.Array | None,
    beta: jax.Array | None,
    epsilon: float = 1e-5,
    *,
    ndim: int = 1,
    activation: str = "none",
    residual: jax.Array | None = None,
    output_dtype: str | None = None,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """As `naive`, with the mean in two numbers, so that nothing of its rounding is left in x - mean.

    `residual`, in x's shape and dtype, is added to x first, and (y, z) returned, z the sum; `output_dtype` is that of
    y, x's where it is None. A gradient by hand from x (or z), mean and 1 / deviation.

    Raises:
      UserError: also where no C++ compiler is found.
    """
    a = checked(x, gamma, beta, epsilon, ndim, activation)
    return row_norm(
        a.x,
        a.rows,
        (a.gamma, a.beta),
        activation,
        centred=True,
        epsilon=a.epsilon,
        residual=residual,
        output_dtype=output_dtype,
    )
