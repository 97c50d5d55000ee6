"""Random, non-trivial values for an operator's arguments, on which every step that is left out shows.

Ones and zeros, or values known to the compiler, let it simplify the kernel away; data of mean 0 and deviation 1 hide
a mean that was not subtracted, and a variance that was not divided by. So no value is the identity of its operation,
and no slice of x is like another.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import ml_dtypes  # registers bfloat16 with NumPy
import numpy as np

from normbench.errors import unknown
from normbench.kernels.registry import Argument

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
UNITS_OF_FLOAT16 = (2**-7, 2**4)
"""Outside of these the squares of x, or the variances, would leave the numbers that float16 holds to full precision."""
SPREAD = 2.0
"""By how much at most the slices along one axis are wider, or narrower, than the unit."""
OFFSET, OFFSETS = 1.5, 0.75
"""The mean of x in its deviations, and by how much at most one axis moves it."""


def draw(arguments: tuple[Argument, ...], seed: int, unit: float = 1.0) -> tuple[np.ndarray, ...]:
    """Draws one array per argument, plausible for its role; equal seeds give equal arrays.

    | role        | values                                                                                       |
    |-------------|----------------------------------------------------------------------------------------------|
    | activation  | normal; deviation and mean are `unit`, times a factor of 1/2 to 2 for each index of each axis; |
    |             | where x has the channels of an argument "mean", near that mean and of 1.3 to 2 times the     |
    |             | deviation given: the statistics among the arguments are not those of x                       |
    | residual    | normal, mean -0.7, in units                                                                  |
    | cotangent   | normal, mean 0.5; of order one, whatever the unit                                            |
    | weight      | normal, scaled so that the sum for one output feature has the variance of x                  |
    | bias        | 0.3 to 1.2 units, of either sign                                                             |
    | shift       | 0.3 to 1.2, of either sign                                                                   |
    | scale       | 0.25 to 0.75 or 1.5 to 2.5, about a quarter of them negative, one at least where there are two |
    | mean        | 1 to 2 units, of either sign                                                                 |
    | variance    | 0.5 to 2 units squared                                                                       |

    Args:
      unit: the size of x at which no term of the operator's equation is lost beside another.

    Raises:
      UserError: for an unknown role.
    """
    if "float16" in {argument.dtype for argument in arguments}:
        unit = min(max(unit, UNITS_OF_FLOAT16[0]), UNITS_OF_FLOAT16[1])
    statistics = _Statistics.of(arguments, seed, unit)
    arrays = []
    for index, argument in enumerate(arguments):
        if argument.role not in _DRAW:
            raise unknown(f"role of argument {argument.name}", argument.role, _DRAW)
        values = _DRAW[argument.role](np.random.default_rng([seed, index]), argument, statistics)
        arrays.append(np.asarray(values).astype(np.dtype(argument.dtype)))
    return tuple(arrays)


HARD_MEAN = 1e3
HARD_DEVIATION = 0.1


def draw_hard(arguments: tuple[Argument, ...], seed: int) -> tuple[np.ndarray, ...]:
    """As `draw`, with a mean of 1e3 and a unit of 0.1, or of two spacings of x's dtype there: 16 in bfloat16.

    Statistics among the arguments follow x, so that a running mean is near its mean.
    """
    deviation = max(HARD_DEVIATION, 2 * HARD_MEAN * float(ml_dtypes.finfo(np.dtype(arguments[0].dtype)).eps))
    wide = tuple(Argument(one.name, one.shape, "float64", one.role) for one in arguments)
    return tuple(
        _HARDEN.get(argument.role, lambda values, _: values)(array, deviation).astype(np.dtype(argument.dtype))
        for argument, array in zip(arguments, draw(wide, seed), strict=True)
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
    """What the arrays share: the unit, and the mean and variance per channel, in float64, from their own stream."""

    unit: float
    channels: int
    mean: np.ndarray
    variance: np.ndarray

    @classmethod
    def of(cls, arguments: tuple[Argument, ...], seed: int, unit: float) -> "_Statistics":
        channels = next((math.prod(argument.shape) for argument in arguments if argument.role == "mean"), 0)
        rng = np.random.default_rng([seed, len(arguments)])
        mean = unit * _signed(rng, 1.0, 2.0, (channels,))
        return cls(unit, channels, mean, unit**2 * rng.uniform(0.5, 2.0, channels))


def _activation(rng: np.random.Generator, argument: Argument, statistics: _Statistics) -> np.ndarray:
    values = _normal(rng, argument)
    factors = [SPREAD ** rng.uniform(-1.0, 1.0, size) for size in argument.shape]
    offsets = [rng.uniform(-OFFSETS, OFFSETS, size) for size in argument.shape]
    given = _channel_axis(argument.shape, statistics.channels)
    base: np.ndarray | float = OFFSET
    if given is not None:
        deviation = np.sqrt(statistics.variance)
        factors[given] = deviation / statistics.unit * rng.uniform(1.3, 2.0, statistics.channels)
        base = _along(given, statistics.mean / (statistics.unit * factors[given]), values)
    values += _as(values, base)
    for axis, moved in enumerate(offsets):
        values += _along(axis, moved, values)
    for axis, factor in enumerate(factors):
        values *= _along(axis, factor, values)
    values *= values.dtype.type(statistics.unit)
    return values


def _along(axis: int, vector: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The vector lined up with one axis of the values, in their dtype."""
    return vector.reshape([-1 if index == axis else 1 for index in range(values.ndim)]).astype(values.dtype)


