"""The textbook formula in float32, cast back to x's dtype."""

import jax
import jax.numpy as jnp

from normbench.kernels.common.checks import compute_dtype
from normbench.kernels.common.form import PLAIN, Form
from normbench.kernels.common.statistics import inverse_root
from normbench.kernels.rms_norm.arguments import Arguments, checked


def naive(
    x: jax.Array,
    gamma: jax.Array | None,
    epsilon: float | None = 1e-5,
    *,
    ndim: int = 1,
    activation: str = "none",
    form: Form = PLAIN,
) -> jax.Array:
    """y = act(x / sqrt(E[x²] + epsilon) * gamma), over the last `ndim` axes of x.

    Args:
      x: any shape of rank `ndim` or more.
      gamma: the last `ndim` sizes of x; None: ones.
      epsilon: added to the mean square; a Python number. None: as in PyTorch, the machine epsilon of the computation.
      ndim: number of normalized axes.
      activation: "none", "relu", "silu" or "gelu".
      form: what language models do with x / sqrt(E[x²] + epsilon): see `normbench.kernels.common.form`.

    Returns:
      y in the shape and dtype of x, or in the dtype of the form. Computed in float32, or in float64 where an input is.

    Raises:
      UserError: for arguments that do not fit together.

    Source: Zhang and Sennrich (2019), Root Mean Square Layer Normalization; torch.nn.functional.rms_norm.
    """
    a = checked(x, gamma, epsilon, ndim, activation, form)
    wide = a.x.astype(compute_dtype(a.x, a.gamma))
    rrms = inverse_root(jnp.square(wide).mean(a.axes, keepdims=True), a.epsilon)
    return scaled(wide * rrms, a, activation)


def scaled(hat: jax.Array, a: Arguments, activation: str) -> jax.Array:
    """y of x / sqrt(E[x²] + epsilon), in the form that is asked for."""
    z = a.form.rounded(hat) * a.form.scale(a.gamma.astype(hat.dtype))
    return a.form.finished(z, activation).astype(a.form.output_dtype(a.x.dtype.name))
