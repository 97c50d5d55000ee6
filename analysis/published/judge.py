"""Predicted times of the published rows beside the published ones, and how far they are apart.

What is compared is the time of the device: the published time without what the host takes (`Published.device_s`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from analysis.published.programs import compiled, device_facts, form_of, program
from analysis.published.rows import Published, kept_apart
from normbench.fusion.compilation import Compilation
from normbench.fusion.targets import Target
from normbench.predict import program as program_time

TOLD_APART = 1.10
"""Two variants whose published times differ by more than this factor are to be told apart."""


@dataclass(frozen=True)
class Prediction:
    """What the model says of a compiled program: seconds, their range, and of its longest launch what bounds it, in
    words, and its kind.
    """

    seconds: float
    low_s: float
    high_s: float
    bound: str
    kind: str


@dataclass(frozen=True)
class Judged:
    """A published row and what is predicted for its program.

    Attributes:
      row: as published.
      likeness: how near the program is to what was measured.
      launches: of the compiled program.
      minimum_bytes: each input read once and each output written once.
      beyond_l2: whether they exceed the device's L2 cache.
      predicted: by the model.
      bytes_s: by bytes over the data sheet's bandwidth and a cost per launch.
      kept_apart: whether the row was kept apart while the model was shaped.
    """

    row: Published
    likeness: str
    launches: int
    minimum_bytes: int
    beyond_l2: bool
    predicted: Prediction
    bytes_s: float
    kept_apart: bool

    @property
    def single(self) -> bool:
        """Whether one launch was measured and one is predicted."""
        return self.launches == 1 and self.row.launches in (None, 1)

    @property
    def error(self) -> float:
        """Predicted over published, less one."""
        return self.predicted.seconds / self.row.device_s - 1

    @property
    def bytes_error(self) -> float:
        return self.bytes_s / self.row.device_s - 1

    @property
    def within(self) -> bool:
        """Whether the published time lies in the predicted range."""
        return self.predicted.low_s <= self.row.device_s <= self.predicted.high_s

    @property
    def use(self) -> str:
        """What the row was used for, in words."""
        if self.kept_apart:
            return "kept apart"
        return "shaped the first version" if self.row.shaped_before else "open to shaping"


def judge(row: Published) -> Judged:
    """Compiles the program of a row for its device, which need not be there, and predicts its time."""
    compilation, target = compiled(form_of(row)), device_facts(row.device)
    minimum_bytes = compilation.reading.minimum_bytes
    bytes_s = compilation.reading.bytes_s
    assert bytes_s is not None, f"the bandwidth of {row.device} is known"
    return Judged(
        row=row,
        likeness=program(row).likeness,
        launches=len(compilation.reading.launches),
        minimum_bytes=minimum_bytes,
        beyond_l2=minimum_bytes > target.l2_bytes,
        predicted=predict(compilation, target),
        bytes_s=bytes_s,
        kept_apart=row.id in kept_apart(),
    )


def predict(compilation: Compilation, target: Target) -> Prediction:
    """The model's prediction for a compiled program: the sum of its launches, and what bounds the longest of them."""
    found = program_time.predict(compilation.reading, target)
    assert found.launches, f"the model knows {target.name}"
    seconds, low_s, high_s = (
        sum(getattr(one, name) for one in found.launches) for name in ("seconds", "low_s", "high_s")
    )
    longest = max(found.launches, key=lambda launch: launch.seconds)
    return Prediction(seconds, low_s, high_s, longest.bound, longest.kind)


@dataclass(frozen=True)
class Error:
    """How far predictions are from what was published, over some rows.

    Attributes:
      rows: how many.
      median, high: the median and the 90th percentile of |predicted / published - 1|.
      bytes_median, bytes_high: the same by bytes alone.
      within: the share of rows whose published time lies in the predicted range.
    """

    rows: int
    median: float
    high: float
    bytes_median: float
    bytes_high: float
    within: float


def error_of(judged: Sequence[Judged]) -> Error | None:
    """The error over some rows; None where there are none."""
    if not judged:
        return None
    errors = np.abs([one.error for one in judged])
    by_bytes = np.abs([one.bytes_error for one in judged])
    return Error(len(judged), float(np.median(errors)), float(np.percentile(errors, 90)), float(np.median(by_bytes)),
                 float(np.percentile(by_bytes, 90)), sum(one.within for one in judged) / len(judged))  # fmt: skip


@dataclass(frozen=True)
class Order:
    """Pairs of variants of one problem whose published times differ by more than TOLD_APART, and how many are right.

    `by_bytes` of them are right by bytes alone; two equal predictions are not.
    """

    pairs: int
    right: int
    by_bytes: int


def order_of(judged: Iterable[Judged], of: str = "both") -> Order:
    """The order of pairs of which `of` ("both" or "one") was kept apart, or ("any") of all pairs."""
    least = {"both": 2, "one": 1, "any": 0}[of]
    return order_of_pairs([(a, b) for a, b in pairs_of(judged) if a.kept_apart + b.kept_apart >= least])


def order_of_pairs(pairs: Sequence[tuple[Judged, Judged]]) -> Order:
    """How many of some pairs are in the right order."""
    right = sum(in_order(a, b) for a, b in pairs)
    return Order(len(pairs), right, sum(_same_order(a.bytes_s, b.bytes_s, a, b) for a, b in pairs))


def distance_of(a: Judged, b: Judged) -> float:
    """The slower over the faster published time of a pair."""
    fast, slow = sorted((a.row.device_s, b.row.device_s))
    return slow / fast


def pairs_of(judged: Iterable[Judged]) -> list[tuple[Judged, Judged]]:
    """The pairs of variants of one problem that are to be told apart."""
    by_problem: dict[tuple, list[Judged]] = {}
    for one in judged:
        by_problem.setdefault(one.row.problem, []).append(one)
    return [pair for group in by_problem.values() for pair in combinations(group, 2) if _told_apart(*pair)]


def in_order(a: Judged, b: Judged) -> bool:
    """Whether the model puts two variants in their published order."""
    return _same_order(a.predicted.seconds, b.predicted.seconds, a, b)


def _told_apart(a: Judged, b: Judged) -> bool:
    return distance_of(a, b) > TOLD_APART


def _same_order(first_s: float, second_s: float, a: Judged, b: Judged) -> bool:
    return (first_s - second_s) * (a.row.device_s - b.row.device_s) > 0
