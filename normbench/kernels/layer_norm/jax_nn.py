"""`jax.nn.standardize`, then the affine: what JAX itself offers."""

import jax

from normbench.kernels.common.activations import activate
from normbench.kernels.common.checks import compute_dtype
from normbench.kernels.layer_norm.arguments import checked


def jax_nn(
    x: jax.Array, gamma: jax.Array, beta: jax.Array, epsilon: float = 1e-5, *, ndim: int = 1, activation: str = "none"
) -> jax.Array:
    """As `naive`; `jax.nn.standardize` takes the variance as E[x²] - mean². In float32, as users have to ask for."""
    a = checked(x, gamma, beta, epsilon, ndim, activation)
    dtype = compute_dtype(a.x, a.gamma, a.beta)
    normalized = jax.nn.standardize(a.x.astype(dtype), axis=a.axes, epsilon=a.epsilon)
    return activate(normalized * a.gamma.astype(dtype) + a.beta.astype(dtype), activation).astype(a.x.dtype)
