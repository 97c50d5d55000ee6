"""MLX functions of the Ops. MLX convolves channels-last: (N, ..., C) with filters (O, kernel..., C / groups)."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
from pytensor.graph.basic import Apply
from pytensor.link.mlx.dispatch import mlx_funcify

from normbench.kernels.pytensor.batch_norm import BatchNormalization
from normbench.kernels.pytensor.checks import compute_dtype
from normbench.kernels.pytensor.conv.ops import (
    Convolution,
    ConvolutionFiltersGradient,
    ConvolutionInputGradient,
    WindowOp,
    check_bias,
)
from normbench.kernels.pytensor.conv.sizes import AxisSize
from normbench.kernels.pytensor.reshape import ReshapeLike, SplitGroups


@mlx_funcify.register(BatchNormalization)
def batch_normalization(op: BatchNormalization, node: Apply, **kwargs: Any) -> Callable:
    dtype = getattr(mx, compute_dtype(*(variable.type.dtype for variable in node.inputs)))
    output_dtype = getattr(mx, node.outputs[0].type.dtype)

    def normalize(x, *vectors):
        op.check_arrays(x.shape, [vector.shape for vector in vectors])
        gamma, beta, mean, variance = (vector.astype(dtype).reshape(op.pattern(x.ndim)) for vector in vectors)
        scale = gamma * mx.rsqrt(variance + op.epsilon)
        return ((x.astype(dtype) - mean) * scale + beta).astype(output_dtype)

    return normalize


@mlx_funcify.register(Convolution)
def convolution(op: Convolution, node: Apply, **kwargs: Any) -> Callable:
    output_dtype = getattr(mx, node.outputs[0].type.dtype)

    def convolve(x, filters, *bias):
        op.window.check_arrays(x.shape, filters.shape)
        y = _convolution(op, x.astype(output_dtype), filters.astype(output_dtype))
        for vector in bias:
            check_bias(filters.shape, vector.shape)
            y = y + vector.astype(output_dtype).reshape(-1, *(1,) * op.window.rank)
        return y

    return convolve


@mlx_funcify.register(AxisSize)
def axis_size(op: AxisSize, **kwargs: Any) -> Callable:
    return lambda size, kernel: op.calculate(int(size), int(kernel))


@mlx_funcify.register(SplitGroups)
def split_groups(op: SplitGroups, **kwargs: Any) -> Callable:
    return op.split


@mlx_funcify.register(ReshapeLike)
def reshape_like(op: ReshapeLike, **kwargs: Any) -> Callable:
    return lambda x, like: x.reshape(like.shape)


@mlx_funcify.register(ConvolutionInputGradient)
def input_gradient(op: ConvolutionInputGradient, node: Apply, **kwargs: Any) -> Callable:
    return lambda x, filters, dy: mx.vjp(lambda value: _convolution(op, value, filters), [x], [dy])[1][0]


@mlx_funcify.register(ConvolutionFiltersGradient)
def filters_gradient(op: ConvolutionFiltersGradient, node: Apply, **kwargs: Any) -> Callable:
    return lambda filters, x, dy: mx.vjp(lambda value: _convolution(op, x, value), [filters], [dy])[1][0]


def _convolution(op: WindowOp, x: Any, filters: Any) -> Any:
    rank = op.window.rank
    last, first = (0, *range(2, 2 + rank), 1), (0, 1 + rank, *range(1, 1 + rank))
    padded = mx.pad(x, ((0, 0), (0, 0), *op.window.pads(x.shape[2:], filters.shape[2:]))).transpose(*last)
    y = mx.conv_general(
        padded, filters.transpose(*last), stride=op.stride, kernel_dilation=op.dilation, groups=op.groups
    )
    return y.transpose(*first)
