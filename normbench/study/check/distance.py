"""How far is a result from the exact one, and how far may it be?"""

import dataclasses
import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from normbench.study.check.rounding import roundoff

ROUNDINGS = 4
"""To the dtype of the result that may lie one behind the other: of what is activated, of the result, and those of the
libraries that compute in it."""
NOISE, SHARED_NOISE = 16, 4
"""So many times the noise of the exact program may a variant err that sums in another order, or by another formula: at
one element (a pivot four deviations from the mean costs 16), and in what all elements share."""
SETTLED = 0.25
"""Of the roundoff: the root mean square of what remains beside the exact result, rounded where its equation rounds. A
sound program differs where a value lies between two numbers, one in a thousand; one that rounds elsewhere, by 0.4."""
DRIFT = 4
"""Standard deviations of what independent roundings of the elements do to the whole."""
COUNTED = 2_000_000
"""Elements of which repeated values are counted; in more of them, each is taken to come again as often as there are."""
TYPICAL = 0.6
"""Standard deviation of two roundings, in the largest error of one: 1 / sqrt(3) each, for the mean of the mantissas."""


@dataclasses.dataclass(frozen=True, slots=True)
class Error:
    """Largest error over all elements of all outputs.

    Attributes:
      max_abs: |y - ref|.
      max_rel: |y - ref| / s, where s is |ref|, or the root mean square of ref where that is larger: elements that
        happen to cancel are measured against their neighbours.
      max_ulp: |y - ref| in units of the spacing of `ulp_dtype` at s, over the outputs of that dtype.
      ulp_dtype: the dtype of the first output.
      tolerance: what max_rel may be.
      worst: the largest error over what it may be, element by element and for the whole; above 1 the result is wrong;
        infinite where it is not finite, or of another shape or dtype.
      trouble: what is wrong where it is not the distance.
    """

    max_abs: float
    max_rel: float
    max_ulp: float
    ulp_dtype: str
    tolerance: float
    worst: float
    trouble: str = ""

    @property
    def ok(self) -> bool:
        return self.worst <= 1

    @property
    def reason(self) -> str:
        if self.trouble:
            return self.trouble
        return f"relative error {self.max_rel:.3g} against the float64 reference; tolerance {self.tolerance:.3g}"


def refused(trouble: str, ulp_dtype: str = "") -> Error:
    """The error of a result that has no distance from the reference."""
    return Error(math.nan, math.nan, math.nan, ulp_dtype, math.nan, math.inf, trouble)


class Exact:
    """One output of the exact program and its noise; what follows from them is found once, for all variants.

    Args:
      values: in float64.
      draws: by draw, what noise in the arithmetic changes; none where nothing but the result's rounding is allowed.
    """

    def __init__(self, values: Any, draws: Sequence[np.ndarray] = ()):
        self.values = np.asarray(values, np.float64)
        self._draws = draws
        self._stored: dict[Any, np.ndarray] = {}

    def stored(self, dtype: Any) -> np.ndarray:
        """The values rounded to `dtype`; infinite beyond what it can hold."""
        if dtype not in self._stored:
            with np.errstate(over="ignore"):
                self._stored[dtype] = self.values.astype(dtype).astype(np.float64)
        return self._stored[dtype]

    def without(self, elements: np.ndarray) -> "Exact":
        return Exact(np.where(elements, 0.0, self.values), self._draws)

    @cached_property
    def scale(self) -> np.ndarray:
        """By element |ref|, or the root mean square of ref where that is larger."""
        scale = np.maximum(np.abs(self.values), math.sqrt(np.square(self.values).mean()))
        return np.where(scale == 0, 1.0, scale)

    @cached_property
    def binade(self) -> np.ndarray:
        """By element the power of two at or below the scale: the spacing of a dtype there is eps times this."""
        return np.exp2(np.frexp(self.scale)[1] - 1.0)

    @cached_property
    def noise(self) -> np.ndarray:
        """By element the noise, or its root mean square over the elements where that is larger."""
        if not self._draws:
            return np.zeros(self.values.shape)
        squares = sum(np.square(draw) for draw in self._draws) / len(self._draws)
        return np.sqrt(np.maximum(squares, np.mean(squares)))

    def share(self, difference: np.ndarray) -> float:
        """How much of the reference there is in y - ref, all elements together: 0.01 where y is 1 % too large."""
        return float(np.vdot(difference, self._weights))

    @cached_property
    def _relative(self) -> np.ndarray:
        return self.values / self.scale

    @cached_property
    def _weights(self) -> np.ndarray:
        return self._relative / self.scale / np.square(self._relative).sum()

    @cached_property
    def shared_noise(self) -> float:
        """The root mean square of `share` over the draws."""
        return math.sqrt(sum(self.share(draw) ** 2 for draw in self._draws) / max(len(self._draws), 1))

    @cached_property
    def independent(self) -> float:
        """`share` of roundings that are as often up as down, in roundoffs: of many elements little is left."""
        squares = np.square(self._relative)
        return TYPICAL * math.sqrt(float(np.square(squares).sum()) * _repeats(self.values)) / float(squares.sum())


