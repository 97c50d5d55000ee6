"""From one JAX release to the next: which programs are compiled differently, out of the goldens."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from normbench.fusion.changes import Structure
from normbench.goldens.compare import compare_sides
from normbench.goldens.store import Goldens
from normbench.schema import TPU_TARGETS

SMALLEST = 0.01
"""Relative change of bytes below which a program counts as moving as much as before."""


@dataclass(frozen=True)
class Change:
    """One program that two releases compile differently.

    Attributes:
      before, after: structures, as the goldens have them.
      words: what changed.
      same_input: whether JAX handed the same program to the compiler.
    """

    case: str
    target: str
    before: Structure
    after: Structure
    words: tuple[str, ...]
    same_input: bool

    @property
    def operator(self) -> str:
        return self.case.split(".")[0]

    @property
    def bytes_ratio(self) -> float:
        """Bytes after over bytes before; 1 where one of them does not compile."""
        return self.after["bytes"] / self.before["bytes"] if self.compiles else 1.0

    @property
    def compiles(self) -> bool:
        return "bytes" in self.before and "bytes" in self.after and self.before["bytes"] > 0

    @property
    def effect(self) -> str:
        """ "fewer", "more" or "as many" bytes, or "status"."""
        if not self.compiles:
            return "status"
        return "fewer" if self.bytes_ratio < 1 - SMALLEST else "more" if self.bytes_ratio > 1 + SMALLEST else "as many"

    @property
    def structural(self) -> bool:
        """More than another decision with the same outcome."""
        return self.effect != "as many" or self.before["launches"] != self.after["launches"]


@dataclass(frozen=True)
class Step:
    """From one release to the next.

    Attributes:
      compared: programs that both releases have, by operator and target.
    """

    before: str
    after: str
    compared: dict[tuple[str, str], int]
    changes: tuple[Change, ...]

    def of(self, operator: str, target: str | None = None) -> list[Change]:
        return [c for c in self.changes if c.operator == operator and target in (None, c.target)]

    @property
    def operators(self) -> list[str]:
        return sorted({operator for operator, _ in self.compared})

    @property
    def targets(self) -> list[str]:
        return by_device({target for _, target in self.compared})


def by_device(targets: Iterable[str]) -> list[str]:
    """GPUs before TPUs, the newest of each first."""
    return sorted(sorted(targets, reverse=True), key=lambda target: target in TPU_TARGETS)


def steps(goldens: dict[str, dict[str, Goldens]]) -> list[Step]:
    """From each release to the next."""
    return [_step(before, after, goldens[before], goldens[after]) for before, after in pairwise(goldens)]


def _step(before: str, after: str, left: dict[str, Goldens], right: dict[str, Goldens]) -> Step:
    sides = [{("", target): found for target, found in side.items()} for side in (left, right)]
    changes = [
        Change(
            row["case"],
            row["target"],
            left[row["target"]][row["case"]],
            right[row["target"]][row["case"]],
            tuple(row["changes"]),
            row["same_input"],
        )
        for row in compare_sides(before, after, *sides).programs
    ]
    compared: dict[tuple[str, str], int] = {}
    for target, found in left.items():
        for case in found.keys() & right.get(target, {}).keys():
            key = case.split(".")[0], target
            compared[key] = compared.get(key, 0) + 1
    return Step(before, after, compared, tuple(changes))
