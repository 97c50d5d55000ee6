"""One fused kernel in Pallas Triton: each row is read once and written once, with what stands before and after it."""

import jax

from normbench.kernels.pallas.pointwise import Pointwise
from normbench.kernels.pallas.triton.row_norm import row_norm
from normbench.kernels.rms_norm.arguments import checked


def pallas_triton(
    x: jax.Array,
    gamma: jax.Array | None,
    epsilon: float | None = 1e-5,
    *,
    ndim: int = 1,
    activation: str = "none",
    residual: jax.Array | None = None,
    epilogue: Pointwise | None = None,
    output_dtype: str | None = None,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """As `naive`, and what a compiler would have to fuse by itself, which it cannot do with a kernel.

    `residual`, `epilogue` and `output_dtype` as for `layer_norm.pallas_triton`; gradients by hand from x (or z)
    and 1 / RMS in float32.
    """
    a = checked(x, gamma, epsilon, ndim, activation)
    return row_norm(
        a.x,
        a.rows,
        (a.gamma,),
        _affine,
        activation,
        name="rms_norm",
        centered=False,
        epsilon=a.epsilon,
        residual=residual,
        epilogue=epilogue,
        output_dtype=output_dtype,
    )


def _affine(h, gamma):
    return h * gamma
