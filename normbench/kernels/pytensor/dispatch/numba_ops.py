"""Numba functions of the Ops: compiled loops, and matrix products of windows laid out as columns.

Convolutions are computed in the dtype of the output. Numba has no float16 on a CPU, nor has PyTensor's Numba backend.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from pytensor.graph.basic import Apply
from pytensor.link.numba.dispatch.basic import (
    default_hash_key_from_props,
    numba_njit,
    register_funcify_and_cache_key,
)

from normbench.kernels.pytensor.batch_norm import BatchNormalization, channel_axis
from normbench.kernels.pytensor.checks import compute_dtype
from normbench.kernels.pytensor.conv import Conv2D, Conv2DFiltersGradient, Conv2DInputGradient, WindowOp
from normbench.kernels.pytensor.dispatch.numba_window import columns_of, padding_of, scatter_columns
from normbench.kernels.pytensor.reshape import ReshapeLike, SplitGroups

_CACHE_VERSION = 1  # raise it when a function of this module or of numba_window changes: Numba caches on disk


@register_funcify_and_cache_key(BatchNormalization)
def batch_normalization(op: BatchNormalization, node: Apply, **kwargs: Any) -> tuple[Callable, str | None]:
    _check_dtypes(op, node)
    real = _type(compute_dtype(*(variable.type.dtype for variable in node.inputs)))
    output_real = _type(node.outputs[0].type.dtype)
    axis, one, epsilon = channel_axis(node.inputs[0].type.ndim), real(1), real(op.epsilon)

    @numba_njit
    def normalize(x, gamma, beta, mean, variance):
        channels = x.shape[axis]
        if not (len(gamma) == len(beta) == len(mean) == len(variance) == channels):
            raise ValueError("batch_normalization: a parameter's length differs from the number of channels of x")
        y = np.empty(x.shape, output_real)
        outer = 1 if axis == 0 else x.shape[0]
        inner = 1
        for i in range(axis + 1, x.ndim):
            inner *= x.shape[i]
        source = np.ascontiguousarray(x).reshape((outer, channels, inner))
        target = y.reshape((outer, channels, inner))
        scale = np.empty(channels, real)
        for c in range(channels):
            scale[c] = real(gamma[c]) * (one / np.sqrt(real(variance[c]) + epsilon))
        for n in range(outer):
            for c in range(channels):
                for i in range(inner):
                    target[n, c, i] = (real(source[n, c, i]) - real(mean[c])) * scale[c] + real(beta[c])
        return y

    return normalize, _key(op, node)


@register_funcify_and_cache_key(Conv2D)
def conv2d(op: Conv2D, node: Apply, **kwargs: Any) -> tuple[Callable, str | None]:
    _check_dtypes(op, node)
    real = _type(node.outputs[0].type.dtype)
    (sh, sw), (dh, dw), groups = op.stride, op.dilation, op.groups
    same, explicit = _padding(op)

    @numba_njit
    def convolve(x, filters):
        batch, channels, height, width = x.shape
        features, per_group, kh, kw = filters.shape
        if channels != per_group * groups or features % groups != 0:
            raise ValueError("conv2d: the channels of x, the filters and groups do not fit")
        top, bottom = padding_of(height, sh, dh * (kh - 1) + 1, same, explicit[0])
        left, right = padding_of(width, sw, dw * (kw - 1) + 1, same, explicit[1])
        out_height = (height + top + bottom - dh * (kh - 1) - 1) // sh + 1
        out_width = (width + left + right - dw * (kw - 1) - 1) // sw + 1
        if kh < 1 or kw < 1 or out_height < 1 or out_width < 1:
            raise ValueError("conv2d: the kernel leaves no output of x")
        y = np.empty((batch, groups, features // groups, out_height * out_width), real)
        weights = np.ascontiguousarray(filters).astype(real)
        weights = weights.reshape((groups, features // groups, per_group * kh * kw))
        for n in range(batch):
            for g in range(groups):
                part = x[n, g * per_group : (g + 1) * per_group]
                columns = columns_of(part, real, kh, kw, sh, sw, dh, dw, top, left, out_height, out_width)
                y[n, g] = np.dot(weights[g], columns)
        return y.reshape((batch, features, out_height, out_width))

    @numba_njit
    def convolve_and_add(x, filters, bias):
        if len(bias) != filters.shape[0]:
            raise ValueError("conv2d: the length of the bias differs from the number of output channels")
        y = convolve(x, filters)
        for n in range(y.shape[0]):
            for c in range(y.shape[1]):
                y[n, c] += real(bias[c])
        return y

    return (convolve if len(node.inputs) == 2 else convolve_and_add), _key(op, node)


@register_funcify_and_cache_key(Conv2DInputGradient)
def input_gradient(op: Conv2DInputGradient, node: Apply, **kwargs: Any) -> tuple[Callable, str | None]:
    _check_dtypes(op, node)
    real = _type(node.outputs[0].type.dtype)
    (sh, sw), (dh, dw), groups = op.stride, op.dilation, op.groups
    same, explicit = _padding(op)

    @numba_njit
    def gradient(x, filters, dy):
        _, _, height, width = x.shape
        batch, _, out_height, out_width = dy.shape
        features, per_group, kh, kw = filters.shape
        top, _ = padding_of(height, sh, dh * (kh - 1) + 1, same, explicit[0])
        left, _ = padding_of(width, sw, dw * (kw - 1) + 1, same, explicit[1])
        dx = np.zeros(x.shape, real)
        weights = np.ascontiguousarray(filters).astype(real)
        weights = weights.reshape((groups, features // groups, per_group * kh * kw))
        slopes = np.ascontiguousarray(dy).astype(real)
        slopes = slopes.reshape((batch, groups, features // groups, out_height * out_width))
        for n in range(batch):
            for g in range(groups):
                columns = np.dot(np.ascontiguousarray(weights[g].T), slopes[n, g])
                part = dx[n, g * per_group : (g + 1) * per_group]
                scatter_columns(columns, part, kh, kw, sh, sw, dh, dw, top, left, out_height, out_width)
        return dx

    return gradient, _key(op, node)


@register_funcify_and_cache_key(Conv2DFiltersGradient)
def filters_gradient(op: Conv2DFiltersGradient, node: Apply, **kwargs: Any) -> tuple[Callable, str | None]:
    _check_dtypes(op, node)
    real = _type(node.outputs[0].type.dtype)
    (sh, sw), (dh, dw), groups = op.stride, op.dilation, op.groups
    same, explicit = _padding(op)

    @numba_njit
    def gradient(filters, x, dy):
        batch, _, height, width = x.shape
        out_height, out_width = dy.shape[2], dy.shape[3]
        features, per_group, kh, kw = filters.shape
        top, _ = padding_of(height, sh, dh * (kh - 1) + 1, same, explicit[0])
        left, _ = padding_of(width, sw, dw * (kw - 1) + 1, same, explicit[1])
        result = np.zeros((groups, features // groups, per_group * kh * kw), real)
        slopes = np.ascontiguousarray(dy).astype(real)
        slopes = slopes.reshape((batch, groups, features // groups, out_height * out_width))
        for n in range(batch):
            for g in range(groups):
                part = x[n, g * per_group : (g + 1) * per_group]
                columns = columns_of(part, real, kh, kw, sh, sw, dh, dw, top, left, out_height, out_width)
                result[g] += np.dot(slopes[n, g], np.ascontiguousarray(columns.T))
        return result.reshape(filters.shape)

    return gradient, _key(op, node)


@register_funcify_and_cache_key(SplitGroups)
def split_groups(op: SplitGroups, node: Apply, **kwargs: Any) -> tuple[Callable, str | None]:
    groups = op.groups

    @numba_njit
    def split(x):
        if x.shape[1] % groups != 0:
            raise ValueError("group_normalization: groups does not divide the number of channels of x")
        rest = 1
        for i in range(1, x.ndim):
            rest *= x.shape[i]
        return np.ascontiguousarray(x).reshape((x.shape[0], groups, rest // groups))

    return split, _key(op, node)


@register_funcify_and_cache_key(ReshapeLike)
def reshape_like(op: ReshapeLike, node: Apply, **kwargs: Any) -> tuple[Callable, str | None]:
    @numba_njit
    def reshape(x, like):
        return np.ascontiguousarray(x).reshape(like.shape)

    return reshape, _key(op, node)


def _key(op: Any, node: Apply) -> str:
    dtypes = ",".join(variable.type.dtype for variable in (*node.inputs, *node.outputs))
    return default_hash_key_from_props(op, dtypes=dtypes, cache_version=_CACHE_VERSION)


def _type(dtype: str) -> type:
    """The scalar type of that name, which compiled code can call and allocate with."""
    return np.dtype(dtype).type


def _check_dtypes(op: Any, node: Apply) -> None:
    if any(variable.type.dtype == "float16" for variable in (*node.inputs, *node.outputs)):
        raise NotImplementedError(f"Numba has no float16 on a CPU: cast the inputs of {op} to float32")


def _padding(op: WindowOp) -> tuple[bool, tuple[tuple[int, int], tuple[int, int]]]:
    """Whether the padding is "same", and the pairs where it is not."""
    if isinstance(op.padding, str):
        return True, ((0, 0), (0, 0))
    return False, op.padding
