"""Sums and broadcasts that keep their dtype, and so do their gradients.

PyTensor accumulates a float32 sum in float64 unless told otherwise, and its JAX backend then returns the float64
accumulator where float32 is declared. The gradient of every broadcast is such a sum. Here the two are a pair, each the
gradient of the other; both are replaced by their inner graphs when a function is compiled.
"""

from collections.abc import Sequence
from functools import reduce
from operator import mul
from typing import Any

import pytensor.tensor as pt
from pytensor.compile.builders import SymbolicOp
from pytensor.gradient import disconnected_type
from pytensor.graph.basic import Apply, Variable
from pytensor.tensor.variable import TensorVariable


class Sum(SymbolicOp):
    """x to its sum over `axes`, which stay with size 1, accumulated in x's dtype."""

    __props__ = ("axes",)
    axes: tuple[int, ...]
    inline = True

    def build_inner_graph(self, x: Any) -> list[Variable]:  # type: ignore[override]
        return [pt.sum(x, axis=self.axes, dtype=x.type.dtype, acc_dtype=x.type.dtype, keepdims=True)]

    def pullback(
        self, inputs: Sequence[Variable], outputs: Sequence[Variable], cotangents: Sequence[Variable]
    ) -> list[Variable]:
        return [Spread(axes=self.axes)(cotangents[0], inputs[0])]


class Spread(SymbolicOp):
    """Inputs: x with size 1 on `axes`, and what has the shape that x is to be repeated to; only its shape is used."""

    __props__ = ("axes",)
    axes: tuple[int, ...]
    inline = True

    def build_inner_graph(self, x: Any, like: Any) -> list[Variable]:  # type: ignore[override]
        return [pt.second(like, x)]

    def connection_pattern(self, node: Apply) -> list[list[bool]]:
        return [[True], [False]]

    def pullback(
        self, inputs: Sequence[Variable], outputs: Sequence[Variable], cotangents: Sequence[Variable]
    ) -> list[Variable]:
        return [Sum(axes=self.axes)(cotangents[0]), disconnected_type()]


def sum_over(x: TensorVariable, axes: Sequence[int], keepdims: bool = False) -> TensorVariable:
    """The sum over `axes` in x's dtype."""
    if not axes:
        return x
    total = Sum(axes=tuple(axes))(x)
    return total if keepdims else total.dimshuffle(*(i for i in range(x.type.ndim) if i not in axes))


def mean_over(x: TensorVariable, axes: Sequence[int]) -> TensorVariable:
    """The mean over `axes` in x's dtype, repeated to x's shape."""
    return Spread(axes=tuple(axes))(sum_over(x, axes, keepdims=True) / element_count(x, axes), x)


def element_count(x: TensorVariable, axes: Sequence[int]) -> TensorVariable:
    """The number of elements along `axes`, in x's dtype."""
    return pt.cast(reduce(mul, (x.shape[axis] for axis in axes)), x.type.dtype)


def lay(parameter: TensorVariable, x: TensorVariable, axes: Sequence[int]) -> TensorVariable:
    """A parameter, whose axes are those `axes` of x, repeated to x's shape."""
    others = tuple(i for i in range(x.type.ndim) if i not in axes)
    laid = parameter.dimshuffle(*(axes.index(i) if i in axes else "x" for i in range(x.type.ndim)))
    return Spread(axes=others)(laid, x) if others else laid
