"""A kernel in C++ for the CPU: each row is read once and written once, by all threads."""

import jax

from normbench.kernels.native.rows import row_norm
from normbench.kernels.rms_norm.arguments import checked


def native(
    x: jax.Array,
    gamma: jax.Array | None,
    epsilon: float | None = 1e-5,
    *,
    ndim: int = 1,
    activation: str = "none",
    residual: jax.Array | None = None,
    output_dtype: str | None = None,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """As `naive`; `residual` and `output_dtype` as for `layer_norm.native`, a gradient by hand from x (or z) and 1 /
    RMS."""
    a = checked(x, gamma, epsilon, ndim, activation)
    return row_norm(
        a.x,
        a.rows,
        (a.gamma,),
        activation,
        centred=False,
        epsilon=a.epsilon,
        residual=residual,
        output_dtype=output_dtype,
    )
