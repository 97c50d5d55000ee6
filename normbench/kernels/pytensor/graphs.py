"""The operators of the registry as PyTensor graphs, in the registry's own signatures.

Each builder takes symbolic arrays and the operator's keywords and returns y in x's dtype. Channels are on axis 1.
"""

import math
from collections.abc import Callable
from typing import Any

import pytensor.tensor as pt
from pytensor.tensor.variable import TensorVariable

from normbench.kernels.pytensor.batch_norm import batch_normalization, channel_axis
from normbench.kernels.pytensor.checks import compute_dtype, number
from normbench.kernels.pytensor.conv.functions import conv2d, silu
from normbench.kernels.pytensor.normalizations import (
    group_normalization,
    instance_normalization,
    layer_normalization,
    rms_normalization,
)

Graph = Callable[..., TensorVariable]


def _batch_norm(x, gamma, beta, mean, variance, *, epsilon, activation, **_) -> TensorVariable:
    return _activate(batch_normalization(x, gamma, beta, mean, variance, epsilon), activation)


def _scale_and_shift(x, scale, shift, *, activation, **_) -> TensorVariable:
    """What the rewrite `batchnorm_fold` leaves, with the constants as inputs."""
    dtype = compute_dtype(*(variable.type.dtype for variable in (x, scale, shift)))
    pattern = [0 if axis == channel_axis(x.type.ndim) else "x" for axis in range(x.type.ndim)]
    factor, term = (vector.astype(dtype).dimshuffle(pattern) for vector in (scale, shift))
    return _activate(x.astype(dtype) * factor + term, activation).astype(x.type.dtype)


def _conv_bn(x, weight, bias, gamma, beta, mean, variance, *, epsilon, activation, **keywords) -> TensorVariable:
    y = conv2d(x, weight, bias, **_window(keywords))
    return _activate(batch_normalization(y, gamma, beta, mean, variance, epsilon), activation)


def _conv_bias(x, weight, bias, *, activation, **keywords) -> TensorVariable:
    """What the rewrite `conv_bn_fold` leaves, with the constants as inputs."""
    return _activate(conv2d(x, weight, bias, **_window(keywords)), activation).astype(x.type.dtype)


def _layer_norm(x, gamma, beta, *, epsilon, ndim, activation) -> TensorVariable:
    return _activate(layer_normalization(x, gamma, beta, normalized_rank=ndim, epsilon=epsilon), activation)


def _rms_norm(x, gamma, *, epsilon, ndim, activation) -> TensorVariable:
    return _activate(rms_normalization(x, gamma, normalized_rank=ndim, epsilon=epsilon), activation)


def _group_norm(x, gamma, beta, *, epsilon, groups, activation, **_) -> TensorVariable:
    return _activate(group_normalization(x, groups, gamma, beta, epsilon=epsilon), activation)


def _instance_norm(x, gamma, beta, *, epsilon, activation, **_) -> TensorVariable:
    return _activate(instance_normalization(x, gamma, beta, epsilon=epsilon), activation)


def _window(keywords: dict[str, Any]) -> dict[str, Any]:
    return {name: keywords[name] for name in ("stride", "padding", "dilation", "groups")}


def _activate(y: TensorVariable, activation: str) -> TensorVariable:
    """act(y) in y's dtype, calculated in float32 at least."""
    if activation == "none":
        return y
    dtype = compute_dtype(y.type.dtype)
    return _ACTIVATIONS[activation](y.astype(dtype)).astype(y.type.dtype)


def _gelu(z: TensorVariable) -> TensorVariable:
    half, one, root, cubic = (
        number(v, z.type.dtype) for v in (0.5, 1.0, math.sqrt(2 / math.pi), math.sqrt(2 / math.pi) * 0.044715)
    )
    return half * z * (one + pt.tanh(z * (root + cubic * z * z)))


_ACTIVATIONS = {"relu": lambda z: pt.maximum(z, number(0.0, z.type.dtype)), "silu": silu, "gelu": _gelu}

GRAPHS: dict[str, Graph] = {
    "batch_norm": _batch_norm,
    "conv_bn": _conv_bn,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "group_norm": _group_norm,
    "instance_norm": _instance_norm,
}
PREFOLDED: dict[str, Graph] = {"batch_norm": _scale_and_shift, "conv_bn": _conv_bias}
"""Of what the operator's `prepare` returns."""