@dataclasses.dataclass(frozen=True, slots=True)
class Allowance:
    """What one output may differ by.

    Attributes:
      rounding: the roundoff of the dtype that it is stored in.
      common: a relative error that all elements may share; infinite where that is not judged.
      factor: how many times as far the arithmetic may move it as a variant declares; infinite where it holds nothing.
      settled: whether the equation says where to round, so that the result is that of the exact one, rounded there.
    """

    rounding: float
    common: float
    factor: float = 1.0
    settled: bool = False

    def of_elements(self, exact: Exact) -> np.ndarray:
        """What |y - ref| may be, by element."""
        if math.isinf(self.factor):
            return np.full(exact.values.shape, math.inf)
        return ROUNDINGS * self.rounding * exact.scale + self.factor * NOISE * exact.noise

    def of_the_rounded(self, exact: Exact) -> float:
        """What the root mean square of the difference from the exact result, rounded, may be, in its scale."""
        if not self.settled:
            return math.inf
        return SETTLED * self.rounding * max(self.factor, 1.0)

    def of_the_whole(self, exact: Exact) -> float:
        """What `Exact.share` of the difference may be."""
        if math.isinf(self.factor):
            return math.inf
        drift = DRIFT * (self.rounding * exact.independent + self.common)
        return self.factor * (drift + SHARED_NOISE * exact.shared_noise)


def _repeats(values: np.ndarray) -> float:
    """How often a value comes again, on average over the elements: the same value is rounded the same way.

    So it is with bfloat16 x and given statistics: a channel has no more values than x has there.
    """
    ordered = np.sort(values.reshape(-1)[:COUNTED])
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
    counts = np.diff(ends, prepend=-1).astype(np.float64)
    return float(np.square(counts).sum() / counts.sum()) * max(values.size / COUNTED, 1.0)


def compare(result: Any, reference: Any) -> Error:
    """The distance of pytrees of arrays, leaf by leaf; allowed are `ROUNDINGS` of the result's own dtype."""
    leaves, references = jax.tree.leaves(result), jax.tree.leaves(reference)
    allowances = [Allowance(roundoff(leaf.dtype), 1.0) for leaf in leaves]
    return judge(leaves, [Exact(one) for one in references], allowances)


def judge(leaves: Sequence[Any], references: Sequence[Exact], allowances: Sequence[Allowance]) -> Error:
    """The distance of arrays from their references, each held against what it may be."""
    if len(leaves) != len(references):
        return refused(f"{len(leaves)} outputs; the operator has {len(references)}")
    if not leaves:
        return Error(0.0, 0.0, 0.0, "", 0.0, 0.0)
    errors = [_judge(*one) for one in zip(leaves, references, allowances, strict=True)]
    worst = max(errors, key=lambda error: error.worst)
    if worst.trouble:
        return worst
    first = errors[0].ulp_dtype
    return dataclasses.replace(
        worst,
        max_ulp=max(error.max_ulp for error in errors if error.ulp_dtype == first),
        ulp_dtype=first,
    )


def _judge(result: Any, exact: Exact, allowance: Allowance) -> Error:
    dtype = str(result.dtype)
    if np.shape(result) != exact.values.shape:
        return refused(f"an output has the shape {np.shape(result)}; the operator's is {exact.values.shape}", dtype)
    if not exact.values.size:
        return Error(0.0, 0.0, 0.0, dtype, 0.0, 0.0)
    found = np.asarray(result)
    stored, found = exact.stored(found.dtype), found.astype(np.float64)
    beyond, edge = ~np.isfinite(stored), _at_the_edge(exact, allowance, np.asarray(result).dtype)
    if beyond.any() or edge.any():
        infinite = np.isinf(found) & (np.sign(found) == np.sign(exact.values)) & (beyond | edge)  # and right there
        if (beyond & ~edge & ~infinite).any():
            return refused("a result is finite where its dtype cannot hold the float64 reference", dtype)
        exact, found = exact.without(infinite), np.where(infinite, 0.0, found)
        stored = np.where(infinite, 0.0, np.where(beyond, exact.values, stored))
    difference = found - exact.values
    if not np.isfinite(difference).all():
        return refused("a result is not finite where the float64 reference is", dtype)
    worst, tightest = _shares(difference, exact, allowance, stored)
    absolute = np.abs(difference)
    max_rel = float((absolute / exact.scale).max())
    max_ulp = float((absolute / exact.binade).max()) / (2 * roundoff(dtype))
    return Error(float(absolute.max()), max_rel, max_ulp, dtype, max_rel / worst if worst else tightest, worst)


def _at_the_edge(exact: Exact, allowance: Allowance, dtype: Any) -> np.ndarray:
    """By element, whether the largest number of a dtype is within what the result may differ by: above it or below, the
    result may be infinite or finite."""
    largest = float(jnp.finfo(dtype).max)
    near = (np.abs(exact.values) >= largest / 2) & (np.abs(exact.values) <= 2 * largest)
    if not near.any():
        return near
    return near & (np.abs(np.abs(exact.values) - largest) <= allowance.of_elements(exact.without(~near)))


def _shares(difference: np.ndarray, exact: Exact, allowance: Allowance, stored: np.ndarray) -> tuple[float, float]:
    """The largest error over what is allowed, and the smallest relative error that is.

    Args:
      stored: the exact result rounded to the result's dtype, which is right whatever its roundings add up to.
    """
    allowed = allowance.of_elements(exact)
    worst = float((np.abs(difference) / allowed).max())
    if exact.values.any():
        whole = allowance.of_the_whole(exact) + abs(exact.share(stored - exact.values))
        worst = max(worst, abs(exact.share(difference)) / whole)
    unsettled = math.sqrt(np.square((difference + exact.values - stored) / exact.scale).mean())
    worst = max(worst, unsettled / allowance.of_the_rounded(exact))
    return worst, float((allowed / exact.scale).min())
