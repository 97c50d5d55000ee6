"""Maximum pooling over two axes as Ops that are closed under differentiation; other poolings as convolutions."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytensor.tensor as pt
from pytensor.gradient import disconnected_type
from pytensor.graph.basic import Apply, Variable
from pytensor.tensor.variable import TensorVariable

from normbench.errors import UserError
from normbench.kernels.pytensor.checks import check_rank, float_tensor
from normbench.kernels.pytensor.conv import arrays
from normbench.kernels.pytensor.conv.ops import Convolution, TransposedConvolution, WindowOp, derivative
from normbench.kernels.pytensor.conv.sizes import output_sizes
from normbench.kernels.pytensor.conv.window import Padding, Sizes, Window, per_axis, window
from normbench.kernels.pytensor.sums import element_count, sum_over


class PoolOp(WindowOp):
    """A window with its kernel, without groups or dilation: JAX has no gradient of a dilated maximum."""

    __props__ = ("kernel", "stride", "padding")

    def __init__(
        self,
        kernel: int | Sequence[int],
        stride: int | Sequence[int] | None = None,
        padding: Padding = 0,
    ):
        self.kernel: Sizes = per_axis("kernel", kernel, 2)
        super().__init__(self.kernel if stride is None else stride, padding, rank=2)
        for size, (low, high) in zip(self.kernel, self.window.pads(self.kernel, self.kernel), strict=True):
            if max(low, high) >= size and self.padding != "same":
                raise UserError(f"padding {padding!r} reaches past a kernel of {self.kernel}; allowed: less than it")

    def of(self, kind: type["PoolOp"]) -> "PoolOp":
        return kind(self.kernel, self.stride, self.padding)

    def output_shape(self, x: Any) -> tuple[int | None, ...]:
        return (*x.type.shape[:2], *self.static_sizes(x.type.shape[2:], self.kernel))

    def inferred(self, x_shape: Sequence[Any]) -> list[tuple]:
        return [(*x_shape[:2], *output_sizes(self.window, x_shape[2:], self.kernel))]


class MaxPool(PoolOp):
    """x (N, C, H, W) to the largest element under the kernel; what is outside of x is less than anything."""

    def make_node(self, x: Any) -> Apply:
        x = float_tensor("x", x)
        check_rank("x", x, 4)
        return Apply(self, [x], [pt.tensor(dtype=x.type.dtype, shape=self.output_shape(x))])

    def perform(self, node: Apply, inputs: Sequence[np.ndarray], output_storage: list[list[Any]]) -> None:
        self.window.check_sizes(inputs[0].shape[2:], self.kernel)
        output_storage[0][0] = arrays.max_pool(inputs[0], self.kernel, self.window)

    def infer_shape(self, *args: Any) -> list[tuple]:
        return self.inferred(args[-1][0])

    def pullback(
        self, inputs: Sequence[Variable], outputs: Sequence[Variable], cotangents: Sequence[Variable]
    ) -> list[Variable]:
        return [self.of(MaxPoolGradient)(inputs[0], cotangents[0])]

    def pushforward(
        self, inputs: Sequence[Variable], outputs: Sequence[Variable], tangents: Sequence[Variable]
    ) -> list[Variable]:
        return derivative(outputs[0], tangents, [lambda t: self.of(MaxPoolSelect)(inputs[0], t)])


class MaxPoolSelect(PoolOp):
    """Inputs: x, and values of its shape. Output: the values at the places of x's maxima, the first of equal ones."""

    def make_node(self, x: Any, values: Any) -> Apply:
        x, values = pt.as_tensor_variable(x), pt.as_tensor_variable(values)
        return Apply(self, [x, values], [pt.tensor(dtype=x.type.dtype, shape=self.output_shape(x))])

    def perform(self, node: Apply, inputs: Sequence[np.ndarray], output_storage: list[list[Any]]) -> None:
        x, values = inputs
        output_storage[0][0] = arrays.max_pool_select(x, values, self.kernel, self.window)

    def infer_shape(self, *args: Any) -> list[tuple]:
        return self.inferred(args[-1][0])

    def connection_pattern(self, node: Apply) -> list[list[bool]]:
        return [[False], [True]]

    def pullback(
        self, inputs: Sequence[Variable], outputs: Sequence[Variable], cotangents: Sequence[Variable]
    ) -> list[Variable]:
        slope = self.of(MaxPoolGradient)(inputs[0], cotangents[0])
        return [disconnected_type(), slope.astype(inputs[1].type.dtype)]

    def pushforward(
        self, inputs: Sequence[Variable], outputs: Sequence[Variable], tangents: Sequence[Variable]
    ) -> list[Variable]:
        return derivative(outputs[0], tangents, [None, lambda t: self(inputs[0], t)])


