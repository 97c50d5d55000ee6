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

from normbench.kernels.pytensor.batch_norm import BatchNormalization
from normbench.kernels.pytensor.checks import compute_dtype
from normbench.kernels.pytensor.conv.ops import (
    Convolution,
    ConvolutionFiltersGradient,
    ConvolutionInputGradient,
    TransposedConvolution,
    WindowOp,
)
from normbench.kernels.pytensor.conv.sizes import AxisSize
from normbench.kernels.pytensor.dispatch.numba_window import PADDINGS, columns_of, padding_of, scatter_columns
from normbench.kernels.pytensor.reshape import ReshapeLike, SplitGroups

CACHE_VERSION = 2  # raise it when a function of this module, numba_pool or numba_window changes: Numba caches on disk


@register_funcify_and_cache_key(BatchNormalization)
def batch_normalization(op: BatchNormalization, node: Apply, **kwargs: Any) -> tuple[Callable, str | None]:
    check_dtypes(op, node)
    real = real_type(compute_dtype(*(variable.type.dtype for variable in node.inputs)))
    output_real = real_type(node.outputs[0].type.dtype)
    axis, one, epsilon = op.channel_axis(node.inputs[0].type.ndim), real(1), real(op.epsilon)

    @numba_njit
    def normalize(x, gamma, beta, mean, variance):
        channels = x.shape[axis]
        if not (len(gamma) == len(beta) == len(mean) == len(variance) == channels):
            raise ValueError("batch_normalization: a parameter's length differs from the number of channels of x")
        y = np.empty(x.shape, output_real)
        outer, inner = 1, 1
        for i in range(axis):
            outer *= x.shape[i]
        for i in range(axis + 1, x.ndim):
            inner *= x.shape[i]
        source = np.ascontiguousarray(x).reshape((outer, channels, inner))
        target = y.reshape((outer, channels, inner))
        scale = np.empty(channels, real)
        for c in range(channels):  # the ufunc divides by zero as NumPy does, where Python's operator would raise
            scale[c] = real(gamma[c]) * np.divide(one, np.sqrt(real(variance[c]) + epsilon))
        for n in range(outer):
            for c in range(channels):
                for i in range(inner):
                    target[n, c, i] = (real(source[n, c, i]) - real(mean[c])) * scale[c] + real(beta[c])
        return y

    return normalize, key(op, node)


