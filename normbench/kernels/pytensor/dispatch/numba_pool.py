"""Numba functions of maximum pooling. A kernel that meets nothing of x has no maximum: minus infinity."""

from collections.abc import Callable
from typing import Any

import numpy as np
from pytensor.graph.basic import Apply
from pytensor.link.numba.dispatch.basic import numba_njit, register_funcify_and_cache_key

from normbench.kernels.pytensor.conv.pool import MaxPool, MaxPoolGradient, MaxPoolSelect, PoolOp
from normbench.kernels.pytensor.dispatch.numba_common import check_dtypes, key, real_type, window_of
from normbench.kernels.pytensor.dispatch.numba_window import first_maximum, padding_of


@register_funcify_and_cache_key(MaxPool)
def max_pool(op: MaxPool, node: Apply, **kwargs: Any) -> tuple[Callable, str | None]:
    select = _select(op, node)

    @numba_njit
    def pool(x):
        return select(x, x, -np.inf)

    return pool, key(op, node)


@register_funcify_and_cache_key(MaxPoolSelect)
def max_pool_select(op: MaxPoolSelect, node: Apply, **kwargs: Any) -> tuple[Callable, str | None]:
    choose = _select(op, node)

    @numba_njit
    def select(x, values):
        return choose(x, values, 0.0)

    return select, key(op, node)


@register_funcify_and_cache_key(MaxPoolGradient)
def max_pool_gradient(op: MaxPoolGradient, node: Apply, **kwargs: Any) -> tuple[Callable, str | None]:
    check_dtypes(op, node)
    kernel, stride, dilation, low_of = _window(op)

    @numba_njit
    def gradient(x, dy):
        dx, low = np.zeros_like(x), low_of(x.shape)
        for n in range(dy.shape[0]):
            for c in range(dy.shape[1]):
                for i in range(dy.shape[2]):
                    for j in range(dy.shape[3]):
                        row, column = first_maximum(x, n, c, i, j, kernel, stride, dilation, low)
                        if row >= 0:
                            dx[n, c, row, column] += dy[n, c, i, j]
        return dx

    return gradient, key(op, node)


def _select(op: PoolOp, node: Apply) -> Callable:
    check_dtypes(op, node)
    kernel, stride, dilation, low_of = _window(op)
    _, _, kind, explicit = window_of(op)
    real = real_type(node.inputs[0].type.dtype)

    @numba_njit
    def select(x, values, outside):
        low = low_of(x.shape)
        extents = (dilation[0] * (kernel[0] - 1) + 1, dilation[1] * (kernel[1] - 1) + 1)
        _, bottom = padding_of(x.shape[2], stride[0], extents[0], kind, explicit[1])
        _, right = padding_of(x.shape[3], stride[1], extents[1], kind, explicit[2])
        height = (x.shape[2] + low[0] + bottom - extents[0]) // stride[0] + 1
        width = (x.shape[3] + low[1] + right - extents[1]) // stride[1] + 1
        if height < 1 or width < 1:
            raise ValueError("max_pool2d: the kernel leaves no output of x")
        y = np.empty((x.shape[0], x.shape[1], height, width), x.dtype)
        for n in range(y.shape[0]):
            for c in range(y.shape[1]):
                for i in range(height):
                    for j in range(width):
                        row, column = first_maximum(x, n, c, i, j, kernel, stride, dilation, low)
                        y[n, c, i, j] = real(values[n, c, row, column]) if row >= 0 else real(outside)
        return y

    return select


def _window(op: PoolOp) -> tuple[Any, Any, Any, Callable]:
    """Kernel, stride and dilation, and a function of x's shape to the padding at the low ends."""
    _, _, kind, explicit = window_of(op)
    kernel, stride, dilation = op.kernel, op.stride, op.dilation

    @numba_njit
    def low_of(shape):
        top, _ = padding_of(shape[2], stride[0], dilation[0] * (kernel[0] - 1) + 1, kind, explicit[1])
        left, _ = padding_of(shape[3], stride[1], dilation[1] * (kernel[1] - 1) + 1, kind, explicit[2])
        return top, left

    return kernel, stride, dilation, low_of
