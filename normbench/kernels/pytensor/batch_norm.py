"""Inference batch norm as an Op: y = (x - mean) * gamma / sqrt(variance + epsilon) + beta, one value per channel."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytensor.tensor as pt
from pytensor.graph.basic import Apply, Variable
from pytensor.graph.op import Op
from pytensor.tensor.variable import TensorVariable

from normbench.errors import UserError
from normbench.kernels.pytensor.checks import (
    check_epsilon,
    check_lengths,
    check_rank,
    compute_dtype,
    float_tensors,
    number,
)
from normbench.kernels.pytensor.conv.ops import derivative
from normbench.kernels.pytensor.sums import lay, sum_over

PARAMETERS = ("gamma", "beta", "mean", "variance")
RANKS = (1, 2, 3, 4, 5)


class BatchNormalization(Op):
    """Batch norm with given statistics. Inputs: x, gamma, beta, mean, variance.

    x has rank 1 to 5 and its channels on `axis`, or on axis 0 where it has rank 1: (C,), (N, C), (N, C, L),
    (N, C, H, W), (N, C, D, H, W) for axis 1, (N, H, W, C) and so on for axis -1. The others are vectors of length C.
    The result is computed in the widest dtype of all, float32 at least, and has the shape and the dtype of x; x of
    whole numbers, e.g. an image of uint8, is first cast to the widest floating dtype of the parameters.

    Mean and variance are ordinary inputs: they have gradients.
    """

    __props__ = ("epsilon", "axis")

    def __init__(self, epsilon: float = 1e-5, axis: int = 1):
        self.epsilon = check_epsilon(epsilon)
        if not isinstance(axis, int | np.integer) or isinstance(axis, bool):
            raise UserError(f"axis {axis!r} is not allowed; allowed: a whole number, the axis of the channels")
        self.axis = int(axis)

    def make_node(self, x: Any, gamma: Any, beta: Any, mean: Any, variance: Any) -> Apply:
        x, *vectors = float_tensors(x=x, gamma=gamma, beta=beta, mean=mean, variance=variance)
        check_rank("x", x, *RANKS)
        for name, vector in zip(PARAMETERS, vectors, strict=True):
            check_rank(name, vector, 1)
        axis, shape = self.channel_axis(x.type.ndim), list(x.type.shape)
        sizes = {"x": shape[axis]} | {n: v.type.shape[0] for n, v in zip(PARAMETERS, vectors, strict=True)}
        shape[axis] = check_lengths(sizes)
        return Apply(self, [x, *vectors], [pt.tensor(dtype=x.type.dtype, shape=tuple(shape))])

    def channel_axis(self, rank: int) -> int:
        """The axis of the channels of x of that rank, 0 or more."""
        return channel_axis(rank, self.axis)

    def pattern(self, rank: int) -> list[int]:
        """The shape in which a vector of parameters meets x of that rank."""
        return [-1 if axis == self.channel_axis(rank) else 1 for axis in range(rank)]

    def check_arrays(self, x_shape: Sequence[Any], vector_shapes: Sequence[Sequence[int]]) -> None:
        """Raises `UserError` where the lengths of arrays differ; else a vector of length 1 would be broadcast."""
        sizes: dict[str, int | None] = {"x": x_shape[self.channel_axis(len(x_shape))]}
        check_lengths(sizes | {name: shape[0] for name, shape in zip(PARAMETERS, vector_shapes, strict=True)})

    def perform(self, node: Apply, inputs: Sequence[np.ndarray], output_storage: list[list[Any]]) -> None:
        x, *vectors = inputs
        self.check_arrays(x.shape, [vector.shape for vector in vectors])
        dtype = compute_dtype(*(variable.type.dtype for variable in node.inputs))
        pattern = self.pattern(x.ndim)
        gamma, beta, mean, variance = (vector.astype(dtype).reshape(pattern) for vector in vectors)
        scale = gamma / np.sqrt(variance + number(self.epsilon, dtype))
        y = (x.astype(dtype) - mean) * scale + beta
        output_storage[0][0] = np.asarray(y, dtype=node.outputs[0].type.dtype)

    def infer_shape(self, *args: Any) -> list[tuple]:
        return [args[-1][0]]  # (fgraph, node, shapes) before PyTensor 3.1, (node, shapes) since

    def pullback(
        self, inputs: Sequence[Variable], outputs: Sequence[Variable], cotangents: Sequence[Variable]
    ) -> list[Variable]:
        """None of the five is part of another, which PyTensor's derivative through two pullbacks needs to be right."""
        x, gamma, mean, inverse, dtype = self._terms(inputs)
        dy = cotangents[0].astype(dtype)
        axes = [axis for axis in range(dy.type.ndim) if axis != self.channel_axis(dy.type.ndim)]
        centred = x - self._across(mean, x)

        def d_beta() -> Any:
            return sum_over(dy, axes) if axes else pt.tensor_copy(dy)

        def d_scale() -> Any:
            return sum_over(dy * centred, axes)

        gradients = (
            dy * self._across(gamma * inverse, x),
            d_scale() * inverse,
            d_beta(),
            -d_beta() * (gamma * inverse),
            number(-0.5, dtype) * d_scale() * gamma * inverse * inverse * inverse,
        )
        return [g.astype(given.type.dtype) for g, given in zip(gradients, inputs, strict=True)]

    def pushforward(
        self, inputs: Sequence[Variable], outputs: Sequence[Variable], tangents: Sequence[Variable]
    ) -> list[Variable]:
        x, gamma, mean, inverse, dtype = self._terms(inputs)
        scale, centred = gamma * inverse, x - self._across(mean, x)
        slope = number(-0.5, dtype) * scale * inverse * inverse
        terms = (
            lambda t: t.astype(dtype) * self._across(scale, x),
            lambda t: self._across(t.astype(dtype) * inverse, x) * centred,
            lambda t: self._across(t.astype(dtype), x),
            lambda t: -self._across(t.astype(dtype) * scale, x),
            lambda t: self._across(t.astype(dtype) * slope, x) * centred,
        )
        return derivative(outputs[0], tangents, terms)

    def _terms(self, inputs: Sequence[Variable]) -> tuple[Any, ...]:
        """x, gamma and mean in the dtype to compute in, 1 / sqrt(variance + epsilon), and that dtype."""
        dtype = compute_dtype(*(variable.type.dtype for variable in inputs))
        x, gamma, _, mean, variance = (variable.astype(dtype) for variable in inputs)
        inverse = number(1.0, dtype) / pt.sqrt(variance + number(self.epsilon, dtype))
        return x, gamma, mean, inverse, dtype

    def _across(self, vector: TensorVariable, x: TensorVariable) -> TensorVariable:
        """Repeats a vector along x's channels to x's shape."""
        return lay(vector, x, (self.channel_axis(x.type.ndim),))


