"""The other normalizations, as expressions that every backend runs and PyTensor differentiates.

Each computes in float32 at least (float64 where an argument is float64), and returns x's shape and dtype. Sums are
accumulated in that dtype: PyTensor's default, float64 for float32, makes its JAX backend return float64.
Parameters left out are one (gamma) and zero (beta). epsilon is a Python number.
"""

from collections.abc import Sequence
from typing import Any

import pytensor.tensor as pt
from pytensor.tensor.variable import TensorVariable

from normbench.errors import UserError
from normbench.kernels.common.whole import is_whole
from normbench.kernels.pytensor.checks import check_epsilon, check_lengths, compute_dtype, float_tensors, number
from normbench.kernels.pytensor.reshape import ReshapeLike, SplitGroups
from normbench.kernels.pytensor.sums import lay, mean_over


def layer_normalization(
    x: Any, gamma: Any = None, beta: Any = None, *, normalized_rank: int = 1, epsilon: float = 1e-5
) -> TensorVariable:
    """(x - mean) / sqrt(variance + epsilon) * gamma + beta, over the last `normalized_rank` axes together.

    Args:
      x: rank `normalized_rank` or more.
      gamma, beta: of the shape of those axes.

    Raises:
      UserError: wrong ranks, dtypes or static shapes, naming the argument.
    """
    (x, gamma, beta), epsilon = float_tensors(x=x, gamma=gamma, beta=beta), check_epsilon(epsilon)
    axes = _last_axes(x, normalized_rank)
    return _affine(x, _standardize(_wide(x, gamma, beta), axes, epsilon), gamma, beta, axes)


def rms_normalization(x: Any, gamma: Any = None, *, normalized_rank: int = 1, epsilon: float = 1e-6) -> TensorVariable:
    """x / sqrt(mean(x²) + epsilon) * gamma, over the last `normalized_rank` axes together; arguments as above."""
    (x, gamma), epsilon = float_tensors(x=x, gamma=gamma), check_epsilon(epsilon)
    axes = _last_axes(x, normalized_rank)
    wide = _wide(x, gamma)
    scaled = wide / pt.sqrt(mean_over(wide * wide, axes) + number(epsilon, wide.type.dtype))
    return _affine(x, scaled, gamma, None, axes)


def group_normalization(
    x: Any, groups: int, gamma: Any = None, beta: Any = None, *, epsilon: float = 1e-5
) -> TensorVariable:
    """(x - mean) / sqrt(variance + epsilon) * gamma + beta, with the moments of each sample's groups of channels.

    Args:
      x: (N, C, ...), with C a multiple of `groups`.
      gamma, beta: vectors of length C.

    Raises:
      UserError: as `layer_normalization`, and groups that do not divide C, when the function runs where C is not
        static.
    """
    (x, gamma, beta), epsilon = _channels_first(2, x, gamma, beta), check_epsilon(epsilon)
    wide = _wide(x, gamma, beta)
    normalized = ReshapeLike()(_standardize(SplitGroups(groups)(wide), (2,), epsilon), wide)
    return _affine(x, normalized, gamma, beta, (1,))


def instance_normalization(x: Any, gamma: Any = None, beta: Any = None, *, epsilon: float = 1e-5) -> TensorVariable:
    """(x - mean) / sqrt(variance + epsilon) * gamma + beta, with the moments of each sample's channels.

    Args:
      x: (N, C, L, ...), rank 3 or more.
      gamma, beta: vectors of length C.

    Raises:
      UserError: as `layer_normalization`.
    """
    (x, gamma, beta), epsilon = _channels_first(3, x, gamma, beta), check_epsilon(epsilon)
    axes = tuple(range(2, x.type.ndim))
    return _affine(x, _standardize(_wide(x, gamma, beta), axes, epsilon), gamma, beta, (1,))


def _standardize(x: TensorVariable, axes: Sequence[int], epsilon: float) -> TensorVariable:
    centred = x - mean_over(x, axes)
    return centred / pt.sqrt(mean_over(centred * centred, axes) + number(epsilon, x.type.dtype))


def _affine(x: TensorVariable, y: TensorVariable, gamma: Any, beta: Any, axes: Sequence[int]) -> TensorVariable:
    """y * gamma + beta in x's dtype, with the parameters laid along `axes` of x."""
    for name, parameter in (("gamma", gamma), ("beta", beta)):
        if parameter is None:
            continue
        if parameter.type.ndim != len(axes):
            raise UserError(f"{name} has rank {parameter.type.ndim}; allowed: {len(axes)}")
        for axis, size in zip(axes, parameter.type.shape, strict=True):
            check_lengths({f"x (axis {axis})": x.type.shape[axis], name: size})
        laid = lay(parameter.astype(y.type.dtype), y, axes)
        y = y * laid if name == "gamma" else y + laid
    return y.astype(x.type.dtype)


def _wide(x: TensorVariable, *parameters: Any) -> TensorVariable:
    """x in the dtype to compute in."""
    given = [parameter.type.dtype for parameter in parameters if parameter is not None]
    return x.astype(compute_dtype(x.type.dtype, *given))


def _last_axes(x: TensorVariable, count: int) -> tuple[int, ...]:
    rank = x.type.ndim
    if not is_whole(count, 1) or count > rank:
        raise UserError(f"normalized_rank {count!r} for x of rank {rank}; allowed: 1 to {rank}")
    return tuple(range(rank - count, rank))


def _channels_first(least: int, x: Any, gamma: Any, beta: Any) -> list[Any]:
    x, gamma, beta = float_tensors(x=x, gamma=gamma, beta=beta)
    if x.type.ndim < least:
        raise UserError(f"x has rank {x.type.ndim}; allowed: {least} or more")
    return [x, gamma, beta]
