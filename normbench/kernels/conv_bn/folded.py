"""Weights and bias folded inside the call: one small fold of the parameters, then one convolution with a bias."""

from typing import Any

import jax

from normbench.kernels.conv_bn.prefolded import prefolded


def folded(
    x: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None,
    gamma: jax.Array,
    beta: jax.Array,
    mean: jax.Array,
    variance: jax.Array,
    epsilon: float = 1e-5,
    **keywords: Any,
) -> jax.Array:
    """y = act(convolution(x, weight * scale) + shift), with the fold computed at each call.

    scale = gamma / sqrt(variance + epsilon), shift = (bias - mean) * scale + beta. Arguments, keywords, output and
    errors as for `unfused`. It is `prefolded` without the work being done ahead; a study times the two apart.
    """
    return prefolded(x, weight, bias, gamma, beta, mean, variance, epsilon, **keywords)
