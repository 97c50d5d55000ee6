"""Cross-correlation over one to three spatial axes as Ops, closed under differentiation: all have gradients in turn.

A convolution is linear in each of its inputs, and so are its two gradients. The derivative of each in the direction of
a tangent is the same Op at that tangent, and each one's gradients are the two others.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytensor.tensor as pt
from pytensor.gradient import DisconnectedType, disconnected_type
from pytensor.graph.basic import Apply, Variable
from pytensor.graph.op import Op
from pytensor.scalar import upcast

from normbench.errors import UserError
from normbench.kernels.pytensor.checks import check_lengths, check_rank, compute_dtype, float_tensors
from normbench.kernels.pytensor.conv import arrays
from normbench.kernels.pytensor.conv.sizes import output_sizes
from normbench.kernels.pytensor.conv.window import Padding, Sizes, Window, per_axis, window
from normbench.kernels.pytensor.sums import sum_over


class WindowOp(Op):
    """An Op whose properties are those of a window over `rank` spatial axes; x has `rank` + 2 axes."""

    __props__: tuple[str, ...] = ("stride", "padding", "dilation", "groups")

    def __init__(
        self,
        stride: int | Sequence[int] = 1,
        padding: Padding = "same",
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        rank: int | None = None,
    ):
        rank = rank or (len(stride) if hasattr(stride, "__len__") else 2)
        self.window: Window = window(stride, padding, dilation, groups, rank)
        self.stride, self.padding = self.window.stride, self.window.padding
        self.dilation, self.groups = self.window.dilation, self.window.groups

    def as_op(self, kind: type["WindowOp"]) -> Op:
        """An Op of another kind with the same window."""
        return kind(self.stride, self.padding, self.dilation, self.groups)

    def static_sizes(self, spatial: Sequence[int | None], kernel: Sequence[int | None]) -> tuple[int | None, ...]:
        """Per axis the size of the output where it is known; for "same" it does not depend on the kernel."""
        sizes: list[int | None] = []
        for axis in range(self.window.rank):
            known = 1 if self.padding == "same" else kernel[axis]
            if spatial[axis] is None or known is None:
                sizes.append(None)
                continue
            size = self.window.output((spatial[axis],) * self.window.rank, (known,) * self.window.rank)[axis]
            if size < 1:
                raise UserError(f"a kernel of {known} leaves no output of x with size {spatial[axis]}")
            sizes.append(size)
        return tuple(sizes)


class Convolution(WindowOp):
    """Inputs: x (N, C, ...), filters (O, C / groups, kernel...) and optionally bias (O,). Output: (N, O, ...).

    The output has the widest dtype of the inputs; float16 is computed in float32.
    """

    def make_node(self, x: Any, filters: Any, *bias: Any) -> Apply:
        inputs = float_tensors(x=x, filters=filters, **dict(zip(("bias",), bias, strict=False)))
        x, filters, *vectors = inputs
        check_rank("x", x, self.window.rank + 2)
        check_rank("filters", filters, self.window.rank + 2)
        self.window.check_channels(x.type.shape[1], filters.type.shape)
        features = filters.type.shape[0]
        for vector in vectors:
            check_rank("bias", vector, 1)
            features = check_lengths({"filters": features, "bias": vector.type.shape[0]})
        shape = (x.type.shape[0], features, *self.static_sizes(x.type.shape[2:], filters.type.shape[2:]))
        return Apply(self, inputs, [pt.tensor(dtype=upcast(*(v.type.dtype for v in inputs)), shape=shape)])

    def perform(self, node: Apply, inputs: Sequence[np.ndarray], output_storage: list[list[Any]]) -> None:
        x, filters, *bias = inputs
        self.window.check_arrays(x.shape, filters.shape)
        dtype = compute_dtype(node.outputs[0].type.dtype)
        y = arrays.convolve(x.astype(dtype, copy=False), filters.astype(dtype, copy=False), self.window)
        for vector in bias:
            check_bias(filters.shape, vector.shape)
            y += vector.astype(dtype).reshape(-1, *(1,) * self.window.rank)
        output_storage[0][0] = y.astype(node.outputs[0].type.dtype, copy=False)

    def infer_shape(self, *args: Any) -> list[tuple]:
        x, filters = args[-1][:2]
        return [(x[0], filters[0], *output_sizes(self.window, x[2:], filters[2:]))]

    def pullback(
        self, inputs: Sequence[Variable], outputs: Sequence[Variable], cotangents: Sequence[Variable]
    ) -> list[Variable]:
        x, filters, *bias = inputs
        dy = cotangents[0]
        gradients = [
            self.as_op(ConvolutionInputGradient)(x, filters, dy),
            self.as_op(ConvolutionFiltersGradient)(filters, x, dy),
        ]
        return gradients + [_bias_gradient(dy, vector) for vector in bias]

    def pushforward(
        self, inputs: Sequence[Variable], outputs: Sequence[Variable], tangents: Sequence[Variable]
    ) -> list[Variable]:
        x, filters, *_ = inputs
        vectors = ("x", 0, *("x",) * self.window.rank)
        terms = (
            lambda t: self(t, filters),
            lambda t: self(x, t),
            lambda t: pt.second(outputs[0], t.dimshuffle(vectors)),
        )
        return derivative(outputs[0], tangents, terms)


class _GradientOp(WindowOp):
    """Inputs: the tensor to differentiate by, for its shape alone; the other factor; the gradient of y.

    An input of which only the shape is used, instead of the shape, because JAX needs shapes that are not traced.
    """

    def make_node(self, like: Any, other: Any, dy: Any) -> Apply:
        like, other, dy = (pt.as_tensor_variable(v) for v in (like, other, dy))
        return Apply(self, [like, other, dy], [pt.tensor(dtype=like.type.dtype, shape=like.type.shape)])

    def perform(self, node: Apply, inputs: Sequence[np.ndarray], output_storage: list[list[Any]]) -> None:
        like, other, dy = inputs
        dtype = compute_dtype(other.dtype.name, dy.dtype.name)
        result = self._numpy(other.astype(dtype, copy=False), dy.astype(dtype, copy=False), like.shape)
        output_storage[0][0] = result.astype(node.outputs[0].type.dtype, copy=False)

    def infer_shape(self, *args: Any) -> list[tuple]:
        return [args[-1][0]]

    def connection_pattern(self, node: Apply) -> list[list[bool]]:
        return [[False], [True], [True]]

    def pushforward(
        self, inputs: Sequence[Variable], outputs: Sequence[Variable], tangents: Sequence[Variable]
    ) -> list[Variable]:
        like, other, dy = inputs
        return derivative(outputs[0], tangents, [None, lambda t: self(like, t, dy), lambda t: self(like, other, t)])


class ConvolutionInputGradient(_GradientOp):
    """(x, filters, gradient of y) to the gradient of x."""

    def _numpy(self, filters: np.ndarray, dy: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        return arrays.input_gradient(filters, dy, shape, self.window)

    def pullback(
        self, inputs: Sequence[Variable], outputs: Sequence[Variable], cotangents: Sequence[Variable]
    ) -> list[Variable]:
        _, filters, dy = inputs
        (dx,) = cotangents
        d_filters = self.as_op(ConvolutionFiltersGradient)(filters, dx, dy)
        return [disconnected_type(), d_filters, self.as_op(Convolution)(dx, filters).astype(dy.type.dtype)]


class ConvolutionFiltersGradient(_GradientOp):
    """(filters, x, gradient of y) to the gradient of the filters."""

    def _numpy(self, x: np.ndarray, dy: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        return arrays.filters_gradient(x, dy, shape, self.window)

    def pullback(
        self, inputs: Sequence[Variable], outputs: Sequence[Variable], cotangents: Sequence[Variable]
    ) -> list[Variable]:
        _, x, dy = inputs
        (d_filters,) = cotangents
        dx = self.as_op(ConvolutionInputGradient)(x, d_filters, dy)
        return [disconnected_type(), dx, self.as_op(Convolution)(x, d_filters).astype(dy.type.dtype)]


class TransposedConvolution(WindowOp):
    """Inputs: x (N, O, ...), filters (O, C / groups, kernel...). Output: (N, C, ...), as the input gradient gives it.

    Per axis the size of the result is (size - 1) * stride + dilation * (kernel - 1) + 1 - low - high + `more`.
    """

    __props__ = ("stride", "padding", "dilation", "groups", "more")

    def __init__(
        self,
        stride: int | Sequence[int] = 1,
        padding: Padding = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        more: int | Sequence[int] = 0,
        rank: int | None = None,
    ):
        super().__init__(stride, padding, dilation, groups, rank)
        if self.padding in ("same", "half"):
            raise UserError(f"padding {padding!r} leaves the size of a transposed convolution open; allowed: numbers")
        self.more: Sizes = per_axis("output_padding", more, self.window.rank, least=0)

    def make_node(self, x: Any, filters: Any) -> Apply:
        x, filters = float_tensors(x=x, filters=filters)
        check_rank("x", x, self.window.rank + 2)
        check_rank("filters", filters, self.window.rank + 2)
        check_lengths({"x": x.type.shape[1], "filters": filters.type.shape[0]})
        per_group, sizes = filters.type.shape[1], []
        for axis in range(self.window.rank):
            size, kernel = x.type.shape[2 + axis], filters.type.shape[2 + axis]
            known = size is not None and kernel is not None
            sizes.append(self.sizes((size,) * self.window.rank, (kernel,) * self.window.rank)[axis] if known else None)
        channels = None if per_group is None else per_group * self.groups
        dtype = upcast(x.type.dtype, filters.type.dtype)
        return Apply(self, [x, filters], [pt.tensor(dtype=dtype, shape=(x.type.shape[0], channels, *sizes))])

    def sizes(self, spatial: Sequence[Any], kernel: Sequence[Any]) -> tuple[Any, ...]:
        return self.window.transposed_output(spatial, kernel, self.more)

    def result_shape(self, x_shape: Sequence[Any], filters_shape: Sequence[int]) -> tuple[Any, ...]:
        """Of arrays, which are checked."""
        check_lengths({"x": x_shape[1], "filters": filters_shape[0]})
        shape = (x_shape[0], filters_shape[1] * self.groups, *self.sizes(x_shape[2:], filters_shape[2:]))
        if any(isinstance(size, int) and size < 1 for size in shape[2:]):
            raise UserError(f"x {tuple(x_shape)} and filters {tuple(filters_shape)} leave no output with {self.window}")
        return shape

    def perform(self, node: Apply, inputs: Sequence[np.ndarray], output_storage: list[list[Any]]) -> None:
        x, filters = inputs
        dtype = compute_dtype(node.outputs[0].type.dtype)
        shape = self.result_shape(x.shape, filters.shape)
        y = arrays.input_gradient(filters.astype(dtype, copy=False), x.astype(dtype, copy=False), shape, self.window)
        output_storage[0][0] = y.astype(node.outputs[0].type.dtype, copy=False)

    def infer_shape(self, *args: Any) -> list[tuple]:
        x, filters = args[-1]
        return [(x[0], filters[1] * self.groups, *output_sizes(self.window, x[2:], filters[2:], self.more))]

    def pullback(
        self, inputs: Sequence[Variable], outputs: Sequence[Variable], cotangents: Sequence[Variable]
    ) -> list[Variable]:
        x, filters = inputs
        (dy,) = cotangents
        d_filters = self.as_op(ConvolutionFiltersGradient)(filters, dy, x)
        return [self.as_op(Convolution)(dy, filters).astype(x.type.dtype), d_filters]

    def pushforward(
        self, inputs: Sequence[Variable], outputs: Sequence[Variable], tangents: Sequence[Variable]
    ) -> list[Variable]:
        x, filters = inputs
        return derivative(outputs[0], tangents, [lambda t: self(t, filters), lambda t: self(x, t)])


def derivative(
    output: Variable, tangents: Sequence[Variable], terms: Sequence[Callable[[Any], Variable] | None]
) -> list[Variable]:
    """The sum of the terms of those inputs that have a tangent, in the dtype of the output."""
    given = [
        term(tangent)
        for term, tangent in zip(terms, tangents, strict=False)
        if term is not None and not isinstance(tangent.type, DisconnectedType)
    ]
    return [sum(given[1:], given[0]).astype(output.type.dtype)] if given else [disconnected_type()]


def _bias_gradient(dy: Variable, bias: Variable) -> Variable:
    axes = tuple(axis for axis in range(dy.type.ndim) if axis != 1)
    return sum_over(dy.astype(compute_dtype(dy.type.dtype)), axes).astype(bias.type.dtype)


def check_bias(filters_shape: Sequence[int], bias_shape: Sequence[int]) -> None:
    """Raises `UserError` where the bias is not one value per output channel."""
    check_lengths({"filters": filters_shape[0], "bias": bias_shape[0]})
