"""The textbook formula: the mean first, then the variance around it."""

import jax

from normbench.kernels.common.activations import activate
from normbench.kernels.common.checks import compute_dtype
from normbench.kernels.common.statistics import Statistics, inverse_root, two_pass
from normbench.kernels.layer_norm.arguments import Arguments, checked


def naive(
    x: jax.Array, gamma: jax.Array, beta: jax.Array, epsilon: float = 1e-5, *, ndim: int = 1, activation: str = "none"
) -> jax.Array:
    """y = act((x - mean) / sqrt(variance + epsilon) * gamma + beta), over the last `ndim` axes of x.

    The mean is one rounded number, and x - mean keeps what that leaves: the error of the normalized values is about eps
    (1 + |mean| / deviation), with epsilon in the deviation, and constants do not become 0. docs/numerics.md has the
    bounds of all variants.

    Args:
      x: any shape of rank `ndim` or more.
      gamma, beta: the last `ndim` sizes of x.
      epsilon: added to the variance; a Python number.
      ndim: number of normalized axes.
      activation: "none", "relu", "silu" or "gelu".

    Returns:
      y in the shape and dtype of x. Computed in float32, or in float64 where an input is.

    Raises:
      UserError: for arguments that do not fit together.

    Source: Ba, Kiros and Hinton (2016), Layer Normalization, equation 4; torch.nn.functional.layer_norm.
    """
    a = checked(x, gamma, beta, epsilon, ndim, activation)
    wide = a.x.astype(compute_dtype(a.x, a.gamma, a.beta))
    return affine(a, wide, two_pass(wide, a.axes), activation)


def affine(a: Arguments, values: jax.Array, statistics: Statistics, activation: str) -> jax.Array:
    """`values` normalized by their own statistics, scaled, shifted and activated, in x's dtype."""
    mean, variance = statistics
    normalized = (values - mean) * inverse_root(variance, a.epsilon)
    y = normalized * a.gamma.astype(values.dtype) + a.beta.astype(values.dtype)
    return activate(y, activation).astype(a.x.dtype)
