"""One read of x, like `one_pass`, of x - p with p the first element of the row: no cancellation where p is typical."""

import jax

from normbench.kernels.common.checks import compute_dtype
from normbench.kernels.common.statistics import one_pass
from normbench.kernels.layer_norm.arguments import Arguments, checked
from normbench.kernels.layer_norm.naive import affine


def pivoted(
    x: jax.Array, gamma: jax.Array, beta: jax.Array, epsilon: float = 1e-5, *, ndim: int = 1, activation: str = "none"
) -> jax.Array:
    """As `naive`, with d = E[x - p], variance = E[(x - p)²] - d² and y made of (x - p) - d.

    The error grows with ((p - mean) / deviation)²: about one where p is drawn like the others, large where the first
    element is an outlier. The pivot is a constant to the gradient; y does not depend on it.
    """
    a = checked(x, gamma, beta, epsilon, ndim, activation)
    dtype = compute_dtype(a.x, a.gamma, a.beta)
    shifted = a.x.astype(dtype) - first_of_row(a).astype(dtype)
    return affine(a, shifted, one_pass(shifted, a.axes), activation)


def first_of_row(a: Arguments) -> jax.Array:
    first = a.x[(..., *(slice(0, 1) for _ in a.axes))]
    return jax.lax.stop_gradient(first)
