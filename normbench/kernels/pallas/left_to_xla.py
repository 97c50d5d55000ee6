"""Why a problem that the kernels could compute is left to XLA: it is predicted to be quicker, or moves less and is not
predicted to be slower.

`predicted.csv` beside this module has what the model says for the H200 of each kernel and of XLA's best variant in
plain JAX, for the problems of the presets, for sizes between them and for some that chance has drawn; `python -m
analysis.pages.kernels_limits` makes it. It decides for Hopper and newer: of a problem in the table its own line, where
the kernel is slower by more than the model's error; of another one its neighbours, which are problems of the same
operator, side of the channels and pass, near in the number of runs, in their length, alignment and width. The mean of
their logarithms of the time against XLA's is weighted by the inverse of the squared distance, and 3 % are enough, as
what neighbours tell is in doubt itself. What they cannot see is how a kernel cuts x: where that leaves half of the
device idle it is refused, too. The device that is present measures instead: on "gpu" nothing is refused.

Bytes decide where times do not: for other targets, and where a kernel is not predicted to be quicker. They are counted
in passes over tensors of x's size, XLA's in programs compiled for the H200; a test compares them with `standard`. Two
things keep kernels behind: a residual that Mosaic's add in a launch of its own (two reads and a write more, and as much
again for its gradient), and a program of both passes, where XLA sums for the statistics and for the gradients in one
pass over x and dy, and writes y and dx in another, unless an activation stands between the sums and dy.
"""

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Protocol

from normbench.kernels.common.targets import not_for_mosaic
from normbench.kernels.contexts import residuals_of
from normbench.kernels.pallas.hardware import MULTIPROCESSORS
from normbench.kernels.problem import ACTIVATIONS, Problem

INFERENCE = {
    ("forward_backward", "alone"): 4,
    ("forward", "residual"): 4,
    ("backward", "residual"): 5,
    ("forward_backward", "residual"): 8,
}
"""XLA's passes over the data for inference batch norm, by pass and context; "alone" stands for "cast", too."""
TRAINING = {
    ("forward_backward", "alone"): 6,
    ("forward", "residual"): 5,
    ("backward", "residual"): 6,
    ("forward_backward", "residual"): 10,
}
"""The same for batch norm in training, and for group and instance norm where channels come first."""
LAST = {**TRAINING, ("forward_backward", "alone"): 7}
"""The same for group and instance norm where channels come last: dy is written once more in another layout."""

OUTSIDE, WITHIN = (3, 3), (2, 1)
"""Passes of a residual that is added in a launch of its own, or in the kernel's, and of its gradient."""


class Shares(Protocol):
    """How a kernel shares x out among programs."""

    @property
    def programs(self) -> int: ...


class Cut(Shares, Protocol):
    """The same where parts lie on the chip, or come piece by piece."""

    @property
    def resident(self) -> bool: ...

    @property
    def piece_elements(self) -> int: ...


def few_that_wait(problem: Problem, forward: Cut | None, backward: Cut | None) -> str | None:
    """The reason to leave `problem` to XLA, by how Mosaic cuts x in each pass; None as a cut: what fits on the chip.
    The pieces of what does not are waited for, twice: with fewer programs it would take longer yet."""
    for cut in _in_pieces(problem, forward, backward):
        if cut.programs < MULTIPROCESSORS:
            return (
                f"{cut.programs} programs that bring x piece by piece; allowed for pallas_mosaic: "
                f"{MULTIPROCESSORS} or more, one for each multiprocessor"
            )
    return None


def _in_pieces(problem: Problem, forward: Cut | None, backward: Cut | None) -> list[Cut]:
    """How x is cut in the passes of `problem` that bring it piece by piece."""
    cuts = (("forward", forward), ("backward", backward))
    return [cut for name, cut in cuts if cut and not cut.resident and name in problem.pass_]


LEAST_PIECE = 4096
"""Elements of a piece: with two in flight each takes about a microsecond. What shorter ones cost, `lines` in
analysis/pages/kernels_limits.py tells, as of training batch norm of 700x192x14x14 to 16x192x112x112."""


