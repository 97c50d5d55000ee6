"""2-D cross-correlation as an Op, closed under differentiation: its gradients are Ops with gradients."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytensor.tensor as pt
from pytensor.gradient import disconnected_type
from pytensor.graph.basic import Apply, Variable
from pytensor.graph.op import Op
from pytensor.scalar import upcast
from pytensor.tensor.variable import TensorVariable

from normbench.errors import UserError
from normbench.kernels.pytensor import conv_numpy
from normbench.kernels.pytensor.checks import check_lengths, compute_dtype, float_tensor
from normbench.kernels.pytensor.sums import sum_over
from normbench.kernels.pytensor.window import Padding, Window, window


class WindowOp(Op):
    """An Op whose properties are those of a window."""

    __props__ = ("stride", "padding", "dilation", "groups")

    def __init__(
        self,
        stride: int | Sequence[int] = 1,
        padding: Padding = "same",
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
    ):
        self.window: Window = window(stride, padding, dilation, groups)
        self.stride, self.padding = self.window.stride, self.window.padding
        self.dilation, self.groups = self.window.dilation, self.window.groups

    def _properties(self) -> tuple:
        return self.stride, self.padding, self.dilation, self.groups


class Conv2D(WindowOp):
    """Inputs: x (N, C, H, W), filters (O, C / groups, kh, kw) and optionally bias (O,). Output: (N, O, OH, OW).

    The output has the widest dtype of the inputs; float16 is computed in float32.
    """

    def make_node(self, x: Any, filters: Any, *bias: Any) -> Apply:
        x, filters = float_tensor("x", x), float_tensor("filters", filters)
        for name, tensor in (("x", x), ("filters", filters)):
            if tensor.type.ndim != 4:
                raise UserError(f"{name} has rank {tensor.type.ndim}; allowed: 4")
        vectors = [float_tensor("bias", value) for value in bias]
        self.window.check_channels(x.type.shape[1], filters.type.shape)
        features = filters.type.shape[0]
        for vector in vectors:
            if vector.type.ndim != 1:
                raise UserError(f"bias has rank {vector.type.ndim}; allowed: 1, one value per output channel")
            features = check_lengths({"filters": features, "bias": vector.type.shape[0]})
        inputs = [x, filters, *vectors]
        shape = (x.type.shape[0], features, *self._static_output(x.type.shape[2:], filters.type.shape[2:]))
        return Apply(self, inputs, [pt.tensor(dtype=upcast(*(v.type.dtype for v in inputs)), shape=shape)])

    def perform(self, node: Apply, inputs: Sequence[np.ndarray], output_storage: list[list[Any]]) -> None:
        x, filters, *bias = inputs
        self.window.check_arrays(x.shape, filters.shape)
        dtype = compute_dtype(node.outputs[0].type.dtype)
        y = conv_numpy.convolve(x.astype(dtype), filters.astype(dtype), self.window)
        for vector in bias:
            check_bias(filters.shape, vector.shape)
            y += vector.astype(dtype).reshape(1, -1, 1, 1)
        output_storage[0][0] = y.astype(node.outputs[0].type.dtype, copy=False)

    def infer_shape(self, *args: Any) -> list[tuple]:
        x, filters = args[-1][:2]
        return [(x[0], filters[0], *self.window.output(x[2:], filters[2:]))]

    def pullback(
        self, inputs: Sequence[Variable], outputs: Sequence[Variable], cotangents: Sequence[Variable]
    ) -> list[Variable]:
        x, filters, *bias = inputs
        dy = cotangents[0]
        gradients = [
            Conv2DInputGradient(*self._properties())(x, filters, dy),
            Conv2DFiltersGradient(*self._properties())(filters, x, dy),
        ]
        total = sum_over(dy.astype(compute_dtype(dy.type.dtype)), (0, 2, 3))
        return gradients + [total.astype(vector.type.dtype) for vector in bias]

    def _static_output(self, spatial: Sequence[int | None], kernel: Sequence[int | None]) -> tuple[int | None, ...]:
        """Per axis the size of the output where it is known; for "same" it does not depend on the kernel."""
        sizes: list[int | None] = []
        for axis in range(2):
            known_kernel = 1 if self.padding == "same" else kernel[axis]
            if spatial[axis] is None or known_kernel is None:
                sizes.append(None)
                continue
            size = self.window.output((spatial[axis],) * 2, (known_kernel,) * 2)[axis]
            if size < 1:
                raise UserError(f"a kernel of {known_kernel} leaves no output of x with size {spatial[axis]}")
            sizes.append(size)
        return tuple(sizes)


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
        result = self._numpy(other.astype(dtype), dy.astype(dtype), like.shape)
        output_storage[0][0] = result.astype(node.outputs[0].type.dtype, copy=False)

    def infer_shape(self, *args: Any) -> list[tuple]:
        return [args[-1][0]]

    def connection_pattern(self, node: Apply) -> list[list[bool]]:
        return [[False], [True], [True]]


class Conv2DInputGradient(_GradientOp):
    """(x, filters, gradient of y) to the gradient of x."""

    def _numpy(self, filters: np.ndarray, dy: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        return conv_numpy.input_gradient(filters, dy, shape, self.window)

    def pullback(
        self, inputs: Sequence[Variable], outputs: Sequence[Variable], cotangents: Sequence[Variable]
    ) -> list[Variable]:
        _, filters, dy = inputs
        (dx,) = cotangents
        d_filters = Conv2DFiltersGradient(*self._properties())(filters, dx, dy)
        return [disconnected_type(), d_filters, Conv2D(*self._properties())(dx, filters).astype(dy.type.dtype)]


class Conv2DFiltersGradient(_GradientOp):
    """(filters, x, gradient of y) to the gradient of the filters."""

    def _numpy(self, x: np.ndarray, dy: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        return conv_numpy.filters_gradient(x, dy, shape, self.window)

    def pullback(
        self, inputs: Sequence[Variable], outputs: Sequence[Variable], cotangents: Sequence[Variable]
    ) -> list[Variable]:
        _, x, dy = inputs
        (d_filters,) = cotangents
        dx = Conv2DInputGradient(*self._properties())(x, d_filters, dy)
        return [disconnected_type(), dx, Conv2D(*self._properties())(x, d_filters).astype(dy.type.dtype)]


def conv2d(
    x: Any,
    filters: Any,
    bias: Any = None,
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = "same",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> TensorVariable:
    """2-D cross-correlation (the filters are not flipped), y[n, o] = bias[o] + sum over c of x[n, c] * filters[o, c].

    Args:
      x: (N, C, H, W).
      filters: (O, C / groups, kh, kw).
      bias: (O,), or None.
      stride, dilation: one number, or one per axis.
      padding: "same", which gives ceil(size / stride) and puts the odd zero at the end, as in XLA; "valid"; a number; a
        number per axis; or a (low, high) pair per axis. No shape has to be static.
      groups: divides C and O.

    Returns:
      (N, O, OH, OW) in the widest dtype of the arguments.

    Raises:
      UserError: keywords, ranks, dtypes or static sizes that do not fit, naming the argument.
    """
    op = Conv2D(stride, padding, dilation, groups)
    return op(x, filters) if bias is None else op(x, filters, bias)


def silu(x: Any) -> TensorVariable:
    """x * sigmoid(x)."""
    x = float_tensor("x", x)
    return x * pt.sigmoid(x)


def check_bias(filters_shape: Sequence[int], bias_shape: Sequence[int]) -> None:
    """Raises `UserError` where the bias is not one value per output channel."""
    check_lengths({"filters": filters_shape[0], "bias": bias_shape[0]})
