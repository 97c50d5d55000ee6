"""Batch normalization with given statistics, as it is computed at inference."""

from collections.abc import Sequence

import numpy as np

from pytensor.gradient import DisconnectedType, disconnected_type
from pytensor.graph.basic import Apply
from pytensor.graph.op import Op
from pytensor.scalar import upcast
from pytensor.tensor.basic import as_tensor_variable, tensor_copy
from pytensor.tensor.math import sqrt
from pytensor.tensor.math import sum as pt_sum
from pytensor.tensor.type import tensor


class BatchNormalization(Op):
    """Normalize the channels of a tensor with given means and variances.

    Computes ``(x - mean) / sqrt(variance + epsilon) * gamma + beta``, where the
    four vectors hold one value per channel. Channels lie along axis 1 of ``x``,
    or along axis 0 when ``x`` is a vector.

    Parameters
    ----------
    epsilon : float
        Added to the variance before taking the root.
    ndim : int
        Number of dimensions of ``x`` in the core case.

    """

    __props__ = ("epsilon", "ndim")

    def __init__(self, epsilon: float = 1e-5, ndim: int = 4):
        if not epsilon >= 0:
            raise ValueError(f"epsilon must be non-negative, got {epsilon}")
        if ndim < 1:
            raise ValueError(f"ndim must be positive, got {ndim}")
        self.epsilon = float(epsilon)
        self.ndim = int(ndim)
        self.axis = min(1, self.ndim - 1)
        dims = [f"d{i}" for i in range(self.ndim)]
        dims[self.axis] = "c"
        x_signature = f"({','.join(dims)})"
        self.gufunc_signature = f"{x_signature},(c),(c),(c),(c)->{x_signature}"

    @property
    def expanded_shape(self) -> tuple[int, ...]:
        """Shape with which a vector of parameters broadcasts against ``x``."""
        return tuple(-1 if i == self.axis else 1 for i in range(self.ndim))

    @property
    def expanded_pattern(self) -> tuple[int | str, ...]:
        """Pattern of the ``dimshuffle`` that does the same."""
        return tuple(0 if i == self.axis else "x" for i in range(self.ndim))

    def make_node(self, x, gamma, beta, mean, variance):
        x = as_tensor_variable(x)
        params = {
            name: as_tensor_variable(param)
            for name, param in (
                ("gamma", gamma),
                ("beta", beta),
                ("mean", mean),
                ("variance", variance),
            )
        }
        if x.type.ndim != self.ndim:
            raise ValueError(f"x must have {self.ndim} dimensions, got {x.type.ndim}")
        shape = list(x.type.shape)
        for name, var in (("x", x), *params.items()):
            if not var.type.dtype.startswith("float"):
                raise TypeError(f"{name} must be a float tensor, got {var.type.dtype}")
        for name, param in params.items():
            if param.type.ndim != 1:
                raise ValueError(f"{name} must be a vector, got {param.type.ndim}d")
            length = param.type.shape[0]
            if shape[self.axis] is None:
                shape[self.axis] = length
            elif length is not None and length != shape[self.axis]:
                raise ValueError(
                    f"{name} has length {length} but there are "
                    f"{shape[self.axis]} channels"
                )
        return Apply(
            self,
            [x, *params.values()],
            [tensor(dtype=x.type.dtype, shape=tuple(shape))],
        )

    def compute_dtype(self, node) -> str:
        """Type that the result is computed in before it is cast to that of ``x``."""
        return upcast("float32", *(inp.type.dtype for inp in node.inputs))

    def check_lengths(self, x_shape: Sequence[int], *lengths: int) -> None:
        """Raise if a parameter would be broadcast along the channels."""
        channels = x_shape[self.axis]
        if any(length != channels for length in lengths):
            raise ValueError(
                f"Parameters of lengths {lengths} do not match {channels} channels"
            )

    def perform(self, node, inputs, output_storage):
        x, *params = inputs
        self.check_lengths(x.shape, *(len(param) for param in params))
        dtype = self.compute_dtype(node)
        gamma, beta, mean, variance = (
            param.astype(dtype).reshape(self.expanded_shape) for param in params
        )
        epsilon = np.asarray(self.epsilon, dtype=dtype)
        y = (x - mean) * (gamma / np.sqrt(variance + epsilon)) + beta
        output_storage[0][0] = np.asarray(y, dtype=node.outputs[0].type.dtype)

    def infer_shape(self, node, shapes):
        return [shapes[0]]

    def _terms(self, inputs):
        dtype = upcast("float32", *(inp.type.dtype for inp in inputs))
        x, gamma, _, mean, variance = (inp.astype(dtype) for inp in inputs)
        inv_std = 1 / sqrt(variance + np.asarray(self.epsilon, dtype=dtype))
        centered = x - mean.dimshuffle(self.expanded_pattern)
        return dtype, gamma, inv_std.astype(dtype), centered

    def pullback(self, inputs, outputs, cotangents):
        dtype, gamma, inv_std, centered = self._terms(inputs)
        dy = cotangents[0].astype(dtype)
        axes = tuple(i for i in range(self.ndim) if i != self.axis)

        # `pushforward_through_pullback` requires that no gradient is part of another
        def sum_of(term):
            if not axes:
                return tensor_copy(term)
            return pt_sum(term, axis=axes, acc_dtype=dtype)

        half = np.asarray(-0.5, dtype=dtype)
        gradients = (
            dy * (gamma * inv_std).dimshuffle(self.expanded_pattern),
            sum_of(dy * centered) * inv_std,
            sum_of(dy),
            -sum_of(dy) * gamma * inv_std,
            half * sum_of(dy * centered) * gamma * inv_std * inv_std * inv_std,
        )
        return [
            gradient.astype(inp.type.dtype)
            for gradient, inp in zip(gradients, inputs, strict=True)
        ]

    def pushforward(self, inputs, outputs, tangents):
        dtype, gamma, inv_std, centered = self._terms(inputs)
        pattern = self.expanded_pattern
        scale = gamma * inv_std
        slope = np.asarray(-0.5, dtype=dtype) * scale * inv_std * inv_std
        zeros = centered * np.asarray(0, dtype=dtype)
        terms = (
            lambda t: t * scale.dimshuffle(pattern),
            lambda t: (t * inv_std).dimshuffle(pattern) * centered,
            lambda t: zeros + t.dimshuffle(pattern),
            lambda t: zeros - (t * scale).dimshuffle(pattern),
            lambda t: (t * slope).dimshuffle(pattern) * centered,
        )
        connected = [
            term(tangent.astype(dtype))
            for term, tangent in zip(terms, tangents, strict=True)
            if not isinstance(tangent.type, DisconnectedType)
        ]
        if not connected:
            return [disconnected_type()]
        return [sum(connected[1:], connected[0]).astype(outputs[0].type.dtype)]


def batch_normalization(x, gamma, beta, mean, variance, epsilon: float = 1e-5):
    """Normalize the channels of a tensor with given means and variances.

    Parameters
    ----------
    x : TensorLike
        Tensor whose channels lie along axis 1, or along axis 0 if it is a vector.
    gamma, beta : TensorLike
        Scale and shift, vectors of one value per channel.
    mean, variance : TensorLike
        Statistics to normalize with, vectors of one value per channel.
    epsilon : float, optional
        Added to the variance before taking the root.

    Returns
    -------
    TensorVariable
        Tensor with the shape and type of ``x``.

    Examples
    --------
    >>> import pytensor.tensor as pt
    >>> from pytensor.tensor.batchnorm import batch_normalization
    >>> x = pt.tensor("x", shape=(None, 3, 8, 8))
    >>> params = [pt.vector(name) for name in ("gamma", "beta", "mean", "variance")]
    >>> batch_normalization(x, *params).type.shape
    (None, 3, 8, 8)

    """
    x = as_tensor_variable(x)
    return BatchNormalization(epsilon, x.type.ndim)(x, gamma, beta, mean, variance)


__all__ = ["batch_normalization"]