def leaves_idle(problem: Problem, forward: Cut | None, backward: Cut | None) -> str | None:
    """The reason to leave `problem` to XLA where nobody predicted it, by how Mosaic cuts x in each pass: too few
    programs, or pieces so short that memory waits for the programs."""
    if reason := too_few_programs(problem, forward, backward):
        return reason
    for cut in _in_pieces(problem, forward, backward):
        if cut.piece_elements < LEAST_PIECE:
            return (
                f"x comes in pieces of {cut.piece_elements} elements; allowed for pallas_mosaic where nobody predicted "
                f"it: {LEAST_PIECE} or more"
            )
    return None


def too_few_programs(problem: Problem, forward: Shares | None, backward: Shares | None) -> str | None:
    """The reason to leave `problem` to XLA where nobody predicted it, by how Mosaic cuts x in each pass: more than half
    of the multiprocessors have no program. XLA shares out among all of them what has statistics of its own, too."""
    cuts = (("forward", forward), ("backward", backward))
    programs = min((cut.programs for name, cut in cuts if cut and name in problem.pass_), default=MULTIPROCESSORS)
    if programs >= MULTIPROCESSORS // 2:
        return None
    return (
        f"{programs} programs for {MULTIPROCESSORS} multiprocessors; allowed for pallas_mosaic where nobody predicted "
        f"it: {MULTIPROCESSORS // 2} or more"
    )


def passes_of(forward: Cut | None, backward: Cut | None) -> tuple[int, int]:
    """How often tensors of x's size are passed over in each pass: twice forward and three times backward where what is
    summed lies on the chip; pieces of it are brought once more for the output."""
    return 3 if forward and not forward.resident else 2, 5 if backward and not backward.resident else 3


def moves_more(
    problem: Problem,
    forward: int,
    backward: int,
    xla: Mapping[tuple[str, str], int],
    residual: tuple[int, int] = OUTSIDE,
) -> str | None:
    """The reason to leave `problem` to XLA, of kernels that pass over x `forward` and `backward` times, or None.

    `xla` is one of the tables above, `residual` one of the places where it is added. The backward pass alone is refused
    with a residual only.
    """
    if problem.context in ACTIVATIONS:
        return None
    added = residuals_of(problem.context)
    least = xla.get((problem.pass_, "residual" if added else "alone"))
    both = ("forward", forward + residual[0] * added), ("backward", backward + residual[1] * added)
    passes = sum(of_pass for name, of_pass in both if name in problem.pass_)
    outside = added and residual == OUTSIDE
    if least is None or passes < least or (passes == least and not outside):
        return None
    more = "more than XLA" if passes > least else "as much as XLA, in a launch more"
    why = "it adds the residual itself" if outside else "it has x and dy at hand together"
    return f"moves {more}: {passes} passes over tensors of x's size, XLA's best variant {least}, as {why}"


TABLE = "predicted.csv"
NEIGHBOURS = 12
SLOWER = 1.03
"""How many times as long as XLA's best a kernel takes, by its neighbours, before it is refused."""
REACH = 8.0
"""The distance, in doublings, beyond which a problem is no neighbour."""
OTHER_ALIGNMENT, OTHER_INPUTS, OTHER_CONTEXT = 2.0, 2.0, 1.0
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

    @property
    def program(self) -> tuple[str, ...]:
        """Problems of others are no neighbours."""
        return self.operator, self.kind, self.pass_

    def distance(self, other: "Geometry") -> float:
        """In doublings, between problems of one program."""
        sizes = ("runs", "length", "itemsize", "images")
        apart = sum(abs(math.log2(getattr(self, size) / getattr(other, size))) for size in sizes)
        apart += OTHER_ALIGNMENT * abs(self.alignment - other.alignment)
        contexts = {self.context, other.context}
        return apart + (len(contexts) > 1) * (OTHER_INPUTS if "residual" in contexts else OTHER_CONTEXT)


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
def predictions() -> dict[tuple[str, ...], list[Prediction]]:
    """The table, by variant and program."""
    found: dict[tuple[str, ...], list[Prediction]] = {}
    text = files(__package__).joinpath(TABLE).read_text(encoding="utf-8")
    for line in map(_prediction, csv.DictReader(text.splitlines())):
        found.setdefault((line.variant, *line.geometry.program), []).append(line)
    return found


