"""JAX functions of the Ops. Importing this imports PyTensor's JAX dispatch, which sets `jax_enable_x64`."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from pytensor.graph.basic import Apply
from pytensor.link.jax.dispatch import jax_funcify

from normbench.kernels.pytensor.batch_norm import BatchNormalization
from normbench.kernels.pytensor.checks import compute_dtype
from normbench.kernels.pytensor.conv.ops import (
    Convolution,
    ConvolutionFiltersGradient,
    ConvolutionInputGradient,
    TransposedConvolution,
    WindowOp,
    check_bias,
)
from normbench.kernels.pytensor.conv.pool import MaxPool, MaxPoolGradient, MaxPoolSelect, PoolOp
from normbench.kernels.pytensor.conv.sizes import AxisSize
from normbench.kernels.pytensor.reshape import ReshapeLike, SplitGroups


@jax_funcify.register(BatchNormalization)
def batch_normalization(op: BatchNormalization, node: Apply, **kwargs: Any) -> Callable:
    dtype = compute_dtype(*(variable.type.dtype for variable in node.inputs))
    output_dtype = node.outputs[0].type.dtype

    def normalize(x, *vectors):
        op.check_arrays(x.shape, [vector.shape for vector in vectors])
        gamma, beta, mean, variance = (vector.astype(dtype).reshape(op.pattern(x.ndim)) for vector in vectors)
        scale = gamma * jax.lax.rsqrt(variance + op.epsilon)
        return ((x.astype(dtype) - mean) * scale + beta).astype(output_dtype)

    return normalize


@jax_funcify.register(Convolution)
def convolution(op: Convolution, node: Apply, **kwargs: Any) -> Callable:
    output_dtype = node.outputs[0].type.dtype

    def convolve(x, filters, *bias):
        op.window.check_arrays(x.shape, filters.shape)
        y = _convolution(op, x.astype(output_dtype), filters.astype(output_dtype))
        for vector in bias:
            check_bias(filters.shape, vector.shape)
            y = y + vector.astype(output_dtype).reshape(-1, *(1,) * op.window.rank)
        return y

    return convolve


@jax_funcify.register(AxisSize)
def axis_size(op: AxisSize, **kwargs: Any) -> Callable:
    return op.calculate


@jax_funcify.register(SplitGroups)
def split_groups(op: SplitGroups, **kwargs: Any) -> Callable:
    return op.split


@jax_funcify.register(ReshapeLike)
def reshape_like(op: ReshapeLike, **kwargs: Any) -> Callable:
    return lambda x, like: x.reshape(like.shape)


@jax_funcify.register(ConvolutionInputGradient)
def input_gradient(op: ConvolutionInputGradient, node: Apply, **kwargs: Any) -> Callable:
    dtype, output_dtype = _gradient_dtypes(node)

    def gradient(x, filters, dy):
        return _transposed(op, x.shape, filters.astype(dtype), dy.astype(dtype)).astype(output_dtype)

    return gradient


@jax_funcify.register(TransposedConvolution)
def transposed_convolution(op: TransposedConvolution, node: Apply, **kwargs: Any) -> Callable:
    dtype = node.outputs[0].type.dtype

    def convolve(x, filters):
        shape = op.result_shape(x.shape, filters.shape)
        return _transposed(op, shape, filters.astype(dtype), x.astype(dtype))

    return convolve


@jax_funcify.register(ConvolutionFiltersGradient)
def filters_gradient(op: ConvolutionFiltersGradient, node: Apply, **kwargs: Any) -> Callable:
    dtype, output_dtype = _gradient_dtypes(node)

    def gradient(filters, x, dy):
        like, x = jax.ShapeDtypeStruct(filters.shape, dtype), x.astype(dtype)
        (result,) = jax.linear_transpose(lambda value: _convolution(op, x, value), like)(dy.astype(dtype))
        return result.astype(output_dtype)

    return gradient


@jax_funcify.register(MaxPool)
def max_pool(op: MaxPool, **kwargs: Any) -> Callable:
    def pool(x):
        op.window.check_sizes(x.shape[2:], op.kernel)
        return _max_pool(op, x)

    return pool


@jax_funcify.register(MaxPoolSelect)
def max_pool_select(op: MaxPoolSelect, **kwargs: Any) -> Callable:
    """The transpose of the gradient, as values are selected by the same rule."""

    def select(x, values):
        _, gradient = jax.vjp(lambda value: _max_pool(op, value), x)
        like = jax.eval_shape(lambda value: _max_pool(op, value), x)
        return jax.linear_transpose(lambda dy: gradient(dy)[0], like)(values.astype(x.dtype))[0]

    return select


@jax_funcify.register(MaxPoolGradient)
def max_pool_gradient(op: MaxPoolGradient, **kwargs: Any) -> Callable:
    return lambda x, dy: jax.vjp(lambda value: _max_pool(op, value), x)[1](dy.astype(x.dtype))[0]


def _gradient_dtypes(node: Apply) -> tuple[Any, str]:
    return jnp.result_type(*(variable.type.dtype for variable in node.inputs[1:])), node.outputs[0].type.dtype


def _transposed(op: WindowOp, shape: Sequence[Any], filters: jax.Array, y: jax.Array) -> jax.Array:
    """The transpose of the convolution as a linear function of x, which has that shape."""
    like = jax.ShapeDtypeStruct(tuple(shape), y.dtype)
    return jax.linear_transpose(lambda x: _convolution(op, x, filters), like)(y)[0]


def _convolution(op: WindowOp, x: jax.Array, filters: jax.Array) -> jax.Array:
    letters = "DHW"[-op.window.rank :]
    return jax.lax.conv_general_dilated(
        x,
        filters,
        window_strides=op.stride,
        padding=_padding(op, x.shape[2:], filters.shape[2:]),
        rhs_dilation=op.dilation,
        dimension_numbers=(f"NC{letters}", f"OI{letters}", f"NC{letters}"),
        feature_group_count=op.groups,
    )


def _max_pool(op: PoolOp, x: jax.Array) -> jax.Array:
    padding = _padding(op, x.shape[2:], op.kernel)
    return jax.lax.reduce_window(
        x,
        -jnp.inf,
        jax.lax.max,
        (1, 1, *op.kernel),
        (1, 1, *op.stride),
        padding if isinstance(padding, str) else ((0, 0), (0, 0), *padding),
        window_dilation=(1, 1, *op.dilation),
    )


def _padding(op: WindowOp, spatial: Sequence[Any], kernel: Sequence[int]) -> Any:
    """JAX's own "SAME" is ours, and JAX knows it for sizes that are symbols."""
    return "SAME" if op.padding == "same" else op.window.pads(spatial, kernel)