@register_funcify_and_cache_key(Convolution)
def convolution(op: Convolution, node: Apply, **kwargs: Any) -> tuple[Callable, str | None]:
    check_dtypes(op, node)
    real = real_type(node.outputs[0].type.dtype)
    groups = op.groups
    stride, dilation, kind, explicit = window_of(op)
    volume, restore = _as_volume(op), _from_volume(op)

    @numba_njit
    def convolve(x, filters):
        images, weights = volume(x), volume(filters)
        batch, channels = images.shape[:2]
        features, per_group = weights.shape[:2]
        sizes, kernel = images.shape[2:], weights.shape[2:]
        if channels != per_group * groups or features % groups != 0:
            raise ValueError("conv: the channels of x, the filters and groups do not fit")
        low0, high0 = padding_of(sizes[0], stride[0], dilation[0] * (kernel[0] - 1) + 1, kind, explicit[0])
        low1, high1 = padding_of(sizes[1], stride[1], dilation[1] * (kernel[1] - 1) + 1, kind, explicit[1])
        low2, high2 = padding_of(sizes[2], stride[2], dilation[2] * (kernel[2] - 1) + 1, kind, explicit[2])
        output = (
            (sizes[0] + low0 + high0 - dilation[0] * (kernel[0] - 1) - 1) // stride[0] + 1,
            (sizes[1] + low1 + high1 - dilation[1] * (kernel[1] - 1) - 1) // stride[1] + 1,
            (sizes[2] + low2 + high2 - dilation[2] * (kernel[2] - 1) - 1) // stride[2] + 1,
        )
        if min(kernel) < 1 or min(output) < 1:
            raise ValueError("conv: the kernel leaves no output of x")
        y = np.empty((batch, groups, features // groups, output[0] * output[1] * output[2]), real)
        rows = np.ascontiguousarray(weights).astype(real)
        rows = rows.reshape((groups, features // groups, per_group * kernel[0] * kernel[1] * kernel[2]))
        for n in range(batch):
            for g in range(groups):
                part = images[n, g * per_group : (g + 1) * per_group]
                columns = columns_of(part, real, kernel, stride, dilation, (low0, low1, low2), output)
                y[n, g] = np.dot(rows[g], columns)
        return restore(y.reshape((batch, features, output[0], output[1], output[2])))

    @numba_njit
    def convolve_and_add(x, filters, bias):
        if len(bias) != filters.shape[0]:
            raise ValueError("conv: the length of the bias differs from the number of output channels")
        y = convolve(x, filters)
        for n in range(y.shape[0]):
            for c in range(y.shape[1]):
                y[n, c] += real(bias[c])
        return y

    return (convolve if len(node.inputs) == 2 else convolve_and_add), key(op, node)


@register_funcify_and_cache_key(ConvolutionInputGradient)
def input_gradient(op: ConvolutionInputGradient, node: Apply, **kwargs: Any) -> tuple[Callable, str | None]:
    check_dtypes(op, node)
    transposed = _transposed(op, real_type(node.outputs[0].type.dtype))

    @numba_njit
    def gradient(x, filters, dy):
        return transposed(filters, dy, x.shape)

    return gradient, key(op, node)


@register_funcify_and_cache_key(TransposedConvolution)
def transposed_convolution(op: TransposedConvolution, node: Apply, **kwargs: Any) -> tuple[Callable, str | None]:
    check_dtypes(op, node)
    transposed = _transposed(op, real_type(node.outputs[0].type.dtype))
    stride, dilation, more, groups, full = op.stride, op.dilation, op.more, op.groups, op.padding == "full"
    taken = tuple((0, 0) if isinstance(op.padding, str) else pair for pair in op.padding) if not full else ((0, 0),) * 3
    axes = range(op.window.rank)

    @numba_njit
    def size_of(axis, size, kernel):
        extent = dilation[axis] * (kernel - 1) + 1
        pads = 2 * (extent - 1) if full else taken[axis][0] + taken[axis][1]
        return (size - 1) * stride[axis] + extent - pads + more[axis]

    if len(axes) == 1:

        @numba_njit
        def shape_of(x, filters):
            return (x.shape[0], filters.shape[1] * groups, size_of(0, x.shape[2], filters.shape[2]))

    elif len(axes) == 2:

        @numba_njit
        def shape_of(x, filters):
            height, width = size_of(0, x.shape[2], filters.shape[2]), size_of(1, x.shape[3], filters.shape[3])
            return (x.shape[0], filters.shape[1] * groups, height, width)

    else:

        @numba_njit
        def shape_of(x, filters):
            depth = size_of(0, x.shape[2], filters.shape[2])
            height, width = size_of(1, x.shape[3], filters.shape[3]), size_of(2, x.shape[4], filters.shape[4])
            return (x.shape[0], filters.shape[1] * groups, depth, height, width)

    @numba_njit
    def convolve(x, filters):
        if x.shape[1] != filters.shape[0]:
            raise ValueError("conv_transpose: the channels of x and the filters differ")
        return transposed(filters, x, shape_of(x, filters))

    return convolve, key(op, node)


@register_funcify_and_cache_key(ConvolutionFiltersGradient)
def filters_gradient(op: ConvolutionFiltersGradient, node: Apply, **kwargs: Any) -> tuple[Callable, str | None]:
    check_dtypes(op, node)
    real = real_type(node.outputs[0].type.dtype)
    groups = op.groups
    stride, dilation, kind, explicit = window_of(op)
    volume = _as_volume(op)

    @numba_njit
    def gradient(filters, x, dy):
        images, slopes = volume(x), volume(dy)
        batch, sizes, output = images.shape[0], images.shape[2:], slopes.shape[2:]
        features, per_group = filters.shape[:2]
        kernel = volume(filters).shape[2:]
        low0, _ = padding_of(sizes[0], stride[0], dilation[0] * (kernel[0] - 1) + 1, kind, explicit[0])
        low1, _ = padding_of(sizes[1], stride[1], dilation[1] * (kernel[1] - 1) + 1, kind, explicit[1])
        low2, _ = padding_of(sizes[2], stride[2], dilation[2] * (kernel[2] - 1) + 1, kind, explicit[2])
        result = np.zeros((groups, features // groups, per_group * kernel[0] * kernel[1] * kernel[2]), real)
        rows = np.ascontiguousarray(slopes).astype(real)
        rows = rows.reshape((batch, groups, features // groups, output[0] * output[1] * output[2]))
        for n in range(batch):
            for g in range(groups):
                part = images[n, g * per_group : (g + 1) * per_group]
                columns = columns_of(part, real, kernel, stride, dilation, (low0, low1, low2), output)
                result[g] += np.dot(rows[n, g], np.ascontiguousarray(columns.T))
        return result.reshape(filters.shape)

    return gradient, key(op, node)


@register_funcify_and_cache_key(AxisSize)
def axis_size(op: AxisSize, node: Apply, **kwargs: Any) -> tuple[Callable, str | None]:
    kind = PADDINGS.index(op.padding) if isinstance(op.padding, str) else 0
    explicit = (0, 0) if kind else op.padding
    stride, dilation, transposed, more = op.stride, op.dilation, op.more is not None, op.more or 0

    @numba_njit
    def calculate(size, kernel):
        length, extent = size.item(), dilation * (kernel.item() - 1) + 1
        low, high = padding_of(length, stride, extent, kind, explicit)
        if transposed:
            return np.asarray((length - 1) * stride + extent - low - high + more)
        return np.asarray((length + low + high - extent) // stride + 1)

    return calculate, key(op, node)


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

    return split, key(op, node)


@register_funcify_and_cache_key(ReshapeLike)
def reshape_like(op: ReshapeLike, node: Apply, **kwargs: Any) -> tuple[Callable, str | None]:
    @numba_njit
    def reshape(x, like):
        return np.ascontiguousarray(x).reshape(like.shape)

    return reshape, key(op, node)


def key(op: Any, node: Apply) -> str:
    """What tells compiled functions apart on disk: the Op's properties, and the ranks and dtypes of its arrays."""
    types = ",".join(f"{variable.type.ndim}{variable.type.dtype}" for variable in (*node.inputs, *node.outputs))
    return default_hash_key_from_props(op, types=types, cache_version=CACHE_VERSION)


def real_type(dtype: str) -> type:
    """The scalar type of that name, which compiled code can call and allocate with."""
    return np.dtype(dtype).type


def check_dtypes(op: Any, node: Apply) -> None:
    if any(variable.type.dtype == "float16" for variable in (*node.inputs, *node.outputs)):
        raise NotImplementedError(f"Numba has no float16 on a CPU: cast the inputs of {op} to float32")


def window_of(op: WindowOp) -> tuple[Any, Any, int, Any]:
    """Stride, dilation, the place of the padding in `PADDINGS`, and its pairs, all for three axes."""
    missing = 3 - op.window.rank
    kind, pairs = (PADDINGS.index(op.padding), ()) if isinstance(op.padding, str) else (0, op.padding)
    explicit = ((0, 0),) * (3 - len(pairs)) + pairs
    return (1,) * missing + op.stride, (1,) * missing + op.dilation, kind, explicit


def _transposed(op: WindowOp, real: type) -> Callable:
    """(filters, gradient of y, shape of x) to the gradient of x."""
    groups = op.groups
    stride, dilation, kind, explicit = window_of(op)
    volume = _as_volume(op)

    @numba_njit
    def transposed(filters, dy, shape):
        x = np.zeros(shape, real)
        images, slopes, taps = volume(x), volume(dy), volume(filters)
        batch, sizes, output = images.shape[0], images.shape[2:], slopes.shape[2:]
        features, per_group = filters.shape[:2]
        kernel = taps.shape[2:]
        low0, _ = padding_of(sizes[0], stride[0], dilation[0] * (kernel[0] - 1) + 1, kind, explicit[0])
        low1, _ = padding_of(sizes[1], stride[1], dilation[1] * (kernel[1] - 1) + 1, kind, explicit[1])
        low2, _ = padding_of(sizes[2], stride[2], dilation[2] * (kernel[2] - 1) + 1, kind, explicit[2])
        rows = np.ascontiguousarray(taps).astype(real)
        rows = rows.reshape((groups, features // groups, per_group * kernel[0] * kernel[1] * kernel[2]))
        given = np.ascontiguousarray(slopes).astype(real)
        given = given.reshape((batch, groups, features // groups, output[0] * output[1] * output[2]))
        for n in range(batch):
            for g in range(groups):
                columns = np.dot(np.ascontiguousarray(rows[g].T), given[n, g])
                part = images[n, g * per_group : (g + 1) * per_group]
                scatter_columns(columns, part, kernel, stride, dilation, (low0, low1, low2), output)
        return x

    return transposed


def _as_volume(op: WindowOp) -> Callable:
    """(N, C, ...) to (N, C, D, H, W), as a view of what is contiguous."""
    if op.window.rank == 1:
        return numba_njit(lambda x: np.ascontiguousarray(x).reshape((x.shape[0], x.shape[1], 1, 1, x.shape[2])))
    if op.window.rank == 2:
        return numba_njit(
            lambda x: np.ascontiguousarray(x).reshape((x.shape[0], x.shape[1], 1, x.shape[2], x.shape[3]))
        )
    return numba_njit(lambda x: np.ascontiguousarray(x))


def _from_volume(op: WindowOp) -> Callable:
    if op.window.rank == 1:
        return numba_njit(lambda y: y.reshape((y.shape[0], y.shape[1], y.shape[4])))
    if op.window.rank == 2:
        return numba_njit(lambda y: y.reshape((y.shape[0], y.shape[1], y.shape[3], y.shape[4])))
    return numba_njit(lambda y: y)
