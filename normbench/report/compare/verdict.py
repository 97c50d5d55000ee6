"""Is one series of samples slower than another? Only where the intervals, the ranks and the noise all say so.

The centre of a side is the median of its process medians. Process medians scatter more than the samples within a
process promise (memory layout, the scheduler), so the interval of the change rests on the scatter of process medians:
the series' own, which few processes know badly, moderated by what is typical of all series. Two runs also differ by
what the machine did meanwhile, and no repetition within a run shows it. What shows it is what did not change: programs
that are the same in both, and the streaming programs that measure the ceiling. They are called twins; a change is
believed only beyond what twins do.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special, stats

from normbench.report.data.statistics import is_bimodal

SAME, FASTER, SLOWER, AMBIGUOUS = VERDICTS = ("SAME", "FASTER", "SLOWER", "AMBIGUOUS")
DEFAULT_THRESHOLD = 0.03
"""Smaller relative changes of a median are not called a change."""
RANK_P = 0.002
"""As asv: what the Mann-Whitney test must stay below."""
MINIMUM_SAMPLES = 6
"""With fewer on a side the test cannot reach `RANK_P`."""
MINIMUM_TWINS = 4
"""With fewer, their scatter says nothing: Student's factor for three is above 30."""
CONFIDENCE = 0.999
MINIMUM_SERIES = 5
"""With fewer, they do not say what is typical of them."""
MOST_DEGREES = 200.0
_SMALLEST_VARIANCE = 1e-10

REASONS = {
    "clear_shift": "interval, ranks and threshold agree",
    "within_threshold": "the interval lies within the threshold",
    "not_timed": "no samples on one side",
    "few_samples": f"fewer than {MINIMUM_SAMPLES} samples on one side",
    "one_process": "one process a side tells nothing of how much processes differ: measure both with --processes 5",
    "drift_unknown": f"fewer than {MINIMUM_TWINS} programs are the same on both sides: what the machine did is unknown",
    "noise_floor": "the same program under two names differs as much within a run",
    "drift": "programs that are the same on both sides differ as much",
    "same_program": "the same program in the same environment: the machine differs, not the code",
    "intervals_overlap": "the interval of the change includes no change",
    "ranks_overlap": "the ranks of the samples do not tell the sides apart",
    "dispersed": "the noise is wider than the threshold",
    "bimodal": "two groups of samples that overlap with the other side",
}

Samples = Mapping[int, np.ndarray]
"""Seconds by process."""
Sides = tuple[Samples, Samples]


@dataclass(frozen=True)
class Noise:
    """What is known of the noise of a comparison, for one clock and cache.

    Attributes:
      scatter: standard deviation of the logarithm of process medians that is typical of the series; of the ratios
        within a process where the sides were measured in the same processes.
      degrees: how many degrees of freedom it is worth: few where series differ in how much they scatter.
      drift: change of the twins, the median of the logarithms.
      drift_scatter: their standard deviation.
      twins: how many.
      floor: by how much one program under two names differs within a run, relative; 0 where no run has tried.
    """

    scatter: float = 0.0
    degrees: float = 0.0
    drift: float = 0.0
    drift_scatter: float = 0.0
    twins: int = 0
    floor: float = 0.0

    @property
    def drift_half(self) -> float:
        """Half the interval in which the change of one more twin is expected."""
        if self.twins < MINIMUM_TWINS:
            return 0.0
        return _student(self.twins - 1) * self.drift_scatter * math.sqrt(1 + 1 / self.twins)


@dataclass(frozen=True)
class Verdict:
    """The outcome for one series. `change`, `low`, `high` are relative: 0.05 is 5 % slower in B."""

    verdict: str
    reason: str
    change: float = math.nan
    low: float = math.nan
    high: float = math.nan
    p_value: float = math.nan


@dataclass(frozen=True)
class _Change:
    """The logarithm of the change of one series; sum of squares and degrees of freedom of what it rests on, the
    variance of its centre in units of that scatter, and the standard error that the samples alone promise."""

    centre: float
    squares: float
    degrees: int
    factor: float
    sampling: float


def noise_of(pairs: Iterable[Sides], twins: Iterable[Sides], paired: bool = False) -> Noise:
    """The noise of a comparison, from all the series of one clock and cache that both sides have, and its twins.

    Args:
      paired: whether the sides of each pair were measured in the same processes.
    """
    found = [_change(a, b, paired) for a, b in pairs if _comparable(a, b, paired)]
    changes = [_change(a, b, paired).centre for a, b in twins if _comparable(a, b, paired)]
    drift = float(np.median(changes)) if changes else 0.0
    drift_scatter = float(np.std(changes, ddof=1)) if len(changes) > 1 else 0.0
    return Noise(*_typical([one for one in found if one.degrees]), drift, drift_scatter, len(changes))


