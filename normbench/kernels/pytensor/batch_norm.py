"""Inference batch norm as an Op: y = (x - mean) * gamma / sqrt(variance + epsilon) + beta, one value per channel."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytensor.tensor as pt
from pytensor.gradient import DisconnectedType, disconnected_type
from pytensor.graph.basic import Apply, Variable
from pytensor.graph.op import Op
from pytensor.tensor.variable import TensorVariable

from normbench.errors import UserError
from normbench.kernels.pytensor.checks import check_epsilon, check_lengths, compute_dtype, float_tensor, number
from normbench.kernels.pytensor.sums import lay, sum_over

PARAMETERS = ("gamma", "beta", "mean", "variance")
RANKS = (1, 2, 3, 4, 5)


class BatchNormalization(Op):
    """Batch norm with given statistics. Inputs: x, gamma, beta, mean, variance.

    x has rank 1 to 5 and its channels on axis 1, or on axis 0 where it has rank 1: (C,), (N, C), (N, C, L),
    (N, C, H, W), (N, C, D, H, W). The others are vectors of length C. All are float16, float32 or float64; the result
    is computed in the widest of their dtypes, float32 at least, and has the shape and the dtype of x.

    Mean and variance are ordinary inputs: they have gradients.
    """

    __props__ = ("epsilon",)

    def __init__(self, epsilon: float = 1e-5):
        self.epsilon = check_epsilon(epsilon)

    def make_node(self, x: Any, gamma: Any, beta: Any, mean: Any, variance: Any) -> Apply:
        x = float_tensor("x", x)
        if x.type.ndim not in RANKS:
            raise UserError(f"x has rank {x.type.ndim}; allowed: {', '.join(map(str, RANKS))}")
        vectors = [
            float_tensor(name, value) for name, value in zip(PARAMETERS, (gamma, beta, mean, variance), strict=True)
        ]
        for name, vector in zip(PARAMETERS, vectors, strict=True):
            if vector.type.ndim != 1:
                raise UserError(f"{name} has rank {vector.type.ndim}; allowed: 1, a vector of one value per channel")
        axis, shape = channel_axis(x.type.ndim), list(x.type.shape)
        sizes = {"x": shape[axis]} | {n: v.type.shape[0] for n, v in zip(PARAMETERS, vectors, strict=True)}
        shape[axis] = check_lengths(sizes)
        return Apply(self, [x, *vectors], [pt.tensor(dtype=x.type.dtype, shape=tuple(shape))])

    def perform(self, node: Apply, inputs: Sequence[np.ndarray], output_storage: list[list[Any]]) -> None:
        x, *vectors = inputs
        check_arrays(x.shape, [vector.shape for vector in vectors])
        dtype = compute_dtype(*(variable.type.dtype for variable in node.inputs))
        pattern = [-1 if axis == channel_axis(x.ndim) else 1 for axis in range(x.ndim)]
        gamma, beta, mean, variance = (vector.astype(dtype).reshape(pattern) for vector in vectors)
        scale = gamma / np.sqrt(variance + number(self.epsilon, dtype))
        y = (x.astype(dtype) - mean) * scale + beta
        output_storage[0][0] = np.asarray(y, dtype=node.outputs[0].type.dtype)

    def infer_shape(self, *args: Any) -> list[tuple]:
        return [args[-1][0]]  # (fgraph, node, shapes) before PyTensor 3.1, (node, shapes) since

    def pullback(
        self, inputs: Sequence[Variable], outputs: Sequence[Variable], cotangents: Sequence[Variable]
    ) -> list[Variable]:
        x, gamma, mean, inverse, dtype = self._terms(inputs)
        dy = cotangents[0].astype(dtype)
        axes = [axis for axis in range(dy.type.ndim) if axis != channel_axis(dy.type.ndim)]
        centred = x - _across(mean, x)
        scale = gamma * inverse
        d_beta = sum_over(dy, axes)
        d_gamma = sum_over(dy * centred, axes) * inverse
        gradients = (
            dy * _across(scale, x),
            d_gamma,
            d_beta,
            -d_beta * scale,
            number(-0.5, dtype) * d_gamma * gamma * inverse * inverse,
        )
        return [g.astype(given.type.dtype) for g, given in zip(gradients, inputs, strict=True)]

    def pushforward(
        self, inputs: Sequence[Variable], outputs: Sequence[Variable], tangents: Sequence[Variable]
    ) -> list[Variable]:
        x, gamma, mean, inverse, dtype = self._terms(inputs)
        scale = gamma * inverse
        centred = x - _across(mean, x)
        slope = number(-0.5, dtype) * scale * inverse * inverse
        factors = (
            lambda t: t * _across(scale, x),
            lambda t: _across(t * inverse, x) * centred,
            lambda t: _across(t, x),
            lambda t: -_across(t * scale, x),
            lambda t: _across(t * slope, x) * centred,
        )
        terms = [
            factor(tangent.astype(dtype))
            for factor, tangent in zip(factors, tangents, strict=True)
            if not isinstance(tangent.type, DisconnectedType)
        ]
        if not terms:
            return [disconnected_type()]
        return [sum(terms[1:], terms[0]).astype(outputs[0].type.dtype)]

    def _terms(self, inputs: Sequence[Variable]) -> tuple[Any, ...]:
        """x, gamma and mean in the dtype to compute in, 1 / sqrt(variance + epsilon), and that dtype."""
        dtype = compute_dtype(*(variable.type.dtype for variable in inputs))
        x, gamma, _, mean, variance = (variable.astype(dtype) for variable in inputs)
        inverse = number(1.0, dtype) / pt.sqrt(variance + number(self.epsilon, dtype))
        return x, gamma, mean, inverse, dtype


def batch_normalization(
    x: Any, gamma: Any, beta: Any, mean: Any, variance: Any, epsilon: float = 1e-5
) -> TensorVariable:
    """Inference batch norm, y = (x - mean) * gamma / sqrt(variance + epsilon) + beta.

    Args:
      x: (C,), (N, C), (N, C, L), (N, C, H, W) or (N, C, D, H, W).
      gamma, beta, mean, variance: vectors of length C.
      epsilon: a Python number, 0 or more, added to the variance under the root.

    Returns:
      A symbolic tensor of x's shape and dtype, whatever the dtypes of the parameters.

    Raises:
      UserError: a wrong rank, a dtype that is not floating, or static lengths that differ, naming the argument.
        Lengths that are not static are checked when the function runs, in every backend.
    """
    return BatchNormalization(epsilon)(x, gamma, beta, mean, variance)


def channel_axis(rank: int) -> int:
    return 0 if rank == 1 else 1


def check_arrays(x_shape: Sequence[int], vector_shapes: Sequence[Sequence[int]]) -> None:
    """Raises `UserError` where the lengths of arrays differ; without it a vector of length 1 would be broadcast."""
    sizes: dict[str, int | None] = {"x": x_shape[channel_axis(len(x_shape))]}
    check_lengths(sizes | {name: shape[0] for name, shape in zip(PARAMETERS, vector_shapes, strict=True)})


def _across(vector: TensorVariable, x: TensorVariable) -> TensorVariable:
    """Repeats a vector along x's channels to x's shape."""
    return lay(vector, x, (channel_axis(x.type.ndim),))
