"""PyTorch functions of the Ops."""

from collections.abc import Callable
from typing import Any

import torch
from pytensor.graph.basic import Apply
from pytensor.link.pytorch.dispatch import pytorch_funcify

from normbench.kernels.pytensor.batch_norm import BatchNormalization, channel_axis, check_arrays
from normbench.kernels.pytensor.checks import compute_dtype
from normbench.kernels.pytensor.conv import Conv2D, Conv2DFiltersGradient, Conv2DInputGradient, WindowOp, check_bias
from normbench.kernels.pytensor.reshape import ReshapeLike, SplitGroups


@pytorch_funcify.register(BatchNormalization)
def batch_normalization(op: BatchNormalization, node: Apply, **kwargs: Any) -> Callable:
    dtype = getattr(torch, compute_dtype(*(variable.type.dtype for variable in node.inputs)))
    output_dtype, epsilon = getattr(torch, node.outputs[0].type.dtype), op.epsilon
    rank = node.inputs[0].type.ndim
    pattern = [-1 if axis == channel_axis(rank) else 1 for axis in range(rank)]

    def normalize(x, *vectors):
        check_arrays(x.shape, [vector.shape for vector in vectors])
        gamma, beta, mean, variance = (vector.to(dtype).reshape(pattern) for vector in vectors)
        scale = gamma * torch.rsqrt(variance + epsilon)
        return ((x.to(dtype) - mean) * scale + beta).to(output_dtype)

    return normalize


@pytorch_funcify.register(Conv2D)
def conv2d(op: Conv2D, node: Apply, **kwargs: Any) -> Callable:
    output_dtype = node.outputs[0].type.dtype
    dtype, output = getattr(torch, compute_dtype(output_dtype)), getattr(torch, output_dtype)

    def convolve(x, filters, *bias):
        op.window.check_arrays(x.shape, filters.shape)
        for vector in bias:
            check_bias(filters.shape, vector.shape)
        padded = torch.nn.functional.pad(x.to(dtype), _pads(op, x.shape, filters.shape))
        vector = bias[0].to(dtype) if bias else None
        stride, dilation, groups = op.stride, op.dilation, op.groups
        y = torch.nn.functional.conv2d(padded, filters.to(dtype), vector, stride, 0, dilation, groups)
        return y.to(output)

    return convolve


@pytorch_funcify.register(SplitGroups)
def split_groups(op: SplitGroups, **kwargs: Any) -> Callable:
    return op.split


@pytorch_funcify.register(ReshapeLike)
def reshape_like(op: ReshapeLike, **kwargs: Any) -> Callable:
    return lambda x, like: x.reshape(like.shape)


@pytorch_funcify.register(Conv2DInputGradient)
def input_gradient(op: Conv2DInputGradient, node: Apply, **kwargs: Any) -> Callable:
    def gradient(x, filters, dy):
        left, right, top, bottom = _pads(op, x.shape, filters.shape)
        batch, channels, height, width = x.shape
        padded = filters.new_empty(batch, channels, height + top + bottom, width + left + right)
        result = _backward(op, dy, padded, filters, 0)
        return result[:, :, top : top + height, left : left + width].to(x.dtype).contiguous()

    return gradient


@pytorch_funcify.register(Conv2DFiltersGradient)
def filters_gradient(op: Conv2DFiltersGradient, node: Apply, **kwargs: Any) -> Callable:
    def gradient(filters, x, dy):
        padded = torch.nn.functional.pad(x, _pads(op, x.shape, filters.shape))
        return _backward(op, dy, padded, filters, 1).to(filters.dtype)

    return gradient


def _backward(op: WindowOp, dy: torch.Tensor, padded: torch.Tensor, filters: torch.Tensor, which: int) -> torch.Tensor:
    """The gradient of the padded input (which = 0) or of the filters (which = 1), in the widest of the dtypes."""
    dtype = torch.promote_types(torch.promote_types(dy.dtype, padded.dtype), filters.dtype)
    arrays = (dy.to(dtype), padded.to(dtype), filters.to(dtype))
    wanted = [which == 0, which == 1, False]
    return torch.ops.aten.convolution_backward(
        *arrays, None, list(op.stride), [0, 0], list(op.dilation), False, [0, 0], op.groups, wanted
    )[which]


def _pads(op: WindowOp, x_shape: Any, filters_shape: Any) -> list[int]:
    """left, right, top, bottom"""
    (top, bottom), (left, right) = op.window.pads(x_shape[2:], filters_shape[2:])
    return [left, right, top, bottom]