def _as(values: np.ndarray, other: np.ndarray | float) -> np.ndarray:
    return np.asarray(other, values.dtype)


def _residual(rng: np.random.Generator, argument: Argument, statistics: _Statistics) -> np.ndarray:
    values = _normal(rng, argument)
    values -= values.dtype.type(0.7)
    values *= values.dtype.type(statistics.unit)
    return values


def _cotangent(rng: np.random.Generator, argument: Argument, statistics: _Statistics) -> np.ndarray:
    values = _normal(rng, argument)
    values += values.dtype.type(0.5)
    return values


def _channel_axis(shape: tuple[int, ...], channels: int) -> int | None:
    axes = (1, len(shape) - 1) if len(shape) > 1 else (0,)[: len(shape)]
    return next((axis for axis in axes if shape[axis] == channels), None)


def _weight(rng: np.random.Generator, argument: Argument, statistics: _Statistics) -> np.ndarray:
    features = statistics.channels or argument.shape[0]
    terms = max(math.prod(argument.shape) // max(features, 1), 1)
    values = _normal(rng, argument)
    values *= values.dtype.type(terms**-0.5)
    return values


def _signed(rng: np.random.Generator, low: float, high: float, shape: tuple[int, ...]) -> np.ndarray:
    return np.asarray(rng.uniform(low, high, shape) * np.where(rng.random(shape) < 0.5, -1.0, 1.0))


def _bias(rng: np.random.Generator, argument: Argument, statistics: _Statistics) -> np.ndarray:
    return statistics.unit * _signed(rng, 0.3, 1.2, argument.shape)


def _shift(rng: np.random.Generator, argument: Argument, statistics: _Statistics) -> np.ndarray:
    return _signed(rng, 0.3, 1.2, argument.shape)


def _scale(rng: np.random.Generator, argument: Argument, statistics: _Statistics) -> np.ndarray:
    small, large = rng.uniform(0.25, 0.75, argument.shape), rng.uniform(1.5, 2.5, argument.shape)
    magnitude = np.where(rng.random(argument.shape) < 0.5, small, large)
    signs = np.where(rng.random(argument.shape) < 0.25, -1.0, 1.0)
    if signs.size > 1:
        signs.flat[-1] = -1.0
    return magnitude * signs


def _mean(rng: np.random.Generator, argument: Argument, statistics: _Statistics) -> np.ndarray:
    return statistics.mean.reshape(argument.shape)


def _variance(rng: np.random.Generator, argument: Argument, statistics: _Statistics) -> np.ndarray:
    if math.prod(argument.shape) != statistics.channels:
        return statistics.unit**2 * rng.uniform(0.5, 2.0, argument.shape)
    return statistics.variance.reshape(argument.shape)


def _normal(rng: np.random.Generator, argument: Argument) -> np.ndarray:
    """Drawn in float32 unless the argument is wider: large arrays take half the time and memory."""
    return np.asarray(rng.standard_normal(argument.shape, np.float64 if argument.dtype == "float64" else np.float32))


_DRAW: dict[str, Callable[[np.random.Generator, Argument, _Statistics], np.ndarray]] = {
    "activation": _activation,
    "residual": _residual,
    "cotangent": _cotangent,
    "weight": _weight,
    "bias": _bias,
    "shift": _shift,
    "scale": _scale,
    "mean": _mean,
    "variance": _variance,
}
