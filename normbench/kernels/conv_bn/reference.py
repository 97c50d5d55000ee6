"""Convolution, batch norm, activation in float64 NumPy: the oracle of every variant.

One matrix product per tap of the kernel. The transposed convolution scatters each input into the outputs that it
reaches, which is its definition; the variants compute it in another way.
"""

import itertools
from typing import Any

import numpy as np

from normbench.kernels.batch_norm.reference import reference as batch_norm
from normbench.kernels.conv_bn.geometry import Geometry, Padding, geometry


def reference(
    x: Any,
    weight: Any,
    bias: Any,
    gamma: Any,
    beta: Any,
    mean: Any,
    variance: Any,
    epsilon: float = 1e-5,
    *,
    layout: str = "nchw",
    stride: int | tuple[int, ...] = 1,
    padding: Padding = "same",
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
    transposed: bool = False,
    activation: str = "silu",
) -> np.ndarray:
    """act(batch_norm(convolution(x, weight) + bias)) of the values as they are given, in float64.

    Arguments as for `unfused`; `bias` may be None.
    """
    shape = geometry(layout, stride, padding, dilation, groups, transposed)
    y = convolve(np.asarray(x).astype(np.float64), np.asarray(weight).astype(np.float64), shape)
    axis = shape.channel_axis()
    if bias is not None:
        y = np.moveaxis(np.moveaxis(y, axis, -1) + np.asarray(bias).astype(np.float64), -1, axis)
    return batch_norm(y, gamma, beta, mean, variance, epsilon, channel_axis=axis, activation=activation)


def convolve(x: np.ndarray, weight: np.ndarray, shape: Geometry) -> np.ndarray:
    """The convolution without bias, of arrays in float64 or wider, which it is summed in."""
    shape.check(x.shape, weight.shape)
    pads = shape.pads(shape.spatial(x.shape), shape.kernel(weight.shape))
    output = shape.output_spatial(shape.spatial(x.shape), shape.kernel(weight.shape))
    if shape.channels_last:
        x = np.moveaxis(x, -1, 1)
        weight = np.moveaxis(weight, (-2, -1), (0, 1) if shape.transposed else (1, 0))
    y = (_scatter if shape.transposed else _gather)(x, weight, shape, pads, output)
    return np.moveaxis(y, 1, -1) if shape.channels_last else y


def _gather(x, weight, shape, pads, output):
    batch = x.shape[0]
    features, per_group, *kernel = weight.shape
    x = np.pad(x, ((0, 0), (0, 0), *pads))
    x = x.reshape(batch, shape.groups, per_group, *x.shape[2:])
    weight = weight.reshape(shape.groups, features // shape.groups, per_group, *kernel)
    y = np.zeros((batch, shape.groups, features // shape.groups, int(np.prod(output))), x.dtype)
    for tap in itertools.product(*map(range, kernel)):
        seen = x[(..., *_window(tap, shape, output))].reshape(batch, shape.groups, per_group, y.shape[-1])
        y += weight[(..., *tap)] @ seen
    return y.reshape(batch, features, *output)


def _scatter(x, weight, shape, pads, output):
    batch, channels, *spatial = x.shape
    _, per_group, *kernel = weight.shape
    x = x.reshape(batch, shape.groups, channels // shape.groups, int(np.prod(spatial)))
    weight = weight.reshape(shape.groups, channels // shape.groups, per_group, *kernel)
    extents = zip(spatial, shape.stride, shape.extent(kernel), strict=True)
    whole = tuple((size - 1) * s + extent for size, s, extent in extents)
    full = np.zeros((batch, shape.groups, per_group, *whole), x.dtype)
    for tap in itertools.product(*map(range, kernel)):
        reached = weight[(..., *tap)].swapaxes(1, 2) @ x
        full[(..., *_window(tap, shape, spatial))] += reached.reshape(batch, shape.groups, per_group, *spatial)
    full = full.reshape(batch, shape.groups * per_group, *full.shape[3:])
    extension = [(0, max(-high, 0)) for _, high in pads]  # a negative cut extends the output
    full = np.pad(full, ((0, 0), (0, 0), *extension))
    return full[(..., *(slice(low, low + size) for (low, _), size in zip(pads, output, strict=True)))]


def _window(tap, shape, counts):
    """The slice, on each spatial axis, of what one tap of the kernel touches."""
    starts = (t * d for t, d in zip(tap, shape.dilation, strict=True))
    return tuple(
        slice(start, start + (count - 1) * stride + 1, stride)
        for start, stride, count in zip(starts, shape.stride, counts, strict=True)
    )
