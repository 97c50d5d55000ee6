"""The convolution that all variants share: plain and transposed, grouped, in every layout."""

import jax
import jax.numpy as jnp

from normbench.kernels.conv_bn.geometry import Geometry


def convolve(x: jax.Array, weight: jax.Array, geometry: Geometry) -> jax.Array:
    """Returns the convolution of x and weight in x's dtype, as a user's own call would: products of half-precision
    inputs are summed wider by the library, and the sum is rounded to x's dtype before anything else sees it.

    A transposed convolution is PyTorch's ConvTranspose: the gradient of the convolution with the same weight with
    respect to its input, computed as a convolution of x, dilated by the stride, with the mirrored kernel.
    """
    kernel = geometry.kernel(weight.shape)
    pads = geometry.pads(geometry.spatial(x.shape), kernel)
    if not geometry.transposed:
        return _convolve(x, weight, geometry, window_strides=geometry.stride, padding=pads)
    extents = geometry.extent(kernel)
    pads = tuple((e - 1 - low, e - 1 - high) for e, (low, high) in zip(extents, pads, strict=True))
    mirrored = _mirrored(weight, geometry)
    ones = (1,) * geometry.spatial_rank
    return _convolve(x, mirrored, geometry, window_strides=ones, padding=pads, lhs_dilation=geometry.stride)


def _convolve(x, weight, geometry, **window):
    axes = "DHW"[-geometry.spatial_rank :]
    data, kernel = (f"N{axes}C", f"{axes}IO") if geometry.channels_last else (f"NC{axes}", f"OI{axes}")
    return jax.lax.conv_general_dilated(
        x,
        weight,
        rhs_dilation=geometry.dilation,
        dimension_numbers=(data, kernel, data),
        feature_group_count=geometry.groups,
        **window,
    )


def _mirrored(weight: jax.Array, geometry: Geometry) -> jax.Array:
    """From the weight of a transposed convolution, (I, O/G), to that of a convolution, (O, I/G), mirrored in space."""
    if geometry.channels_last:
        weight = jnp.moveaxis(weight, (-2, -1), (0, 1))
    channels, per_group, *kernel = weight.shape
    groups = geometry.groups
    weight = weight.reshape(groups, channels // groups, per_group, *kernel).swapaxes(1, 2)
    weight = jnp.flip(weight.reshape(groups * per_group, channels // groups, *kernel), range(2, weight.ndim - 1))
    return jnp.moveaxis(weight, (0, 1), (-1, -2)) if geometry.channels_last else weight
