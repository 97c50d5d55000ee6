"""The arguments of conv_bn, checked the same way for every variant."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from normbench.errors import UserError
from normbench.kernels.common.activations import check_activation
from normbench.kernels.common.checks import (
    channel_vectors,
    check_epsilon,
    compute_dtype,
    floating,
    scale_or_ones,
    shift_or_zeros,
)
from normbench.kernels.conv_bn.geometry import Geometry


class Arguments(NamedTuple):
    """Checked arguments; `bias` is None where the convolution has none."""

    x: jax.Array
    weight: jax.Array
    bias: jax.Array | None
    gamma: jax.Array
    beta: jax.Array
    mean: jax.Array
    variance: jax.Array
    epsilon: float


def checked(
    x: Any,
    weight: Any,
    bias: Any,
    gamma: Any,
    beta: Any,
    mean: Any,
    variance: Any,
    epsilon: float,
    geometry: Geometry,
    activation: str,
) -> Arguments:
    """Returns the arguments as arrays; gamma and beta may be None, which are ones and zeros.

    Raises:
      UserError: dtype that is not supported or differs between x, weight and bias; shapes that do not fit together or
        leave no output; negative epsilon; unknown activation.
    """
    check_activation(activation)
    x, weight = checked_inputs(x, weight, geometry)
    features = geometry.features(weight.shape)
    gamma, beta = scale_or_ones(gamma, (features,), x.dtype), shift_or_zeros(beta, (features,), x.dtype)
    gamma, beta, mean, variance = channel_vectors(features, gamma=gamma, beta=beta, mean=mean, variance=variance)
    bias = None if bias is None else checked_bias(bias, x, features)
    return Arguments(x, weight, bias, gamma, beta, mean, variance, check_epsilon(epsilon))


def checked_inputs(x: Any, weight: Any, geometry: Geometry) -> tuple[jax.Array, jax.Array]:
    """Returns x and the weight as arrays that fit the geometry and each other."""
    x, weight = floating("x", x), floating("weight", weight)
    if weight.dtype != x.dtype:
        raise UserError(f"weight has dtype {weight.dtype}; allowed: x's dtype, {x.dtype}")
    geometry.check(x.shape, weight.shape)
    return x, weight


def checked_bias(bias: Any, x: jax.Array, features: int) -> jax.Array:
    (bias,) = channel_vectors(features, bias=bias)
    if bias.dtype != x.dtype:
        raise UserError(f"bias has dtype {bias.dtype}; allowed: x's dtype, {x.dtype}")
    return bias


def add_bias(y: jax.Array, bias: jax.Array, geometry: Geometry) -> jax.Array:
    """y + bias in y's dtype, where a library can take it into its convolution.

    The gradient of the bias sums over all positions of all images: in float32 at least, whatever y is in. In half
    precision such a sum is wrong by a fifth, so the bias is spread out before it is rounded.
    """
    wide = bias.astype(compute_dtype(y, bias))
    return y + jnp.broadcast_to(along_channels(wide, geometry), y.shape).astype(y.dtype)


def along_channels(vector: jax.Array, geometry: Geometry) -> jax.Array:
    """The channel vector lined up with an activation, (1, C, 1, 1) or (1, 1, 1, C)."""
    spatial = (1,) * geometry.spatial_rank
    return vector.reshape((1, *spatial, -1) if geometry.channels_last else (1, -1, *spatial))
