"""Weights and bias folded once, ahead of the call: `prepare`, then `apply` for every x."""

from collections.abc import Sequence
from typing import Any

import jax

from normbench.kernels.common.activations import activate, check_activation
from normbench.kernels.common.checks import compute_dtype
from normbench.kernels.conv_bn.arguments import add_bias, checked, checked_bias, checked_inputs
from normbench.kernels.conv_bn.convolution import convolve
from normbench.kernels.conv_bn.fold import fold_conv_bn, rounded
from normbench.kernels.conv_bn.geometry import Padding, geometry


def prepare(
    weight: jax.Array,
    bias: jax.Array | None,
    gamma: jax.Array,
    beta: jax.Array,
    mean: jax.Array,
    variance: jax.Array,
    epsilon: float = 1e-5,
    *,
    layout: str = "nchw",
    groups: int = 1,
    transposed: bool = False,
    **_: Any,
) -> tuple[jax.Array, jax.Array]:
    """Returns the folded (weight, bias) in the weight's dtype, by `fold_conv_bn`.

    Arguments as for `unfused`; the keywords that the fold does not depend on are ignored. A float16 weight may be
    beyond 65504 once it is folded: refused where its values are known, infinite where they are traced.
    """
    params = {"weight": weight, "bias": bias, "gamma": gamma, "beta": beta, "mean": mean, "variance": variance}
    folded = fold_conv_bn(params, epsilon=epsilon, layout=layout, groups=groups, transposed=transposed)
    return folded["weight"], folded["bias"]


def apply(
    x: jax.Array,
    weight: jax.Array,
    bias: jax.Array,
    epsilon: float = 1e-5,
    *,
    layout: str = "nchw",
    stride: int | Sequence[int] = 1,
    padding: Padding = "same",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    transposed: bool = False,
    activation: str = "silu",
) -> jax.Array:
    """y = act(convolution(x, weight) + bias) in x's dtype, with the folded weight and bias.

    The bias is added in x's dtype, so that a library's fused convolution and bias can take it. `epsilon` is in the
    folded weight already. Arguments and errors as for `unfused`.
    """
    check_activation(activation)
    shape = geometry(layout, stride, padding, dilation, groups, transposed)
    x, weight = checked_inputs(x, weight, shape)
    bias = checked_bias(bias, x, shape.features(weight.shape))
    return activate(add_bias(convolve(x, weight, shape), bias, shape), activation)


def prefolded(
    x: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None,
    gamma: jax.Array,
    beta: jax.Array,
    mean: jax.Array,
    variance: jax.Array,
    epsilon: float = 1e-5,
    *,
    layout: str = "nchw",
    stride: int | Sequence[int] = 1,
    padding: Padding = "same",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    transposed: bool = False,
    activation: str = "silu",
) -> jax.Array:
    """`apply` of what `prepare` returns: the operator's own signature, for callers that do not fold ahead.

    The folded bias stays in float32 until it is added, and its gradient with it: in that of gamma it meets the mean,
    and cancels against what comes by way of the weight.
    """
    shape = geometry(layout, stride, padding, dilation, groups, transposed)
    a = checked(x, weight, bias, gamma, beta, mean, variance, epsilon, shape, activation)
    params = dict(zip(("weight", "bias", "gamma", "beta", "mean", "variance"), a[1:7], strict=True))
    convolution: dict[str, Any] = {"layout": layout, "groups": groups, "transposed": transposed}
    wide = compute_dtype(*(array for array in a[:7] if array is not None)).name
    fold = fold_conv_bn(params, epsilon=a.epsilon, **convolution, bias_dtype=wide)
    rounded("bias", fold["bias"], a.x.dtype, {name: array for name, array in params.items() if array is not None})
    return activate(add_bias(convolve(a.x, fold["weight"], shape), fold["bias"], shape), activation)