def _typical(found: list[_Change]) -> tuple[float, float]:
    """The scatter that is typical of series, and the degrees of freedom it is worth for one more of them.

    The variances of the series are taken as drawn from a scaled inverse chi-squared distribution, whose scale and
    degrees are fitted by the moments of their logarithms: Smyth, "Linear models and empirical Bayes methods",
    Statistical Applications in Genetics and Molecular Biology 3 (2004), section 6.2.
    """
    if len(found) < MINIMUM_SERIES:
        return 0.0, 0.0
    halves = np.array([one.degrees for one in found]) / 2
    variances = np.array([max(one.squares / one.degrees, _SMALLEST_VARIANCE) for one in found])
    logs = np.log(variances) - special.digamma(halves) + np.log(halves)
    spread = float(np.var(logs, ddof=1) - np.mean(special.polygamma(1, halves)))
    if spread <= special.polygamma(1, MOST_DEGREES / 2):
        return math.exp(float(np.mean(logs)) / 2), MOST_DEGREES
    half = optimize.brentq(lambda x: special.polygamma(1, x) - spread, 1e-3, MOST_DEGREES / 2)
    return math.exp((float(np.mean(logs)) + special.digamma(half) - math.log(half)) / 2), 2 * half


def _comparable(a: Samples, b: Samples, paired: bool) -> bool:
    return bool(a and b) and not (paired and not a.keys() & b.keys())


def judge(a: Samples, b: Samples, noise: Noise, threshold: float = DEFAULT_THRESHOLD, paired: bool = False) -> Verdict:
    """Compares the samples of B with those of A.

    Args:
      a, b: seconds by process.
      threshold: smallest relative change that counts.
      paired: whether both were measured in the same processes, interleaved; nothing drifts between them then.
    """
    if not _comparable(a, b, paired):
        return Verdict(AMBIGUOUS, "not_timed")
    found = _change(a, b, paired)
    all_a, all_b = _together(a, b) if paired else (np.concatenate([*side.values()]) for side in (a, b))
    if min(len(all_a), len(all_b)) < MINIMUM_SAMPLES:
        return Verdict(AMBIGUOUS, "few_samples", math.expm1(found.centre))
    half = _half_width(found, noise)
    if math.isnan(half):
        return Verdict(AMBIGUOUS, "one_process", math.expm1(found.centre))
    p_value = float(stats.mannwhitneyu(all_a, all_b, alternative="two-sided").pvalue)
    reach = max(half, noise.drift_half)
    low = found.centre - reach - max(noise.drift, 0.0)
    high = found.centre + reach - min(noise.drift, 0.0)
    margin = math.log1p(threshold)
    word, reason = _decide(found.centre, low, high, half, margin)
    if word in (FASTER, SLOWER) and _two_groups(all_a, all_b):
        word, reason = AMBIGUOUS, "bimodal"
    elif word in (FASTER, SLOWER) and p_value >= RANK_P:
        word, reason = AMBIGUOUS, "ranks_overlap"
    elif word in (FASTER, SLOWER) and abs(found.centre) <= math.log1p(noise.floor):
        word, reason = AMBIGUOUS, "noise_floor"
    if word != AMBIGUOUS and not paired and noise.twins < MINIMUM_TWINS:
        word, reason = AMBIGUOUS, "drift_unknown"
    return Verdict(word, reason, math.expm1(found.centre), math.expm1(low), math.expm1(high), p_value)


def _decide(change: float, low: float, high: float, half: float, margin: float) -> tuple[str, str]:
    """Verdict and reason by the interval; `half` is its half-width by what is known of the series alone."""
    if -margin <= low and high <= margin:
        return SAME, "within_threshold"
    if abs(change) <= margin:
        return AMBIGUOUS, "drift" if abs(change) + half <= margin else "dispersed"
    if low <= 0 <= high:
        return AMBIGUOUS, "intervals_overlap" if abs(change) <= half else "drift"
    return (SLOWER if change > 0 else FASTER), "clear_shift"


def _half_width(found: _Change, noise: Noise) -> float:
    """Half the interval of the logarithm of the change; NaN where nothing says how much processes differ.

    The variance is the series' own, moderated by the typical one.
    """
    degrees = found.degrees + noise.degrees
    if not degrees:
        return math.nan
    variance = (found.squares + noise.degrees * noise.scatter**2) / degrees
    return _student(degrees) * math.sqrt(max(variance, found.sampling**2) * found.factor)


def _student(degrees: float) -> float:
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, degrees))


def _change(a: Samples, b: Samples, paired: bool) -> _Change:
    errors = _sampling_error(a), _sampling_error(b)
    if paired:
        ratios = _log_ratios(a, b)
        return _Change(
            float(np.median(ratios)),
            _squares(ratios),
            len(ratios) - 1,
            _median_variance(len(ratios)),
            math.hypot(*errors),
        )
    logs = _log_medians(a), _log_medians(b)
    return _Change(
        float(np.median(logs[1]) - np.median(logs[0])),
        sum(map(_squares, logs)),
        sum(map(len, logs)) - 2,
        sum(_median_variance(len(side)) for side in logs),
        max(errors),
    )


def _together(a: Samples, b: Samples) -> tuple[np.ndarray, np.ndarray]:
    """All samples of the shared processes, each over its process's level, which the ranks must not see."""
    shared = sorted(a.keys() & b.keys())
    levels = {p: math.sqrt(np.median(a[p]) * np.median(b[p])) for p in shared}
    first, second = (np.concatenate([side[p] / levels[p] for p in shared]) for side in (a, b))
    return first, second


def _squares(values: np.ndarray) -> float:
    return float(np.sum((values - values.mean()) ** 2))


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


def _log_ratios(a: Samples, b: Samples) -> np.ndarray:
    """By process, of those that timed both."""
    shared = sorted(a.keys() & b.keys())
    return np.array([math.log(np.median(b[process]) / np.median(a[process])) for process in shared])