def batch_normalization(
    x: Any,
    gamma: Any = None,
    beta: Any = None,
    mean: Any = None,
    variance: Any = None,
    epsilon: float = 1e-5,
    *,
    axis: int = 1,
) -> TensorVariable:
    """Inference batch norm, y = (x - mean) * gamma / sqrt(variance + epsilon) + beta.

    Args:
      x: (C,), (N, C), (N, C, L), (N, C, H, W) or (N, C, D, H, W) with axis 1; (N, H, W, C) and so on with axis -1.
      gamma, beta: vectors of length C; None for ones and zeros.
      mean, variance: vectors of length C.
      epsilon: a Python number, 0 or more, added to the variance under the root.
      axis: the axis of the channels of x, where x has more than one.

    Returns:
      A symbolic tensor of x's shape and dtype, whatever the dtypes of the parameters.

    Raises:
      UserError: a wrong rank or axis, a dtype that is no number's, or static lengths that differ, naming the argument.
        Lengths that are not static are checked when the function runs, in every backend.
    """
    for name, value in (("mean", mean), ("variance", variance)):
        if value is None:
            raise UserError(f"{name} is missing; allowed: a vector of one value per channel")
    mean = pt.as_tensor_variable(mean)
    gamma = pt.ones_like(mean) if gamma is None else gamma
    beta = pt.zeros_like(mean) if beta is None else beta
    return BatchNormalization(epsilon, axis)(x, gamma, beta, mean, variance)


def channel_axis(rank: int, axis: int = 1) -> int:
    """The axis of the channels, 0 or more, of x of that rank."""
    if rank == 1:
        return 0
    if not -rank <= axis < rank:
        raise UserError(f"axis {axis} for x of rank {rank}; allowed: {-rank} to {rank - 1}")
    return axis % rank
