"""How many samples are enough, in which order are they taken, and what is to be said about them?"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from normbench.study.clocks.host import Sample


@dataclass(frozen=True, slots=True)
class StoppingRule:
    """When a series of samples ends.

    Attributes:
      minimum_samples: before the noise is looked at.
      maximum_samples: at which it ends in any case ("max_samples").
      relative_noise: below which it ends ("noise"); see `relative_noise`.
      time_limit_s: after which it ends ("time"), untimed work between the samples included; a series has at least
        two samples even so.
    """

    minimum_samples: int
    maximum_samples: int
    relative_noise: float
    time_limit_s: float

    def reason_to_stop(self, seconds: Sequence[float], spent_s: float) -> str | None:
        """Returns "max_samples", "noise", "time", or None to go on."""
        count = len(seconds)
        if count >= self.maximum_samples:
            return "max_samples"
        if count >= self.minimum_samples and relative_noise(seconds) < self.relative_noise:
            return "noise"
        if count >= 2 and spent_s >= self.time_limit_s:
            return "time"
        return None


def relative_noise(seconds: Sequence[float]) -> float:
    """Half-width of the 95 % interval of the median, over the median: 1.57 IQR / (sqrt(n) median).

    Source: McGill, Tukey and Larsen, "Variations of box plots", The American Statistician 32 (1978).
    """
    if len(seconds) < 2:
        return math.inf
    low, middle, high = np.percentile(seconds, (25, 50, 75))
    return float(1.57 * (high - low) / (math.sqrt(len(seconds)) * middle)) if middle > 0 else math.inf


def outliers(seconds: Sequence[float]) -> list[bool]:
    """Flags the samples further than 1.5 interquartile ranges outside the quartiles (Tukey's fences)."""
    low, high = np.percentile(seconds, (25, 75))
    reach = 1.5 * (high - low)
    return [bool(value < low - reach or value > high + reach) for value in seconds]


def two_modes(seconds: Sequence[float]) -> str | None:
    """Returns a sentence where the samples fall into two separate groups, else None.

    The sorted samples are split where the sum of squares within the two parts is least. They are two modes where
    each part holds at least 3 samples and a tenth of them, the centres differ by more than a tenth, and Ashman's D
    (sqrt(2) |m1 - m2| / sqrt(s1² + s2²)) is above 4.5: a uniform distribution has 3.5, a normal one 2.7.
    """
    values = np.sort(np.asarray(seconds, dtype=float))
    count = len(values)
    least = max(3, math.ceil(count / 10))
    if count < 2 * least:
        return None
    split = min(range(least, count - least + 1), key=lambda k: _within(values[:k]) + _within(values[k:]))
    low, high = values[:split], values[split:]
    distance = high.mean() - low.mean()
    spread = math.sqrt(low.var() + high.var())
    if distance <= 0.1 * low.mean() or math.sqrt(2) * distance <= 4.5 * spread:
        return None
    return (
        f"bimodal: {len(low)} of {count} samples near {np.median(low) * 1e3:.3g} ms, "
        f"{len(high)} near {np.median(high) * 1e3:.3g} ms"
    )


def _within(values: np.ndarray) -> float:
    return float(np.sum((values - values.mean()) ** 2))


@dataclass
class Series:
    """The samples of one case under one clock and cache state.

    Attributes:
      burst: takes a few samples; raises what the case raises.
      stop: the rule that ended the series; None while it runs, and where `error` ended it.
      source: of a device clock, where its records come from.
      bursts: when the burst that each sample was taken in began and ended, in seconds since 1970.
      whole: whether a sample is all that a call takes of its clock, and so can be held against a ceiling.
    """

    case: str
    stage: str
    clock: str
    cache: str
    burst: Callable[[], list[Sample]]
    samples: list[Sample] = field(default_factory=list)
    bursts: list[tuple[float, float]] = field(default_factory=list)
    spent_s: float = 0.0
    stop: str | None = None
    error: Exception | None = None
    source: str | None = None
    whole: bool = True

    @property
    def seconds(self) -> list[float]:
        return [sample.seconds for sample in self.samples]

    @property
    def running(self) -> bool:
        return self.stop is None and self.error is None


def interleave(
    series: Sequence[Series],
    rule: StoppingRule,
    rng: np.random.Generator,
    before: Callable[[Series], None] = lambda one: None,
    between: Callable[[], None] = lambda: None,
    now: Callable[[], float] = time.perf_counter,
) -> None:
    """Takes bursts in rounds, in a new random order in each round, until every series has ended.

    A series whose burst raises ends with that error, and so do the other series of its case. `before` is called
    ahead of every burst, `between` ahead of every round.
    """
    while running := [one for one in series if one.running]:
        between()
        for position in rng.permutation(len(running)):
            one = running[position]
            if not one.running:
                continue
            before(one)
            began_unix_s, start = time.time(), now()
            try:
                burst = one.burst()
            except Exception as error:
                _end_with(error, one.case, series)
                continue
            one.spent_s += now() - start
            one.samples += burst
            one.bursts += [(began_unix_s, time.time())] * len(burst)
            one.stop = rule.reason_to_stop(one.seconds, one.spent_s)


def _end_with(error: Exception, case: str, series: Sequence[Series]) -> None:
    for one in series:
        if one.case == case:
            one.error = error
