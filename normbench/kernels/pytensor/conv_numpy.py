"""A 2-D convolution and its two gradients in NumPy, by windows: what the Python backend runs.

Shapes: x (N, C, H, W); filters (O, C / groups, kh, kw); y (N, O, OH, OW).
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from normbench.kernels.pytensor.window import Window

Shape = tuple[int, ...]


def convolve(x: np.ndarray, filters: np.ndarray, window: Window) -> np.ndarray:
    views = np.split(_windows(x, filters.shape[2:], window), window.groups, axis=1)
    parts = np.split(filters, window.groups)
    results = [np.tensordot(view, part, axes=([1, 4, 5], [1, 2, 3])) for view, part in zip(views, parts, strict=True)]
    return np.ascontiguousarray(np.moveaxis(np.concatenate(results, axis=3), 3, 1))


def filters_gradient(x: np.ndarray, dy: np.ndarray, filters_shape: Shape, window: Window) -> np.ndarray:
    """Maps the gradient of y to that of the filters."""
    views = np.split(_windows(x, filters_shape[2:], window), window.groups, axis=1)
    parts = np.split(dy, window.groups, axis=1)
    results = [np.tensordot(part, view, axes=([0, 2, 3], [0, 2, 3])) for part, view in zip(parts, views, strict=True)]
    return np.concatenate(results)


def input_gradient(filters: np.ndarray, dy: np.ndarray, x_shape: Shape, window: Window) -> np.ndarray:
    """Maps the gradient of y to that of x: each term goes back to the element that it was taken from."""
    pads = window.pads(x_shape[2:], filters.shape[2:])
    padded = np.zeros((*x_shape[:2], *(size + sum(p) for size, p in zip(x_shape[2:], pads, strict=True))), dy.dtype)
    weights, parts = np.split(filters, window.groups), np.split(dy, window.groups, axis=1)
    terms = np.concatenate(
        [np.tensordot(weight, part, axes=([0], [1])) for weight, part in zip(weights, parts, strict=True)]
    )  # (C, kh, kw, N, OH, OW)
    (sh, sw), (dh, dw), (height, width) = window.stride, window.dilation, dy.shape[2:]
    for i, j in np.ndindex(*filters.shape[2:]):
        rows = slice(i * dh, i * dh + sh * (height - 1) + 1, sh)
        columns = slice(j * dw, j * dw + sw * (width - 1) + 1, sw)
        padded[:, :, rows, columns] += terms[:, i, j].swapaxes(0, 1)
    (top, _), (left, _) = pads
    return np.ascontiguousarray(padded[:, :, top : top + x_shape[2], left : left + x_shape[3]])


def _windows(x: np.ndarray, kernel: Shape, window: Window) -> np.ndarray:
    """A view (N, C, OH, OW, kh, kw) of the padded x."""
    padded = np.pad(x, ((0, 0), (0, 0), *window.pads(x.shape[2:], kernel)))
    views = sliding_window_view(padded, window.extent(kernel), axis=(2, 3))
    (sh, sw), (dh, dw) = window.stride, window.dilation
    return views[:, :, ::sh, ::sw, ::dh, ::dw]