class MaxPoolGradient(PoolOp):
    """Inputs: x, and the gradient of its maxima. Output: the gradient of x."""

    def make_node(self, x: Any, dy: Any) -> Apply:
        x, dy = pt.as_tensor_variable(x), pt.as_tensor_variable(dy)
        return Apply(self, [x, dy], [pt.tensor(dtype=x.type.dtype, shape=x.type.shape)])

    def perform(self, node: Apply, inputs: Sequence[np.ndarray], output_storage: list[list[Any]]) -> None:
        x, dy = inputs
        output_storage[0][0] = arrays.max_pool_gradient(x, dy.astype(x.dtype, copy=False), self.kernel, self.window)

    def infer_shape(self, *args: Any) -> list[tuple]:
        return [args[-1][0]]

    def connection_pattern(self, node: Apply) -> list[list[bool]]:
        return [[False], [True]]

    def pullback(
        self, inputs: Sequence[Variable], outputs: Sequence[Variable], cotangents: Sequence[Variable]
    ) -> list[Variable]:
        taken = self.of(MaxPoolSelect)(inputs[0], cotangents[0])
        return [disconnected_type(), taken.astype(inputs[1].type.dtype)]

    def pushforward(
        self, inputs: Sequence[Variable], outputs: Sequence[Variable], tangents: Sequence[Variable]
    ) -> list[Variable]:
        return derivative(outputs[0], tangents, [None, lambda t: self(inputs[0], t)])


def max_pool2d(
    x: Any,
    kernel: int | Sequence[int],
    *,
    stride: int | Sequence[int] | None = None,
    padding: Padding = 0,
) -> TensorVariable:
    """The largest element under the kernel at each place.

    Args:
      x: (N, C, H, W).
      kernel: one number or two.
      stride: one number or two; by default the kernel.
      padding: as for `conv2d`, less than the kernel; what is outside of x is less than any element.

    Returns:
      (N, C, OH, OW) in x's dtype. Of equal maxima the first one gets the gradient, as in PyTorch.

    Raises:
      UserError: keywords, ranks or sizes that do not fit, naming the argument.
    """
    return MaxPool(kernel, stride, padding)(x)


def avg_pool2d(
    x: Any,
    kernel: int | Sequence[int],
    *,
    stride: int | Sequence[int] | None = None,
    padding: Padding = 0,
    count_include_pad: bool = True,
) -> TensorVariable:
    """The mean of the elements under the kernel at each place; arguments as `max_pool2d`.

    With `count_include_pad` the zeros outside of x count as elements, as is PyTorch's default; without it they do not.
    """
    x = float_tensor("x", x)
    check_rank("x", x, 4)
    sizes = per_axis("kernel", kernel, 2)
    taken = window(sizes if stride is None else stride, padding, 1, 1)
    if count_include_pad:
        return _each_channel(taken, sizes, x, 1.0 / (sizes[0] * sizes[1]))
    return _each_channel(taken, sizes, x, 1.0) / _each_channel(taken, sizes, pt.ones_like(x), 1.0)


def upsample2d(x: Any, factor: int | Sequence[int] = 2) -> TensorVariable:
    """Repeats each element of x (N, C, H, W) `factor` times along H and W (nearest neighbour)."""
    x = float_tensor("x", x)
    check_rank("x", x, 4)
    factors = (1, *per_axis("factor", factor, 2))
    ones = pt.constant(np.ones((1, 1, *factors), x.type.dtype))
    y = TransposedConvolution(factors, 0)(x.dimshuffle(0, "x", 1, 2, 3), ones)
    return y.dimshuffle(0, 2, 3, 4)


def global_avg_pool(x: Any) -> TensorVariable:
    """The mean over all axes of x (N, C, ...) but the first two, accumulated in x's dtype, float32 at least."""
    x = float_tensor("x", x)
    axes = tuple(range(2, x.type.ndim))
    wide = x.astype("float32") if x.type.dtype == "float16" else x
    return (sum_over(wide, axes) / element_count(wide, axes)).astype(x.type.dtype)


def _each_channel(taken: Window, kernel: Sizes, x: TensorVariable, weight: float) -> TensorVariable:
    """The sum of weight * x under the kernel: the channels are the depth of a convolution over three axes."""
    filters = pt.constant(np.full((1, 1, 1, *kernel), weight, x.type.dtype))
    padding = taken.padding if isinstance(taken.padding, str) else ((0, 0), *taken.padding)
    y = Convolution((1, *taken.stride), padding)(x.dimshuffle(0, "x", 1, 2, 3), filters)
    return y.dimshuffle(0, 2, 3, 4)
