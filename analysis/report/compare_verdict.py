"""Is one series of samples slower than another? Only where the intervals, the ranks and the noise all say so.

The centre of a side is the median of its process medians. Process medians scatter more than the samples within a
process promise (memory layout, the scheduler), so the interval of the change rests on the scatter of process medians:
the larger of the series' own and that of its run.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import stats

from analysis.report.statistics import is_bimodal

SAME, FASTER, SLOWER, AMBIGUOUS = VERDICTS = ("SAME", "FASTER", "SLOWER", "AMBIGUOUS")
DEFAULT_THRESHOLD = 0.03
"""Smaller relative changes of a median are not called a change."""
RANK_P = 0.002
"""As asv: what the Mann-Whitney test must stay below."""
MINIMUM_SAMPLES = 6
"""With fewer on a side the test cannot reach `RANK_P`."""
CONFIDENCE = 0.999

REASONS = {
    "clear_shift": "interval, ranks and threshold agree",
    "within_threshold": "the interval lies within the threshold",
    "not_timed": "no samples on one side",
    "few_samples": f"fewer than {MINIMUM_SAMPLES} samples on one side",
    "one_process": "one process a side: how much processes differ is unknown",
    "intervals_overlap": "the interval of the change includes no change",
    "ranks_overlap": "the ranks of the samples do not tell the sides apart",
    "dispersed": "the noise is wider than the threshold",
    "bimodal": "two groups of samples that overlap with the other side",
}

Samples = Mapping[int, np.ndarray]
"""Seconds by process."""


@dataclass(frozen=True)
class Floor:
    """The noise of a run, for one clock and cache.

    Attributes:
      scatter: standard deviation of the logarithm of process medians, the upper quartile over series; NaN if unknown.
      degrees: degrees of freedom behind it.
      identical: relative difference between identical programs of the run, exceeded by a tenth of their pairs; 0 where
        there are none.
    """

    scatter: float = math.nan
    degrees: int = 0
    identical: float = 0.0


@dataclass(frozen=True)
class Verdict:
    """The outcome for one series. `change`, `low`, `high` are relative: 0.05 is 5 % slower in B."""

    verdict: str
    reason: str
    change: float = math.nan
    low: float = math.nan
    high: float = math.nan
    p_value: float = math.nan
    margin: float = math.nan


def floor_of(series: Iterable[Samples], identical: Iterable[tuple[Samples, Samples]] = ()) -> Floor:
    """The noise floor of one run, from all its series of one clock and cache and its pairs of identical programs."""
    scatters, degrees = [], 0
    for samples in series:
        if len(samples) > 1:
            scatters.append(float(np.std(_log_medians(samples), ddof=1)))
            degrees += len(samples) - 1
    pairs = [abs(math.expm1(_centre(b) - _centre(a))) for a, b in identical]
    scatter = float(np.quantile(scatters, 0.75)) if scatters else math.nan
    return Floor(scatter, degrees, float(np.quantile(pairs, 0.9)) if pairs else 0.0)


def judge(a: Samples, b: Samples, floors: tuple[Floor, Floor], threshold: float = DEFAULT_THRESHOLD) -> Verdict:
    """Compares the samples of B with those of A.

    Args:
      a, b: seconds by process.
      floors: of the two runs.
      threshold: smallest relative change that counts.
    """
    if not a or not b:
        return Verdict(AMBIGUOUS, "not_timed")
    change = _centre(b) - _centre(a)
    all_a, all_b = np.concatenate([*a.values()]), np.concatenate([*b.values()])
    if min(len(all_a), len(all_b)) < MINIMUM_SAMPLES:
        return Verdict(AMBIGUOUS, "few_samples", math.expm1(change))
    half = _half_width(a, b, floors)
    if math.isnan(half):
        return Verdict(AMBIGUOUS, "one_process", math.expm1(change))
    margin = max(threshold, *(floor.identical for floor in floors))
    p_value = float(stats.mannwhitneyu(all_a, all_b, alternative="two-sided").pvalue)
    word, reason = _decide(change, half, p_value, math.log1p(margin), _two_groups(all_a, all_b))
    low, high = math.expm1(change - half), math.expm1(change + half)
    return Verdict(word, reason, math.expm1(change), low, high, p_value, margin)


def _decide(change: float, half: float, p_value: float, margin: float, two_groups: bool) -> tuple[str, str]:
    if abs(change) + half <= margin:
        return SAME, "within_threshold"
    if abs(change) <= margin:
        return AMBIGUOUS, "dispersed"
    if abs(change) <= half:
        return AMBIGUOUS, "intervals_overlap"
    if p_value >= RANK_P:
        return AMBIGUOUS, "ranks_overlap"
    if two_groups:
        return AMBIGUOUS, "bimodal"
    return (SLOWER if change > 0 else FASTER), "clear_shift"


def _half_width(a: Samples, b: Samples, floors: tuple[Floor, Floor]) -> float:
    """Half the interval of the logarithm of the change; NaN where nothing says how much processes differ."""
    degrees = max(len(a) - 1, 0) + max(len(b) - 1, 0)
    known = [floor for floor in floors if floor.degrees]
    if not degrees and not known:
        return math.nan
    squares = sum(float(np.sum((m - m.mean()) ** 2)) for m in (_log_medians(a), _log_medians(b)))
    own = math.sqrt(squares / degrees) if degrees else 0.0
    run = max((floor.scatter for floor in known), default=0.0)
    sampling = max(_sampling_error(a), _sampling_error(b))
    scatter = max(own, run, sampling)
    variance = scatter**2 * (_median_variance(len(a)) + _median_variance(len(b)))
    freedom = max(degrees, *(floor.degrees for floor in floors))
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * math.sqrt(variance)


def _sampling_error(samples: Samples) -> float:
    """Standard error of a process median that the samples within the process promise, typical of the processes."""
    errors = []
    for seconds in samples.values():
        logs = np.log(seconds)
        deviation = 1.4826 * float(np.median(np.abs(logs - np.median(logs))))
        errors.append(1.2533 * deviation / math.sqrt(len(logs)))
    return float(np.median(errors))


def _median_variance(count: int) -> float:
    """Variance of the median of `count` normal values, in units of theirs: exact for 1 and 2, π/2n for many."""
    return 1 / count if count < 3 else math.pi / 2 / (count + 0.5)


def _two_groups(a: np.ndarray, b: np.ndarray) -> bool:
    """True where a side has two groups of samples and its quartiles overlap with the other's."""
    if not (is_bimodal(a) or is_bimodal(b)):
        return False
    (low_a, high_a), (low_b, high_b) = (np.quantile(side, (0.25, 0.75)) for side in (a, b))
    return bool(low_a <= high_b and low_b <= high_a)


def _log_medians(samples: Samples) -> np.ndarray:
    return np.array([math.log(np.median(seconds)) for seconds in samples.values()])


def _centre(samples: Samples) -> float:
    return float(np.median(_log_medians(samples)))
