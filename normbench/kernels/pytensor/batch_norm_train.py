"""Batch norm with the statistics of the batch, and the running statistics that it leaves for inference."""

from dataclasses import dataclass
from numbers import Real
from typing import Any

import pytensor.tensor as pt
from pytensor.tensor.variable import TensorVariable

from normbench.errors import UserError
from normbench.kernels.pytensor.batch_norm import RANKS, channel_axis
from normbench.kernels.pytensor.checks import (
    check_epsilon,
    check_lengths,
    check_rank,
    compute_dtype,
    float_tensors,
    number,
)
from normbench.kernels.pytensor.sums import element_count, lay, sum_over


@dataclass(frozen=True, slots=True)
class Trained:
    """y, and vectors of one value per channel: the batch's mean, 1 / sqrt(its variance + epsilon), and what follows."""

    y: TensorVariable
    mean: TensorVariable
    inverse: TensorVariable
    running_mean: TensorVariable
    running_var: TensorVariable

    def __iter__(self):
        return iter((self.y, self.mean, self.inverse, self.running_mean, self.running_var))


def batch_normalization_train(
    x: Any,
    gamma: Any,
    beta: Any,
    running_mean: Any,
    running_var: Any,
    momentum: float = 0.1,
    epsilon: float = 1e-5,
    *,
    axis: int = 1,
) -> Trained:
    """y = (x - mean) / sqrt(variance + epsilon) * gamma + beta, with the mean and variance of each channel of x.

    The variance in y divides by the number of elements n of a channel, that of the running statistics by n - 1:
    new = (1 - momentum) * running + momentum * batch, as PyTorch's BatchNorm in training mode.

    Args:
      x: rank 2 to 5, with its channels on `axis`; more than one element per channel.
      gamma, beta: vectors of length C; None for ones and zeros.
      running_mean, running_var: vectors of length C.
      momentum: how much of the new running statistics is of this batch, 0 to 1.
      epsilon: a Python number, 0 or more.

    Returns:
      y in x's dtype; the mean and the inverse deviation of the batch in the dtype that is computed in, the widest of x,
      gamma and beta, float32 at least; the new running statistics in the dtypes of the given ones. All but those are
      differentiable by x, gamma and beta in every backend. Nothing is updated by itself: hand the running statistics to
      `pytensor.function(..., updates=[(running_mean, new), ...])`.

    Raises:
      UserError: a wrong rank, axis, momentum, epsilon or static length, naming the argument.
    """
    given = {"x": x, "gamma": gamma, "beta": beta, "running_mean": running_mean, "running_var": running_var}
    found = {n: v for n, v in zip(given, float_tensors(**given), strict=True) if v is not None}
    for name in ("running_mean", "running_var"):
        if name not in found:
            raise UserError(f"{name} is missing; allowed: a vector of one value per channel")
    x, epsilon, momentum = found.pop("x"), check_epsilon(epsilon), _check_momentum(momentum)
    axes = _check(x, found, axis)
    return _graph(x, found, axes, momentum, epsilon)


def _graph(
    x: TensorVariable, vectors: dict[str, TensorVariable], axes: tuple[int, ...], momentum: float, epsilon: float
) -> Trained:
    affine = {name: vectors[name] for name in ("gamma", "beta") if name in vectors}
    dtype = compute_dtype(x.type.dtype, *(v.type.dtype for v in affine.values()))
    wide, channels = x.astype(dtype), tuple(i for i in range(x.type.ndim) if i not in axes)
    count = element_count(wide, axes)
    mean = sum_over(wide, axes) / count
    centred = wide - lay(mean, wide, channels)
    variance = sum_over(centred * centred, axes) / count
    inverse = number(1.0, dtype) / pt.sqrt(variance + number(epsilon, dtype))
    scale = inverse * affine["gamma"].astype(dtype) if "gamma" in affine else inverse
    y = centred * lay(scale, wide, channels)
    if "beta" in affine:
        y = y + lay(affine["beta"].astype(dtype), wide, channels)
    unbiased = variance * (count / (count - number(1.0, dtype)))
    running = (
        _moved(vectors[name], batch, momentum) for name, batch in (("running_mean", mean), ("running_var", unbiased))
    )
    return Trained(y.astype(x.type.dtype), mean, inverse, *running)


def _moved(running: TensorVariable, batch: TensorVariable, momentum: float) -> TensorVariable:
    dtype = running.type.dtype
    wide = compute_dtype(dtype, batch.type.dtype)
    kept = running.astype(wide) * number(1 - momentum, wide)
    return (kept + batch.astype(wide) * number(momentum, wide)).astype(dtype)


def _check(x: TensorVariable, vectors: dict[str, TensorVariable], axis: int) -> tuple[int, ...]:
    """Returns the axes that are summed over."""
    check_rank("x", x, *RANKS[1:])
    channels = channel_axis(x.type.ndim, axis)
    for name, vector in vectors.items():
        check_rank(name, vector, 1)
    check_lengths({"x": x.type.shape[channels]} | {name: v.type.shape[0] for name, v in vectors.items()})
    axes = tuple(i for i in range(x.type.ndim) if i != channels)
    if all(x.type.shape[i] == 1 for i in axes):
        raise UserError(f"x {x.type.shape} has one element per channel, which has no variance; allowed: two or more")
    return axes


def _check_momentum(momentum: Any) -> float:
    if isinstance(momentum, bool) or not isinstance(momentum, Real) or not 0 <= float(momentum) <= 1:
        raise UserError(f"momentum {momentum!r} is not allowed; allowed: a number from 0 to 1")
    return float(momentum)
