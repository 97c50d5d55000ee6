"""Where XLA's best pure-JAX variant of a problem moves less than the kernels, which then refuse it.

Bytes are counted in passes over tensors of x's size. Two things keep kernels behind: a residual that is added in a
launch of its own (two reads and a write more, and as much again for its gradient), and a program that has x and dy at
hand together: XLA then sums for the statistics and for the gradients in one pass over both, and writes y and dx in
another, where kernels of the forward and of the backward pass know nothing of each other. An activation between the
sums and dy takes that from XLA. The figures of XLA are those of compiled programs for the H200; a test compares them
with the cases of the preset `standard`.
"""

from collections.abc import Mapping
from typing import Protocol

from normbench.kernels.contexts import residuals_of
from normbench.kernels.pallas.hardware import MULTIPROCESSORS
from normbench.kernels.problem import ACTIVATIONS, Problem

INFERENCE = {("forward_backward", "alone"): 4, ("forward", "residual"): 4, ("forward_backward", "residual"): 8}
"""XLA's passes over the data for inference batch norm, by pass and context; "alone" stands for "cast", too."""
TRAINING = {("forward_backward", "alone"): 6, ("forward", "residual"): 5, ("forward_backward", "residual"): 10}
"""The same for batch norm in training, and for group and instance norm where channels come first."""
LAST = {**TRAINING, ("forward_backward", "alone"): 7}
"""The same for group and instance norm where channels come last: dy is written once more in another layout."""

ADDITION = 3
"""Passes of a residual that is added outside, or of its gradient."""


class Cut(Protocol):
    """How a kernel shares x out among programs, whose parts lie on the chip or come piece by piece."""

    @property
    def resident(self) -> bool: ...

    @property
    def programs(self) -> int: ...


def left_to_xla(
    problem: Problem, forward: Cut | None, backward: Cut | None, xla: Mapping[tuple[str, str], int]
) -> str | None:
    """The reason to leave `problem` to XLA, by how a kernel cuts x in each pass; None as a cut: what fits on the chip.

    Two passes over x forward and three backward, where what is summed lies on the chip; pieces of it are brought once
    more for the output, and one program of a multiprocessor then waits for each of them: with fewer it would take
    longer yet.
    """
    passes = []
    for name, cut, least in (("forward", forward, 2), ("backward", backward, 3)):
        if cut is None or cut.resident:
            passes.append(least)
            continue
        if name in problem.pass_ and cut.programs < MULTIPROCESSORS:
            return (
                f"{cut.programs} programs that bring x piece by piece; allowed for pallas_mosaic: "
                f"{MULTIPROCESSORS} or more, one for each multiprocessor"
            )
        passes.append(2 * least - 1)
    return moves_more(problem, passes[0], passes[1], xla)


def moves_more(problem: Problem, forward: int, backward: int, xla: Mapping[tuple[str, str], int]) -> str | None:
    """The reason to leave `problem` to XLA, of kernels that pass over x `forward` and `backward` times, or None.

    `xla` is one of the tables above. The backward pass alone is never refused.
    """
    if problem.context in ACTIVATIONS:
        return None
    added = residuals_of(problem.context)
    least = xla.get((problem.pass_, "residual" if added else "alone"))
    passes = forward + ADDITION * added
    if problem.pass_ == "forward_backward":
        passes += backward + ADDITION * added
    if least is None or passes <= least:
        return None
    why = "it adds the residual itself" if added else "it has x and dy at hand together"
    return f"moves more than XLA: {passes} passes over tensors of x's size, XLA's best variant {least}, as {why}"
