"""PyTorch functions of the Ops."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from pytensor.graph.basic import Apply
from pytensor.link.pytorch.dispatch import pytorch_funcify

from normbench.kernels.pytensor.batch_norm import BatchNormalization
from normbench.kernels.pytensor.checks import compute_dtype
from normbench.kernels.pytensor.conv.ops import (
    Convolution,
    ConvolutionFiltersGradient,
    ConvolutionInputGradient,
    TransposedConvolution,
    WindowOp,
    check_bias,
)
from normbench.kernels.pytensor.conv.pool import MaxPool, MaxPoolGradient, MaxPoolSelect, PoolOp
from normbench.kernels.pytensor.conv.sizes import AxisSize
from normbench.kernels.pytensor.reshape import ReshapeLike, SplitGroups


@pytorch_funcify.register(BatchNormalization)
def batch_normalization(op: BatchNormalization, node: Apply, **kwargs: Any) -> Callable:
    dtype = getattr(torch, compute_dtype(*(variable.type.dtype for variable in node.inputs)))
    output_dtype, epsilon = getattr(torch, node.outputs[0].type.dtype), op.epsilon
    pattern = op.pattern(node.inputs[0].type.ndim)

    def normalize(x, *vectors):
        op.check_arrays(x.shape, [vector.shape for vector in vectors])
        gamma, beta, mean, variance = (vector.to(dtype).reshape(pattern) for vector in vectors)
        scale = gamma * torch.rsqrt(variance + epsilon)
        return ((x.to(dtype) - mean) * scale + beta).to(output_dtype)

    return normalize


@pytorch_funcify.register(Convolution)
def convolution(op: Convolution, node: Apply, **kwargs: Any) -> Callable:
    output_dtype = node.outputs[0].type.dtype
    dtype, output = getattr(torch, compute_dtype(output_dtype)), getattr(torch, output_dtype)
    convolve_in_torch = getattr(torch.nn.functional, f"conv{op.window.rank}d")

    def convolve(x, filters, *bias):
        op.window.check_arrays(x.shape, filters.shape)
        for vector in bias:
            check_bias(filters.shape, vector.shape)
        padded = torch.nn.functional.pad(x.to(dtype), _pads(op, x.shape[2:], filters.shape[2:]))
        vector = bias[0].to(dtype) if bias else None
        y = convolve_in_torch(padded, filters.to(dtype), vector, op.stride, 0, op.dilation, op.groups)
        return y.to(output)

    return convolve


@pytorch_funcify.register(AxisSize)
def axis_size(op: AxisSize, **kwargs: Any) -> Callable:
    return lambda size, kernel: op.calculate(int(size), int(kernel))


@pytorch_funcify.register(SplitGroups)
def split_groups(op: SplitGroups, **kwargs: Any) -> Callable:
    return op.split


@pytorch_funcify.register(ReshapeLike)
def reshape_like(op: ReshapeLike, **kwargs: Any) -> Callable:
    return lambda x, like: x.reshape(like.shape)


@pytorch_funcify.register(ConvolutionInputGradient)
def input_gradient(op: ConvolutionInputGradient, **kwargs: Any) -> Callable:
    return lambda x, filters, dy: _input_gradient(op, x.shape, filters, dy).to(x.dtype)


@pytorch_funcify.register(TransposedConvolution)
def transposed_convolution(op: TransposedConvolution, node: Apply, **kwargs: Any) -> Callable:
    output_dtype = getattr(torch, node.outputs[0].type.dtype)
    dtype = getattr(torch, compute_dtype(node.outputs[0].type.dtype))

    def convolve(x, filters):
        shape = op.result_shape(x.shape, filters.shape)
        return _input_gradient(op, shape, filters.to(dtype), x.to(dtype)).to(output_dtype)

    return convolve


@pytorch_funcify.register(ConvolutionFiltersGradient)
def filters_gradient(op: ConvolutionFiltersGradient, **kwargs: Any) -> Callable:
    def gradient(filters, x, dy):
        padded = torch.nn.functional.pad(x, _pads(op, x.shape[2:], filters.shape[2:]))
        return _backward(op, dy, padded, filters, 1).to(filters.dtype)

    return gradient


@pytorch_funcify.register(MaxPool)
def max_pool(op: MaxPool, **kwargs: Any) -> Callable:
    return lambda x: _max_pool(op, x)[0]


@pytorch_funcify.register(MaxPoolSelect)
def max_pool_select(op: MaxPoolSelect, **kwargs: Any) -> Callable:
    def select(x, values):
        _, places, _ = _max_pool(op, x)
        padded = torch.nn.functional.pad(values.to(x.dtype), _pads(op, x.shape[2:], op.kernel))
        return padded.flatten(2).gather(2, places.flatten(2)).reshape(places.shape)

    return select


@pytorch_funcify.register(MaxPoolGradient)
def max_pool_gradient(op: MaxPoolGradient, **kwargs: Any) -> Callable:
    def gradient(x, dy):
        _, places, padded = _max_pool(op, x)
        flat = torch.zeros_like(padded).flatten(2)
        flat = flat.scatter_add(2, places.flatten(2), dy.to(x.dtype).flatten(2))
        return _inside(op, flat.reshape(padded.shape), x.shape, op.kernel)

    return gradient


def _max_pool(op: PoolOp, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The maxima, their places in a channel of the padded x, and the padded x."""
    op.window.check_sizes(x.shape[2:], op.kernel)
    padded = torch.nn.functional.pad(x, _pads(op, x.shape[2:], op.kernel), value=-torch.inf)
    y, places = torch.nn.functional.max_pool2d(padded, op.kernel, op.stride, 0, op.dilation, return_indices=True)
    return y, places, padded


def _input_gradient(op: WindowOp, shape: Sequence[int], filters: torch.Tensor, dy: torch.Tensor) -> torch.Tensor:
    pads = op.window.pads(shape[2:], filters.shape[2:])
    sizes = [size + low + high for size, (low, high) in zip(shape[2:], pads, strict=True)]
    padded = filters.new_empty(*shape[:2], *sizes)
    return _inside(op, _backward(op, dy, padded, filters, 0), shape, filters.shape[2:])


def _inside(op: WindowOp, padded: torch.Tensor, shape: Sequence[int], kernel: Sequence[int]) -> torch.Tensor:
    """The part of a padded array that is not padding."""
    pads = op.window.pads(shape[2:], kernel)
    inner = tuple(slice(low, low + size) for size, (low, _) in zip(shape[2:], pads, strict=True))
    return padded[(slice(None), slice(None), *inner)].contiguous()


def _backward(op: WindowOp, dy: torch.Tensor, padded: torch.Tensor, filters: torch.Tensor, which: int) -> torch.Tensor:
    """The gradient of the padded input (which = 0) or of the filters (which = 1), in the widest of the dtypes."""
    dtype = torch.promote_types(torch.promote_types(dy.dtype, padded.dtype), filters.dtype)
    arrays = (dy.to(dtype), padded.to(dtype), filters.to(dtype))
    wanted, zeros = [which == 0, which == 1, False], [0] * op.window.rank
    return torch.ops.aten.convolution_backward(
        *arrays, None, list(op.stride), zeros, list(op.dilation), False, zeros, op.groups, wanted
    )[which]


def _pads(op: WindowOp, spatial: Any, kernel: Any) -> list[int]:
    """As PyTorch wants them: the last axis first."""
    return [pad for pair in reversed(op.window.pads(spatial, kernel)) for pad in pair]
