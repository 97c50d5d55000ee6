"""JAX functions of the Ops. Importing this imports PyTensor's JAX dispatch, which sets `jax_enable_x64`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from pytensor.graph.basic import Apply
from pytensor.link.jax.dispatch import jax_funcify

from normbench.kernels.pytensor.batch_norm import BatchNormalization, channel_axis, check_arrays
from normbench.kernels.pytensor.checks import compute_dtype
from normbench.kernels.pytensor.conv import Conv2D, Conv2DFiltersGradient, Conv2DInputGradient, WindowOp, check_bias
from normbench.kernels.pytensor.reshape import ReshapeLike, SplitGroups


@jax_funcify.register(BatchNormalization)
def batch_normalization(op: BatchNormalization, node: Apply, **kwargs: Any) -> Callable:
    dtype = compute_dtype(*(variable.type.dtype for variable in node.inputs))
    output_dtype = node.outputs[0].type.dtype

    def normalize(x, *vectors):
        check_arrays(x.shape, [vector.shape for vector in vectors])
        pattern = [-1 if axis == channel_axis(x.ndim) else 1 for axis in range(x.ndim)]
        gamma, beta, mean, variance = (vector.astype(dtype).reshape(pattern) for vector in vectors)
        scale = gamma * jax.lax.rsqrt(variance + op.epsilon)
        return ((x.astype(dtype) - mean) * scale + beta).astype(output_dtype)

    return normalize


@jax_funcify.register(Conv2D)
def conv2d(op: Conv2D, node: Apply, **kwargs: Any) -> Callable:
    output_dtype = node.outputs[0].type.dtype

    def convolve(x, filters, *bias):
        op.window.check_arrays(x.shape, filters.shape)
        y = _convolution(op, x.astype(output_dtype), filters.astype(output_dtype))
        for vector in bias:
            check_bias(filters.shape, vector.shape)
            y = y + vector.astype(output_dtype)[:, None, None]
        return y

    return convolve


@jax_funcify.register(SplitGroups)
def split_groups(op: SplitGroups, **kwargs: Any) -> Callable:
    return op.split


@jax_funcify.register(ReshapeLike)
def reshape_like(op: ReshapeLike, **kwargs: Any) -> Callable:
    return lambda x, like: x.reshape(like.shape)


@jax_funcify.register(Conv2DInputGradient)
def input_gradient(op: Conv2DInputGradient, node: Apply, **kwargs: Any) -> Callable:
    return _gradient(op, node, lambda filters: lambda x: _convolution(op, x, filters))


@jax_funcify.register(Conv2DFiltersGradient)
def filters_gradient(op: Conv2DFiltersGradient, node: Apply, **kwargs: Any) -> Callable:
    return _gradient(op, node, lambda x: lambda filters: _convolution(op, x, filters))


def _gradient(op: WindowOp, node: Apply, linear_in: Callable) -> Callable:
    """The transpose of the convolution as a linear function of `like`."""
    dtype = jnp.result_type(*(variable.type.dtype for variable in node.inputs[1:]))
    output_dtype = node.outputs[0].type.dtype

    def gradient(like, other, dy):
        shape = jax.ShapeDtypeStruct(like.shape, dtype)
        (result,) = jax.linear_transpose(linear_in(other.astype(dtype)), shape)(dy.astype(dtype))
        return result.astype(output_dtype)

    return gradient


def _convolution(op: WindowOp, x: jax.Array, filters: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x,
        filters,
        window_strides=op.stride,
        padding=op.window.pads(x.shape[2:], filters.shape[2:]),
        rhs_dilation=op.dilation,
        dimension_numbers=("NCHW", "OIHW", "NCHW"),
        feature_group_count=op.groups,
    )
