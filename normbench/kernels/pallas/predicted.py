"""Where a kernel is predicted to be slower than XLA's best by more than the model of time is known to err.

`predicted.csv` beside this module has, for the problems of the preset `standard` and for sizes between them, what the
model says for the H200 of each kernel and of XLA's best variant in plain JAX; `python -m analysis.pages.kernels_limits`
makes it. Of a problem that is in the table its own line decides. Of another one its neighbours do: problems of the same
operator, side of the channels and pass, near in the number of runs, in their length, alignment and width; the logarithm
of the time against XLA's, less that of the error, is their mean, weighted by the inverse of the squared distance.

The device that is present measures instead: on "gpu" nothing is refused for what is predicted.
"""

import csv
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from normbench.kernels.pallas.hardware import not_for_mosaic
from normbench.kernels.problem import Problem

TABLE = "predicted.csv"
NEIGHBOURS = 4
REACH = 8.0
"""The distance, in doublings, beyond which a problem is no neighbour."""
OTHER_ALIGNMENT, OTHER_INPUTS, OTHER_CONTEXT = 2.0, 2.0, 0.25
"""In doublings: runs of whole warpgroups, of whole 16 bytes and others take other ways; a residual is a tensor more; an
activation or a cast costs instructions."""
_WARPGROUP, _VECTOR_BYTES = 128, 16
_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4, "float64": 8}


@dataclass(frozen=True, slots=True)
class Geometry:
    """What the time of a problem hangs on: `runs` of `length` neighbours in memory, of `itemsize` bytes each.

    `kind` is "rows" where rows are normalized, else the side of the channels: "first" has a run for each of them and
    image, "last" one for each position, as long as there are channels. `images` are those that have statistics of their
    own; 1 where all have the same.
    """

    operator: str
    kind: str
    pass_: str
    context: str
    images: int
    runs: int
    length: int
    itemsize: int

    @property
    def alignment(self) -> int:
        if self.length % _WARPGROUP == 0:
            return 0
        return 1 if self.length * self.itemsize % _VECTOR_BYTES == 0 else 2

    def distance(self, other: "Geometry") -> float:
        """In doublings; infinite between problems of different programs."""
        if (self.operator, self.kind, self.pass_) != (other.operator, other.kind, other.pass_):
            return math.inf
        sizes = ("runs", "length", "itemsize", "images")
        apart = sum(abs(math.log2(getattr(self, size) / getattr(other, size))) for size in sizes)
        apart += OTHER_ALIGNMENT * abs(self.alignment - other.alignment)
        if self.context == other.context:
            return apart
        return apart + (OTHER_INPUTS if "residual" in (self.context, other.context) else OTHER_CONTEXT)


def geometry(problem: Problem) -> Geometry | None:
    """That of a problem with elements; of anything with its attributes."""
    size, ndim = math.prod(problem.shape), dict(problem.options).get("ndim", 1)
    if not size:
        return None
    if problem.operator in ("layer_norm", "rms_norm"):
        kind, length = "rows", math.prod(problem.shape[-ndim:])
    elif problem.layout in ("c", "nc") or problem.layout.endswith("c"):
        kind, length = "last", problem.shape[-1]
    else:
        kind, length = "first", math.prod(problem.shape[2:])
    images = problem.shape[0] if problem.operator in ("group_norm", "instance_norm") else 1
    what = (problem.operator, kind, problem.pass_, problem.context)
    return Geometry(*what, images, size // length, length, _BYTES[problem.dtype])


@dataclass(frozen=True, slots=True)
class Prediction:
    """One line of the table: seconds of a kernel and of XLA's best variant, by what factor the model may be wrong of
    the two together, and the variant that is predicted to be quickest of all."""

    variant: str
    problem: str
    geometry: Geometry
    kernel_s: float
    xla: str
    xla_s: float
    error: float
    instead: str

    @property
    def excess(self) -> float:
        """The logarithm of the time against XLA's, beyond the error: above 0 the kernel is told to be slower."""
        return math.log(self.kernel_s / self.xla_s / self.error)


@cache
def predictions() -> tuple[Prediction, ...]:
    """The table."""
    text = files(__package__).joinpath(TABLE).read_text(encoding="utf-8")
    return tuple(_prediction(row) for row in csv.DictReader(text.splitlines()))


def _prediction(row: dict[str, str]) -> Prediction:
    images, runs, length, itemsize = (int(row[name]) for name in ("images", "runs", "length", "itemsize"))
    where = Geometry(row["operator"], row["kind"], row["pass_"], row["context"], images, runs, length, itemsize)
    kernel_s, xla_s = (float(row[name]) * 1e-6 for name in ("kernel_us", "xla_us"))
    return Prediction(
        row["variant"], row["problem"], where, kernel_s, row["xla"], xla_s, float(row["error"]), row["instead"]
    )


def slower_than_xla(variant: str, where: Geometry, table: tuple[Prediction, ...]) -> str | None:
    """The reason to leave a problem of this geometry to XLA, or None."""
    distances = [(where.distance(one.geometry), one) for one in table if one.variant == variant]
    near = sorted((pair for pair in distances if pair[0] <= REACH), key=lambda pair: pair[0])[:NEIGHBOURS]
    if not near:
        return None
    excess, first = _excess(near), near[0][1]
    if excess <= 0:
        return None
    of = "" if near[0][0] == 0 else f", by {first.problem} and what is near it"
    return (
        f"predicted to take {math.exp(excess) * first.error:.2f} times as long as {first.xla}, XLA's best{of}; "
        f"the model's error is {first.error:.2f} times; use {first.instead}"
    )


def _excess(near: list[tuple[float, Prediction]]) -> float:
    """Of a problem with these neighbours at these distances, the nearest first; its own, where it is among them."""
    if near[0][0] == 0:
        return max(one.excess for distance, one in near if distance == 0)
    weights = [1 / distance**2 for distance, _ in near]
    return sum(weight * one.excess for weight, (_, one) in zip(weights, near, strict=True)) / sum(weights)


def unless_slower(variant: str, unsupported: Callable[[Problem, str], str | None]) -> Callable[[Any, str], str | None]:
    """`unsupported`, and then the reason why a problem that the kernel could compute is left to XLA."""

    def supports(problem: Any, target: str) -> str | None:
        if refused := unsupported(problem, target):
            return refused
        where = geometry(problem)
        if where is None or target == "gpu" or not_for_mosaic(target):
            return None  # nothing was predicted for what is older than Hopper
        return slower_than_xla(variant, where, predictions())

    return supports
