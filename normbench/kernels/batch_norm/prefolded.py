"""Scale and shift computed once, ahead of the call: `prepare`, then `apply` for every x."""

from typing import Any

import jax
import jax.numpy as jnp

from normbench.errors import UserError
from normbench.kernels.batch_norm.arguments import channels_of, checked
from normbench.kernels.common.activations import activate, check_activation
from normbench.kernels.common.checks import (
    channel_vectors,
    check_epsilon,
    compute_dtype,
    floating,
    scale_or_ones,
    shift_or_zeros,
)


def prepare(
    gamma: jax.Array | None,
    beta: jax.Array | None,
    mean: jax.Array,
    variance: jax.Array,
    epsilon: float = 1e-5,
    *,
    dtype: str = "float32",
    **_: Any,
) -> tuple[jax.Array, jax.Array]:
    """Folds the four parameters into two: scale = gamma / sqrt(variance + epsilon), shift = beta - mean * scale.

    Args:
      gamma, beta, mean, variance: (C,); gamma None: ones, beta None: zeros.
      dtype: of the x that is to come: of a float64 x, parameters in float32 must be folded in float64.
      **_: the operator's other keywords, which the fold does not depend on.

    Returns:
      (scale, shift), each (C,), in float32, or in float64 where a parameter or x is: a fold in half precision
      would lose more than the output's own rounding.

    Raises:
      UserError: parameters of different lengths, dtype that is not supported, negative epsilon.
    """
    first = "mean" if gamma is None else "gamma"
    given = floating(first, mean if gamma is None else gamma)
    if given.ndim != 1:
        raise UserError(f"{first} has shape {given.shape}; allowed: one value per channel, (C,)")
    gamma, beta = scale_or_ones(gamma, given.shape, given.dtype), shift_or_zeros(beta, given.shape, given.dtype)
    parameters = channel_vectors(given.size, gamma=gamma, beta=beta, mean=mean, variance=variance)
    wide = jnp.promote_types(compute_dtype(*parameters), dtype)
    gamma, beta, mean, variance = (parameter.astype(wide) for parameter in parameters)
    scale = gamma / jnp.sqrt(variance + check_epsilon(epsilon))
    return scale, beta - mean * scale


def apply(
    x: jax.Array,
    scale: jax.Array,
    shift: jax.Array,
    epsilon: float = 1e-5,
    *,
    channel_axis: int = 1,
    activation: str = "none",
) -> jax.Array:
    """y = act(x * scale + shift) in x's dtype. `epsilon` is in the scale already; it is there for the signature's sake.

    Raises:
      UserError: as for `naive`.
    """
    check_activation(activation)
    x, axis, broadcast = channels_of(x, channel_axis)
    scale, shift = channel_vectors(x.shape[axis], scale=scale, shift=shift)
    dtype = compute_dtype(x, scale, shift)
    y = x.astype(dtype) * scale.reshape(broadcast).astype(dtype) + shift.reshape(broadcast).astype(dtype)
    return activate(y, activation).astype(x.dtype)


def prefolded(
    x: jax.Array,
    gamma: jax.Array,
    beta: jax.Array,
    mean: jax.Array,
    variance: jax.Array,
    epsilon: float = 1e-5,
    *,
    channel_axis: int = 1,
    activation: str = "none",
) -> jax.Array:
    """`apply` of what `prepare` returns: the operator's own signature, for callers that do not fold ahead."""
    a = checked(x, gamma, beta, mean, variance, epsilon, channel_axis, activation)
    scale, shift = prepare(a.gamma, a.beta, a.mean, a.variance, a.epsilon, dtype=a.x.dtype.name)
    return apply(a.x, scale, shift, channel_axis=channel_axis, activation=activation)