def _prediction(row: dict[str, str]) -> Prediction:
    images, runs, length, itemsize = (int(row[name]) for name in ("images", "runs", "length", "itemsize"))
    where = Geometry(row["operator"], row["kind"], row["pass_"], row["context"], images, runs, length, itemsize)
    kernel_s, xla_s = (float(row[name]) * 1e-6 for name in ("kernel_us", "xla_us"))
    return Prediction(
        row["variant"], row["problem"], where, kernel_s, row["xla"], xla_s, float(row["error"]), row["instead"]
    )


def slower_than_xla(where: Geometry, lines: Sequence[Prediction]) -> str | None:
    """The reason to leave a problem of this geometry to XLA, by the lines of its variant and program, or None."""
    near = _near(where, lines)
    if not near:
        return None
    first, times = near[0][1], math.exp(_log_ratio(near))
    if _own(near):
        refused, basis = any(one.excess > 0 for one in _own(near)), f"; the model's error is {first.error:.2f} times"
    else:
        refused, basis = times > SLOWER, f", by {first.problem} and what is near it"
    told = f"predicted to take {times:.2f} times as long as {first.xla}, XLA's best{basis}; use {first.instead}"
    return told if refused else None


def quicker_than_xla(where: Geometry, lines: Sequence[Prediction]) -> bool:
    """Whether a problem of this geometry is predicted to take less time than by XLA's best, be it within the error: by
    others with a residual, if it has one, as what has none knows nothing of the launch that adds it."""
    added = where.context == "residual"
    near = _near(where, [one for one in lines if (one.geometry.context == "residual") == added])
    return bool(near) and _log_ratio(near) < 0


def _near(where: Geometry, lines: Sequence[Prediction]) -> list[tuple[float, Prediction]]:
    """The predictions that decide, with their distances, the nearest first."""
    distances = [(where.distance(one.geometry), one) for one in lines]
    return sorted((pair for pair in distances if pair[0] <= REACH), key=lambda pair: pair[0])[:NEIGHBOURS]


def _own(near: list[tuple[float, Prediction]]) -> list[Prediction]:
    """Those of the very geometry."""
    return [one for distance, one in near if distance == 0]


def _log_ratio(near: list[tuple[float, Prediction]]) -> float:
    """The logarithm of the time against XLA's of a problem with these neighbours; its own, where it is among them."""
    if own := _own(near):
        return max(math.log(one.kernel_s / one.xla_s) for one in own)
    weights = [1 / distance**2 for distance, _ in near]
    return sum(w * math.log(one.kernel_s / one.xla_s) for w, (_, one) in zip(weights, near, strict=True)) / sum(weights)


def _unless_predicted(reason: str | None, where: Geometry, lines: Sequence[Prediction]) -> str | None:
    """`reason`, with what to use instead; None where the problem has a line of its own."""
    near = _near(where, lines) if reason else []
    if not reason or _own(near):
        return None
    return f"{reason}; use {near[0][1].instead}" if near else reason


def unless_slower(
    variant: str,
    unsupported: Callable[[Problem, str], str | None],
    more: Callable[[Problem], str | None] = lambda _: None,
    idle: Callable[[Problem], str | None] = lambda _: None,
) -> Callable[[Any, str], str | None]:
    """`unsupported`, and then the reason why a problem that the kernel could compute is left to XLA; of such a problem
    `more` says why the kernel moves more than XLA, and `idle` that it leaves much of the device idle, or None."""

    def supports(problem: Any, target: str) -> str | None:
        if refused := unsupported(problem, target):
            return refused
        where = geometry(problem)
        if where is None or target == "gpu":
            return None
        if not_for_mosaic(target):  # what is older than Hopper
            return more(problem)
        lines = predictions().get((variant, *where.program), [])
        slower = slower_than_xla(where, lines) or _unless_predicted(idle(problem), where, lines)
        moves = None if slower else more(problem)
        if moves is None or quicker_than_xla(where, lines):
            return slower
        return f"{moves}, and is not predicted to be quicker"

    return supports
