"""MLX functions of the Ops. MLX convolves channels-last: (N, H, W, C) with filters (O, kh, kw, C / groups)."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
from pytensor.graph.basic import Apply
from pytensor.link.mlx.dispatch import mlx_funcify

from normbench.kernels.pytensor.batch_norm import BatchNormalization, channel_axis, check_arrays
from normbench.kernels.pytensor.checks import compute_dtype
from normbench.kernels.pytensor.conv import Conv2D, Conv2DFiltersGradient, Conv2DInputGradient, WindowOp, check_bias
from normbench.kernels.pytensor.reshape import ReshapeLike, SplitGroups


@mlx_funcify.register(BatchNormalization)
def batch_normalization(op: BatchNormalization, node: Apply, **kwargs: Any) -> Callable:
    dtype = getattr(mx, compute_dtype(*(variable.type.dtype for variable in node.inputs)))
    output_dtype = getattr(mx, node.outputs[0].type.dtype)

    def normalize(x, *vectors):
        check_arrays(x.shape, [vector.shape for vector in vectors])
        pattern = [-1 if axis == channel_axis(x.ndim) else 1 for axis in range(x.ndim)]
        gamma, beta, mean, variance = (vector.astype(dtype).reshape(pattern) for vector in vectors)
        scale = gamma * mx.rsqrt(variance + op.epsilon)
        return ((x.astype(dtype) - mean) * scale + beta).astype(output_dtype)

    return normalize


@mlx_funcify.register(Conv2D)
def conv2d(op: Conv2D, node: Apply, **kwargs: Any) -> Callable:
    output_dtype = getattr(mx, node.outputs[0].type.dtype)

    def convolve(x, filters, *bias):
        op.window.check_arrays(x.shape, filters.shape)
        y = _convolution(op, x.astype(output_dtype), filters.astype(output_dtype))
        for vector in bias:
            check_bias(filters.shape, vector.shape)
            y = y + vector.astype(output_dtype)[:, None, None]
        return y

    return convolve


@mlx_funcify.register(SplitGroups)
def split_groups(op: SplitGroups, **kwargs: Any) -> Callable:
    return op.split


@mlx_funcify.register(ReshapeLike)
def reshape_like(op: ReshapeLike, **kwargs: Any) -> Callable:
    return lambda x, like: x.reshape(like.shape)


@mlx_funcify.register(Conv2DInputGradient)
def input_gradient(op: Conv2DInputGradient, node: Apply, **kwargs: Any) -> Callable:
    return lambda x, filters, dy: mx.vjp(lambda value: _convolution(op, value, filters), [x], [dy])[1][0]


@mlx_funcify.register(Conv2DFiltersGradient)
def filters_gradient(op: Conv2DFiltersGradient, node: Apply, **kwargs: Any) -> Callable:
    return lambda filters, x, dy: mx.vjp(lambda value: _convolution(op, x, value), [filters], [dy])[1][0]


def _convolution(op: WindowOp, x: Any, filters: Any) -> Any:
    pads = op.window.pads(x.shape[2:], filters.shape[2:])
    padded = mx.pad(x, ((0, 0), (0, 0), *pads)).transpose(0, 2, 3, 1)
    y = mx.conv2d(padded, filters.transpose(0, 2, 3, 1), stride=op.stride, dilation=op.dilation, groups=op.groups)
    return y.transpose(0, 3, 1, 2)
