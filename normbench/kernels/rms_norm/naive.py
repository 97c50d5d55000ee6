"""The textbook formula in float32, cast back to x's dtype."""

import jax
import jax.numpy as jnp

from normbench.kernels.common.activations import activate
from normbench.kernels.common.checks import compute_dtype
from normbench.kernels.common.statistics import inverse_root
from normbench.kernels.rms_norm.arguments import checked


def naive(
    x: jax.Array, gamma: jax.Array | None, epsilon: float | None = 1e-5, *, ndim: int = 1, activation: str = "none"
) -> jax.Array:
    """y = act(x / sqrt(E[x²] + epsilon) * gamma), over the last `ndim` axes of x.

    Args:
      x: any shape of rank `ndim` or more.
      gamma: the last `ndim` sizes of x; None: ones.
      epsilon: added to the mean square; a Python number. None: as in PyTorch, the machine epsilon of the computation.
      ndim: number of normalized axes.
      activation: "none", "relu", "silu" or "gelu".

    Returns:
      y in the shape and dtype of x. Computed in float32, or in float64 where an input is.

    Raises:
      UserError: for arguments that do not fit together.

    Source: Zhang and Sennrich (2019), Root Mean Square Layer Normalization; torch.nn.functional.rms_norm.
    """
    a = checked(x, gamma, epsilon, ndim, activation)
    wide = a.x.astype(compute_dtype(a.x, a.gamma))
    rrms = inverse_root(jnp.square(wide).mean(a.axes, keepdims=True), a.epsilon)
    return activate(wide * rrms * a.gamma.astype(wide.dtype), activation).astype(a.x.dtype)
