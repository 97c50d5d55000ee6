"""The window of a convolution in compiled loops: padding, and one image's windows as columns and back."""

import numpy as np
from pytensor.link.numba.dispatch.basic import numba_njit


@numba_njit
def padding_of(size, stride, extent, same, explicit):
    """The zeros at the low and the high end of one axis."""
    if not same:
        return explicit
    total = max((-(-size // stride) - 1) * stride + extent - size, 0)
    return total // 2, total - total // 2


@numba_njit
def columns_of(image, dtype, kh, kw, sh, sw, dh, dw, top, left, out_height, out_width):
    """(C, H, W) to (C * kh * kw, OH * OW): one row per tap, one column per place of the window."""
    channels, height, width = image.shape
    columns = np.zeros((channels * kh * kw, out_height * out_width), dtype)
    for c in range(channels):
        for a in range(kh):
            for b in range(kw):
                row = (c * kh + a) * kw + b
                for i in range(out_height):
                    y = i * sh + a * dh - top
                    if 0 <= y < height:
                        for j in range(out_width):
                            x = j * sw + b * dw - left
                            if 0 <= x < width:
                                columns[row, i * out_width + j] = image[c, y, x]
    return columns


@numba_njit
def scatter_columns(columns, image, kh, kw, sh, sw, dh, dw, top, left, out_height, out_width):
    """Adds the columns to the elements of the image (C, H, W) that `columns_of` takes them from."""
    channels, height, width = image.shape
    for c in range(channels):
        for a in range(kh):
            for b in range(kw):
                row = (c * kh + a) * kw + b
                for i in range(out_height):
                    y = i * sh + a * dh - top
                    if 0 <= y < height:
                        for j in range(out_width):
                            x = j * sw + b * dw - left
                            if 0 <= x < width:
                                image[c, y, x] += columns[row, i * out_width + j]
