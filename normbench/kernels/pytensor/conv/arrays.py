"""A convolution, its two gradients and poolings in NumPy, by windows: what the Python and C backends run.

Shapes: x (N, C, ...); filters (O, C / groups, kernel...); y (N, O, ...), with any number of spatial axes. Windows are
copied for a few rows of one image at a time, so that a convolution needs little memory beyond its arrays.

A sum runs over the channels of one tap after another, as XLA's on a CPU does: both then round alike, and a float32
value that is the small rest of large terms is the same in both.
"""

import math
from collections.abc import Iterator

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from normbench.kernels.pytensor.conv.window import Window

Shape = tuple[int, ...]
_COPIED_BYTES = 4 << 20


def convolve(x: np.ndarray, filters: np.ndarray, window: Window) -> np.ndarray:
    kernel, groups = filters.shape[2:], window.groups
    y = np.empty((len(x), len(filters), *window.output(x.shape[2:], kernel)), x.dtype)
    weights = np.moveaxis(filters, 1, -1).reshape(groups, len(filters) // groups, -1)
    for image, result in zip(x, y, strict=True):
        for rows, columns in _columns(image, kernel, window):
            part = np.matmul(weights, columns)
            result[:, rows] = part.reshape(len(filters), -1, *result.shape[2:])
    return y


def filters_gradient(x: np.ndarray, dy: np.ndarray, filters_shape: Shape, window: Window) -> np.ndarray:
    """Maps the gradient of y to that of the filters."""
    groups, features = window.groups, filters_shape[0]
    total = np.zeros((groups, features // groups, int(np.prod(filters_shape[1:]))), dy.dtype)
    for image, slope in zip(x, dy, strict=True):
        for rows, columns in _columns(image, filters_shape[2:], window):
            part = slope[:, rows].reshape(groups, features // groups, -1)
            total += np.matmul(part, columns.swapaxes(1, 2))
    return np.ascontiguousarray(np.moveaxis(total.reshape(features, *filters_shape[2:], filters_shape[1]), -1, 1))


def input_gradient(filters: np.ndarray, dy: np.ndarray, x_shape: Shape, window: Window) -> np.ndarray:
    """Maps the gradient of y to that of x: each term goes back to the element that it was taken from."""
    kernel, groups = filters.shape[2:], window.groups
    pads = window.pads(x_shape[2:], kernel)
    padded = np.zeros((*x_shape[:2], *(size + sum(p) for size, p in zip(x_shape[2:], pads, strict=True))), dy.dtype)
    weights = filters.reshape(groups, len(filters) // groups, *filters.shape[1:])
    for image, slope in zip(padded, dy, strict=True):
        slopes = slope.reshape(groups, len(filters) // groups, -1)
        for place in np.ndindex(*kernel):
            tap = weights[(slice(None), slice(None), slice(None), *place)].swapaxes(
                1, 2
            )  # (groups, C / groups, O / groups)
            taken = _taken_by(place, window, dy.shape[2:])
            image[(slice(None), *taken)] += np.matmul(tap, slopes).reshape(x_shape[1], *dy.shape[2:])
    inside = tuple(slice(low, low + size) for (low, _), size in zip(pads, x_shape[2:], strict=True))
    return np.ascontiguousarray(padded[(slice(None), slice(None), *inside)])


def max_pool(x: np.ndarray, kernel: Shape, window: Window) -> np.ndarray:
    y = np.empty((*x.shape[:2], *window.output(x.shape[2:], kernel)), x.dtype)
    for image, result in zip(x, y, strict=True):
        views = _windows(image, kernel, window, -np.inf)
        result[...] = views.max(axis=tuple(range(-len(kernel), 0)))
    return y


def max_pool_select(x: np.ndarray, values: np.ndarray, kernel: Shape, window: Window) -> np.ndarray:
    """Of `values` (x's shape) those at the places of x's maxima, the first of equal ones."""
    y = np.empty((*x.shape[:2], *window.output(x.shape[2:], kernel)), x.dtype)
    for image, given, result in zip(x, values, y, strict=True):
        first = _first_maxima(image, kernel, window)
        candidates = _windows(given, kernel, window, 0.0).reshape(*first.shape, -1)
        result[...] = np.take_along_axis(candidates, first[..., None], -1)[..., 0]
    return y


def max_pool_gradient(x: np.ndarray, dy: np.ndarray, kernel: Shape, window: Window) -> np.ndarray:
    """Maps the gradient of the maxima to that of x."""
    pads = window.pads(x.shape[2:], kernel)
    padded = np.zeros((*x.shape[:2], *(size + sum(p) for size, p in zip(x.shape[2:], pads, strict=True))), dy.dtype)
    for image, slope, result in zip(x, dy, padded, strict=True):
        first = _first_maxima(image, kernel, window)
        for number, place in enumerate(np.ndindex(*kernel)):
            result[(slice(None), *_taken_by(place, window, dy.shape[2:]))] += np.where(first == number, slope, 0)
    inside = tuple(slice(low, low + size) for (low, _), size in zip(pads, x.shape[2:], strict=True))
    return np.ascontiguousarray(padded[(slice(None), slice(None), *inside)])


def _first_maxima(image: np.ndarray, kernel: Shape, window: Window) -> np.ndarray:
    views = _windows(image, kernel, window, -np.inf)
    return views.reshape(*views.shape[: 1 + len(kernel)], -1).argmax(-1)


def _taken_by(place: Shape, window: Window, output: Shape) -> tuple[slice, ...]:
    """What one tap of the kernel takes of each axis of the padded input."""
    axes = zip(place, window.stride, window.dilation, output, strict=True)
    return tuple(slice(p * d, p * d + s * (size - 1) + 1, s) for p, s, d, size in axes)


def _windows(image: np.ndarray, kernel: Shape, window: Window, fill: float) -> np.ndarray:
    """A view (C, output..., kernel...) of one padded image (C, ...)."""
    pads = window.pads(image.shape[1:], kernel)
    padded = np.pad(image, ((0, 0), *pads), constant_values=fill) if any(map(any, pads)) else image
    views = sliding_window_view(padded, window.extent(kernel), axis=tuple(range(1, image.ndim)))
    steps = [slice(None, None, step) for step in (*window.stride, *window.dilation)]
    return views[(slice(None), *steps)]


def _columns(image: np.ndarray, kernel: Shape, window: Window) -> Iterator[tuple[slice, np.ndarray]]:
    """Rows of the output and, copied, what they are sums of: (groups, taps * C / groups, places)."""
    views, rank = _windows(image, kernel, window, 0.0), len(kernel)
    row_bytes, terms = views.nbytes // max(views.shape[1], 1), len(image) // window.groups * math.prod(kernel)
    step = max(1, _COPIED_BYTES // max(row_bytes, 1))
    for start in range(0, views.shape[1], step):
        rows = slice(start, start + step)
        part = views[:, rows].reshape(window.groups, -1, *views[:, rows].shape[1:])
        yield rows, np.moveaxis(part, range(-rank, 0), range(1, 1 + rank)).reshape(window.groups, terms, -1)
