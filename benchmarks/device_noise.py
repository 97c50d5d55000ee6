"""How far apart are two measurements of the same program? The A/A test: one executable under two names.

Its difference is the run's own noise floor: a smaller difference between two variants means nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Floor:
    """The noise floor of a run.

    Attributes:
      ratio: by how much the medians of A and A differ, as a share of the smaller; the largest of `pairs`.
      pairs: how many pairs of series it is drawn from.
    """

    ratio: float
    pairs: int

    def to_json(self) -> dict[str, Any]:
        return {"ratio": self.ratio, "pairs": self.pairs}

    def exceeded_by(self, one_s: float, other_s: float) -> bool:
        """Whether two times differ by more than the run differs from itself."""
        return difference(one_s, other_s) > self.ratio


def difference(one_s: float, other_s: float) -> float:
    """The difference of two times as a share of the smaller."""
    return abs(one_s - other_s) / min(one_s, other_s)


def floor(pairs: Sequence[tuple[Sequence[float], Sequence[float]]]) -> Floor | None:
    """The noise floor from the seconds of the same program under two names; None without a pair."""
    ratios = [difference(float(np.median(a)), float(np.median(b))) for a, b in pairs if len(a) and len(b)]
    return Floor(max(ratios), len(ratios)) if ratios else None


def suspicious(a: Sequence[float], b: Sequence[float], accepted: float, seed: int = 0) -> str | None:
    """Why A and A differ by more than `accepted` and more than their samples scatter; None where they do not."""
    found = difference(float(np.median(a)), float(np.median(b)))
    if found <= accepted:
        return None
    low, high = _interval(np.asarray(a), np.asarray(b), np.random.default_rng(seed))
    if low <= 1 <= high:
        return None
    return f"the same program under two names differs by {100 * found:.1f} %; {100 * accepted:.1f} % is accepted"


def _interval(a: np.ndarray, b: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """The bootstrap interval of the ratio of the medians."""
    drawn = [np.median(rng.choice(one, (RESAMPLES, len(one))), axis=1) for one in (a, b)]
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(drawn[0] / drawn[1], (tail, 100 - tail))
    return float(low), float(high)
