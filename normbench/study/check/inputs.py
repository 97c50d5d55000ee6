"""Random, non-trivial values for an operator's arguments.

Ones and zeros, or values known to the compiler, let it simplify the kernel away; so every parameter is random,
and none is the identity of its operation.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import ml_dtypes  # registers bfloat16 with NumPy
import numpy as np

from normbench.errors import unknown
from normbench.kernels.registry import Argument

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def draw(arguments: tuple[Argument, ...], seed: int) -> tuple[np.ndarray, ...]:
    """Draws one array per argument, plausible for its role; equal seeds give equal arrays.

    | role        | values                                                                     |
    |-------------|----------------------------------------------------------------------------|
    | activation  | normal, with the mean and variance per channel that are also the arguments |
    |             | "mean" and "variance", where x has that many channels                      |
    | residual    | normal, with mean 0.3                                                      |
    | weight      | normal, scaled so that the sum for one output feature has variance 1       |
    | bias, shift | normal, standard deviation 0.5                                             |
    | scale       | 0.5 to 1.5, about a quarter of them negative, one at least where there are two |
    | mean        | normal, standard deviation 0.5, never close to 0                           |
    | variance    | 0.5 to 2                                                                   |

    Everything is of order one, far from the limits of float16 and bfloat16.

    Raises:
      UserError: for an unknown role.
    """
    statistics = _Statistics.of(arguments, seed)
    arrays = []
    for index, argument in enumerate(arguments):
        if argument.role not in _DRAW:
            raise unknown(f"role of argument {argument.name}", argument.role, _DRAW)
        values = _DRAW[argument.role](np.random.default_rng([seed, index]), argument, statistics)
        arrays.append(np.asarray(values).astype(np.dtype(argument.dtype)))
    return tuple(arrays)


HARD_MEAN = 1e3
HARD_DEVIATION = 1e-2


def draw_hard(arguments: tuple[Argument, ...], seed: int) -> tuple[np.ndarray, ...]:
    """As `draw`, with a mean of 1e3 and a deviation of 1e-2, or of four units of x's dtype: 16 in bfloat16.

    Statistics among the arguments follow x, so that a running mean is near its mean.
    """
    deviation = max(HARD_DEVIATION, 2 * HARD_MEAN * float(ml_dtypes.finfo(np.dtype(arguments[0].dtype)).eps))
    return tuple(
        _HARDEN.get(argument.role, lambda values, _: values)(array.astype(np.float64), deviation).astype(array.dtype)
        for argument, array in zip(arguments, draw(arguments, seed), strict=True)
    )


def _far(values: np.ndarray, deviation: float) -> np.ndarray:
    return HARD_MEAN + deviation * values


_HARDEN: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "activation": _far,
    "mean": _far,
    "residual": lambda values, deviation: values * deviation,
    "variance": lambda values, deviation: values * deviation**2,
}


@dataclass(frozen=True)
class _Statistics:
    """What the arrays share: mean and variance per channel, in float64, drawn from their own stream."""

    channels: int
    mean: np.ndarray
    variance: np.ndarray

    @classmethod
    def of(cls, arguments: tuple[Argument, ...], seed: int) -> "_Statistics":
        channels = next((math.prod(argument.shape) for argument in arguments if argument.role == "mean"), 0)
        rng = np.random.default_rng([seed, len(arguments)])
        mean = rng.normal(0.0, 0.5, channels)
        return cls(channels, np.where(np.abs(mean) < 0.01, 0.25, mean), rng.uniform(0.5, 2.0, channels))


def _activation(rng: np.random.Generator, argument: Argument, statistics: _Statistics) -> np.ndarray:
    values = _normal(rng, argument)
    axis = _channel_axis(argument.shape, statistics.channels)
    if axis is None:  # x has other channels than the statistics (a convolution's input)
        return values + values.dtype.type(0.3)
    broadcast = tuple(-1 if index == axis else 1 for index in range(len(argument.shape)))
    values *= np.sqrt(statistics.variance).reshape(broadcast).astype(values.dtype)
    values += statistics.mean.reshape(broadcast).astype(values.dtype)
    return values


def _residual(rng: np.random.Generator, argument: Argument, statistics: _Statistics) -> np.ndarray:
    values = _normal(rng, argument)
    values += values.dtype.type(0.3)
    return values


def _channel_axis(shape: tuple[int, ...], channels: int) -> int | None:
    axes = (1, len(shape) - 1) if len(shape) > 1 else (0,)
    return next((axis for axis in axes if shape[axis] == channels), None)


def _weight(rng: np.random.Generator, argument: Argument, statistics: _Statistics) -> np.ndarray:
    features = statistics.channels or argument.shape[0]
    terms = max(math.prod(argument.shape) // max(features, 1), 1)
    values = _normal(rng, argument)
    values *= values.dtype.type(terms**-0.5)
    return values


def _shift(rng: np.random.Generator, argument: Argument, statistics: _Statistics) -> np.ndarray:
    return rng.normal(0.0, 0.5, argument.shape)


def _scale(rng: np.random.Generator, argument: Argument, statistics: _Statistics) -> np.ndarray:
    magnitude = rng.uniform(0.5, 1.5, argument.shape)
    signs = np.where(rng.random(argument.shape) < 0.25, -1.0, 1.0)
    if signs.size > 1:
        signs.flat[-1] = -1.0
    return magnitude * signs


def _mean(rng: np.random.Generator, argument: Argument, statistics: _Statistics) -> np.ndarray:
    return statistics.mean.reshape(argument.shape)


def _variance(rng: np.random.Generator, argument: Argument, statistics: _Statistics) -> np.ndarray:
    if math.prod(argument.shape) != statistics.channels:
        return rng.uniform(0.5, 2.0, argument.shape)
    return statistics.variance.reshape(argument.shape)


def _normal(rng: np.random.Generator, argument: Argument) -> np.ndarray:
    """Drawn in float32 unless the argument is wider: large arrays take half the time and memory."""
    return rng.standard_normal(argument.shape, np.float64 if argument.dtype == "float64" else np.float32)


_DRAW: dict[str, Callable[[np.random.Generator, Argument, _Statistics], np.ndarray]] = {
    "activation": _activation,
    "residual": _residual,
    "weight": _weight,
    "bias": _shift,
    "shift": _shift,
    "scale": _scale,
    "mean": _mean,
    "variance": _variance,
}
