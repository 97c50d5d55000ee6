"""How far is a result from the exact one, and how far may it be?"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from normbench.study.check.rounding import roundoff

ROUNDINGS = 4
"""To the dtype of the result that may lie one behind the other: of what is activated, of the result, and those of the
libraries that compute in it."""
NOISE, SHARED_NOISE = 16, 4
"""So many times the noise of the exact program may a variant err that sums in another order, or by another formula: at
one element (a pivot four deviations from the mean costs 16), and in what all elements share."""
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


@dataclasses.dataclass(frozen=True, slots=True)
class Allowance:
    """What one output may differ by.

    Attributes:
      rounding: the roundoff of the dtype that it is stored in.
      draws: by draw, what noise in the arithmetic changes.
      common: a relative error that all elements may share; infinite where that is not judged.
      factor: how many times as far the arithmetic may move it as a variant declares; infinite where it holds nothing.
    """

    rounding: float
    draws: Sequence[np.ndarray]
    common: float
    factor: float = 1.0

    def of_elements(self, scale: np.ndarray) -> np.ndarray:
        """What |y - ref| may be, by element, where s is `scale`."""
        if math.isinf(self.factor):
            return np.full(scale.shape, math.inf)
        noise = np.sqrt(sum(np.square(draw) for draw in self.draws) / len(self.draws))
        typical = math.sqrt(np.square(noise).mean())
        return ROUNDINGS * self.rounding * scale + self.factor * NOISE * np.maximum(noise, typical)

    def of_the_whole(self, reference: np.ndarray, scale: np.ndarray) -> float:
        """What `share` may be: roundings are as often up as down, so that of many elements little is left."""
        if math.isinf(self.factor):
            return math.inf
        squares = np.square(reference / scale)
        noise = math.sqrt(sum(share(draw, reference, scale) ** 2 for draw in self.draws) / len(self.draws))
        independent = math.sqrt(float(np.square(squares).sum()) * _repeats(reference)) / float(squares.sum())
        independent *= TYPICAL * self.rounding
        return self.factor * (DRIFT * (independent + self.common) + SHARED_NOISE * noise)


def _repeats(values: np.ndarray) -> float:
    """How often a value comes again, on average over the elements: the same value is rounded the same way.

    So it is with bfloat16 x and given statistics: a channel has no more values than x has there.
    """
    counts = np.unique(values.reshape(-1)[:COUNTED], return_counts=True)[1].astype(np.float64)
    return float(np.square(counts).sum() / counts.sum()) * max(values.size / COUNTED, 1.0)


def share(difference: np.ndarray, reference: np.ndarray, scale: np.ndarray) -> float:
    """How much of the reference there is in y - ref, all elements together: 0.01 where y is 1 % too large."""
    reference = reference / scale
    return float((difference / scale * reference).sum() / np.square(reference).sum())


def compare(result: Any, reference: Any) -> Error:
    """The distance of pytrees of arrays, leaf by leaf; allowed are `ROUNDINGS` of the result's own dtype."""
    leaves, references = jax.tree.leaves(result), jax.tree.leaves(reference)
    allowances = [Allowance(roundoff(leaf.dtype), (np.zeros(np.shape(leaf)),), 1.0) for leaf in leaves]
    return judge(leaves, references, allowances)


def judge(leaves: Sequence[Any], references: Sequence[Any], allowances: Sequence[Allowance]) -> Error:
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


def _judge(result: Any, reference: Any, allowance: Allowance) -> Error:
    dtype = str(result.dtype)
    exact = np.asarray(reference, np.float64)
    if np.shape(result) != exact.shape:
        return refused(f"an output has the shape {np.shape(result)}; the operator's is {exact.shape}", dtype)
    if not exact.size:
        return Error(0.0, 0.0, 0.0, dtype, 0.0, 0.0)
    with np.errstate(over="ignore"):
        stored = exact.astype(np.asarray(result).dtype).astype(np.float64)
    found = np.asarray(result).astype(np.float64)
    beyond = ~np.isfinite(stored)  # more than the dtype can hold: infinite is right, and nothing else is
    if (found[beyond] != stored[beyond]).any():
        return refused("a result is finite where its dtype cannot hold the float64 reference", dtype)
    exact, found, stored = (np.where(beyond, 0.0, values) for values in (exact, found, stored))
    difference = found - exact
    if not np.isfinite(difference).all():
        return refused("a result is not finite where the float64 reference is", dtype)
    scale = np.maximum(np.abs(exact), math.sqrt(np.square(exact).mean()))
    scale = np.where(scale == 0, 1.0, scale)
    worst, tightest = _shares(difference, exact, scale, allowance, stored - exact)
    absolute = np.abs(difference)
    relative = absolute / scale
    max_rel = float(relative.max())
    # The spacing at s is eps 2^floor(log2 s); s over that power of two is twice the mantissa of frexp.
    mantissa, _ = np.frexp(scale)
    max_ulp = float((relative * mantissa).max()) / roundoff(dtype)
    return Error(float(absolute.max()), max_rel, max_ulp, dtype, max_rel / worst if worst else tightest, worst)


def _shares(
    difference: np.ndarray, exact: np.ndarray, scale: np.ndarray, allowance: Allowance, rounded: np.ndarray
) -> tuple[float, float]:
    """The largest error over what is allowed, and the smallest relative error that is.

    Args:
      rounded: what the exact result loses when it is rounded to the result's dtype, which is right whatever its sum.
    """
    allowed = allowance.of_elements(scale)
    worst = float((np.abs(difference) / allowed).max())
    if exact.any():
        whole = allowance.of_the_whole(exact, scale) + abs(share(rounded, exact, scale))
        worst = max(worst, abs(share(difference, exact, scale)) / whole)
    return worst, float((allowed / scale).min())
