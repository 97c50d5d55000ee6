"""The window of a convolution in compiled loops: padding, and one image's windows as columns and back.

All loops are over three spatial axes (depth, height, width); fewer axes are that many sizes of one before them.
"""

import numpy as np
from pytensor.link.numba.dispatch.basic import numba_njit

PADDINGS = ("explicit", "same", "half", "full")
"""A padding's place here is what compiled code is given."""


@numba_njit
def padding_of(size, stride, extent, kind, explicit):
    """The zeros at the low and the high end of one axis."""
    if kind == 1:
        total = max(((size + stride - 1) // stride - 1) * stride + extent - size, 0)
        return total // 2, total - total // 2
    if kind == 2:
        return extent // 2, extent // 2
    if kind == 3:
        return extent - 1, extent - 1
    return explicit


@numba_njit
def columns_of(image, dtype, kernel, stride, dilation, low, output):
    """(C, D, H, W) to (C * kd * kh * kw, places): one row per tap, one column per place of the window."""
    channels, depth, height, width = image.shape
    columns = np.zeros((channels * kernel[0] * kernel[1] * kernel[2], output[0] * output[1] * output[2]), dtype)
    row = 0
    for c in range(channels):
        for a in range(kernel[0]):
            for b in range(kernel[1]):
                for e in range(kernel[2]):
                    for i in range(output[0]):
                        z = i * stride[0] + a * dilation[0] - low[0]
                        if not 0 <= z < depth:
                            continue
                        for j in range(output[1]):
                            y = j * stride[1] + b * dilation[1] - low[1]
                            if not 0 <= y < height:
                                continue
                            start = (i * output[1] + j) * output[2]
                            for k in range(output[2]):
                                x = k * stride[2] + e * dilation[2] - low[2]
                                if 0 <= x < width:
                                    columns[row, start + k] = image[c, z, y, x]
                    row += 1
    return columns


@numba_njit
def scatter_columns(columns, image, kernel, stride, dilation, low, output):
    """Adds the columns to the elements of the image (C, D, H, W) that `columns_of` takes them from."""
    channels, depth, height, width = image.shape
    row = 0
    for c in range(channels):
        for a in range(kernel[0]):
            for b in range(kernel[1]):
                for e in range(kernel[2]):
                    for i in range(output[0]):
                        z = i * stride[0] + a * dilation[0] - low[0]
                        if not 0 <= z < depth:
                            continue
                        for j in range(output[1]):
                            y = j * stride[1] + b * dilation[1] - low[1]
                            if not 0 <= y < height:
                                continue
                            start = (i * output[1] + j) * output[2]
                            for k in range(output[2]):
                                x = k * stride[2] + e * dilation[2] - low[2]
                                if 0 <= x < width:
                                    image[c, z, y, x] += columns[row, start + k]
                    row += 1


@numba_njit
def first_maximum(image, n, c, i, j, kernel, stride, dilation, low):
    """Row and column of the first largest element of image (N, C, H, W) under the kernel at (i, j); NaN is largest."""
    height, width = image.shape[2], image.shape[3]
    row, column = -1, -1
    for a in range(kernel[0]):
        y = i * stride[0] + a * dilation[0] - low[0]
        if not 0 <= y < height:
            continue
        for b in range(kernel[1]):
            x = j * stride[1] + b * dilation[1] - low[1]
            if not 0 <= x < width:
                continue
            value = image[n, c, y, x]
            if row >= 0:
                largest = image[n, c, row, column]
                if not (value > largest or (np.isnan(value) and not np.isnan(largest))):
                    continue
            row, column = y, x
    return row, column
