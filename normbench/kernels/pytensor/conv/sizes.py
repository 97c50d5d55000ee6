"""The size of a result along one axis, as an Op that stays a whole number while JAX traces.

PyTensor infers shapes with its own arithmetic. Under JAX part of that arithmetic becomes traced values (the negative,
and in 3.0.7 whatever its fusion of elementwise Ops takes in), and a traced value cannot be the shape of an array: so
`pytensor.grad(conv2d(x, w).sum(), w)` would fail. This Op's function does Python's arithmetic on what it is given.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytensor.tensor as pt
from pytensor.gradient import disconnected_type
from pytensor.graph.basic import Apply, Variable
from pytensor.graph.op import Op

from normbench.kernels.pytensor.conv.window import Pair, Window, axis_output, axis_pads


class AxisSize(Op):
    """Inputs: the sizes of x and of the kernel along one axis. Output: the size of the result, int64.

    `more` is None for a convolution; for a transposed one it is what is added at the high end.
    """

    __props__ = ("stride", "padding", "dilation", "more")

    def __init__(self, stride: int, padding: str | Pair, dilation: int, more: int | None = None):
        self.stride, self.padding, self.dilation, self.more = stride, padding, dilation, more

    def make_node(self, size: Any, kernel: Any) -> Apply:
        inputs = [pt.as_tensor_variable(value).astype("int64") for value in (size, kernel)]
        return Apply(self, inputs, [pt.lscalar()])

    def calculate(self, size: Any, kernel: Any) -> Any:
        extent = self.dilation * (kernel - 1) + 1
        if self.more is None:
            return axis_output(self.padding, self.stride, extent, size)
        low, high = axis_pads(self.padding, self.stride, extent, size)
        return (size - 1) * self.stride + extent - low - high + self.more

    def perform(self, node: Apply, inputs: Sequence[np.ndarray], output_storage: list[list[Any]]) -> None:
        size, kernel = inputs
        output_storage[0][0] = np.asarray(self.calculate(int(size), int(kernel)), "int64")

    def infer_shape(self, *args: Any) -> list[tuple]:
        return [()]

    def connection_pattern(self, node: Apply) -> list[list[bool]]:
        return [[False], [False]]

    def pullback(
        self, inputs: Sequence[Variable], outputs: Sequence[Variable], cotangents: Sequence[Variable]
    ) -> list[Variable]:
        return [disconnected_type(), disconnected_type()]


def output_sizes(
    window: Window, spatial: Sequence[Any], kernel: Sequence[Any], more: Sequence[int] | None = None
) -> list[Any]:
    """The symbolic spatial sizes of the result of a convolution, or, with `more`, of a transposed one."""
    return [
        AxisSize(
            window.stride[axis], window.axis_padding(axis), window.dilation[axis], None if more is None else more[axis]
        )(spatial[axis], kernel[axis])
        for axis in range(window.rank)
    ]
