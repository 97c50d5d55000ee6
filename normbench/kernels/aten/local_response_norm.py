"""Local response normalization as `torch.nn.functional` has it; ATen has no such operator."""

import jax
import jax.numpy as jnp
from jax import lax

from normbench.errors import UserError
from normbench.kernels.aten import checks
from normbench.kernels.aten.moments import compute_dtype
from normbench.kernels.common.powers import over_power


def local_response_norm(
    input: jax.Array, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> jax.Array:
    """torch.nn.functional.local_response_norm(input, size, alpha=1e-4, beta=0.75, k=1.0) -> Tensor

    y_c = x_c / (k + alpha / size * sum(x_j^2))^beta, the sum over the channels j of axis 1 from c - size // 2 to
    c + (size - 1) // 2 that exist: an even size looks one further down. alpha is divided by size at the edges too.
    (The AlexNet paper does not divide alpha.) Shape and dtype of input, of rank 3 or more; computed in float32
    (float64 for float64). From 1.8e19 on in float32 the squares are infinite, and y and its gradient 0. An empty input
    is returned as it is. PyTorch on CPU has no half precision for rank 4 and up.

    Raises:
      UserError: input has fewer than 3 dimensions (PyTorch raises ValueError).
      AtenError: size is not positive. AtenDtypeError: input is not floating and not empty.
    """
    x = jnp.asarray(input)
    if x.ndim < 3:
        raise UserError(f"Expected 3D or higher dimensionality input (got {x.ndim} dimensions, shape {list(x.shape)})")
    if x.size == 0:
        return x
    x = checks.floating("local_response_norm", "input", x)
    if size <= 0:
        raise checks.AtenError(f"size should be greater than zero, but got {size}")
    wide = x.astype(compute_dtype(x.dtype))
    window = (1, size, *(1,) * (x.ndim - 2))
    padding = ((0, 0), (size // 2, (size - 1) // 2), *((0, 0),) * (x.ndim - 2))
    # Not jnp.square, whose derivative doubles x first: infinite from 1.7e38 on in float32, and then no number.
    sums = lax.reduce_window(wide * wide, 0.0, lax.add, window, (1,) * x.ndim, padding)
    base = jnp.asarray(k, wide.dtype) + jnp.asarray(alpha, wide.dtype) * (sums / size)
    return over_power(wide, base, float(beta)).astype(x.dtype)
