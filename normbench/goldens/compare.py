"""Goldens of two commits, or of two JAX releases, side by side: no machine, no noise, only what the compiler made."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from normbench.display.units import count
from normbench.errors import UserError
from normbench.goldens.store import FOLDER, Goldens, case_name, differences, read_all, read_revision

Sides = dict[tuple[str, str], Goldens]
"""By JAX version (empty where two versions are compared) and target."""


@dataclass(frozen=True)
class GoldenComparison:
    """What two sets of goldens differ in.

    Attributes:
      a, b: commits or JAX versions.
      programs: a row per case that differs: `jax`, `target`, `case`, `changes` in words, and `same_input`: whether JAX
        handed the same program to the compiler.
      only_a, only_b: cases of one side, as "target case".
      compared: cases that both have.
    """

    a: str
    b: str
    programs: tuple[dict[str, Any], ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    compared: int

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def compare_goldens(a: str, b: str, folder: Path = FOLDER) -> GoldenComparison:
    """Compares the goldens of two commits, JAX version by JAX version, or those of two JAX versions.

    Args:
      a, b: git revisions of the repository in the current folder, or versions that `folder` holds.

    Raises:
      UserError: where one is neither, or one is a version and the other a commit.
    """
    present = read_all(folder)
    if (a in present) != (b in present):
        raise UserError(f"{a!r} and {b!r} are not of a kind; allowed: two commits, or two of {', '.join(present)}")
    if a in present:
        sides = [{("", target): found for target, found in present[side].items()} for side in (a, b)]
    else:
        sides = [_by_version_and_target(read_revision(side, folder)) for side in (a, b)]
    return compare_sides(a, b, *sides)


def _by_version_and_target(found: dict[str, dict[str, Goldens]]) -> Sides:
    return {(jax, target): goldens for jax, targets in found.items() for target, goldens in targets.items()}


def compare_sides(a: str, b: str, left: Sides, right: Sides) -> GoldenComparison:
    """The comparison of what was read; `a` and `b` are names."""
    programs: list[dict[str, Any]] = []
    only: tuple[list[str], list[str]] = ([], [])
    compared = 0
    for key in dict.fromkeys((*left, *right)):
        before, after = left.get(key, {}), right.get(key, {})
        compared += len(before.keys() & after.keys())
        for place, own, other in ((0, before, after), (1, after, before)):
            only[place].extend(" ".join(filter(None, (*key, case))) for case in own if case not in other)
        for case, changes in differences(before, after):
            same_input = bool(before[case]["program"]) and before[case]["program"] == after[case]["program"]
            programs.append(
                {"jax": key[0], "target": key[1], "case": case, "changes": changes, "same_input": same_input}
            )
    return GoldenComparison(a, b, tuple(programs), tuple(only[0]), tuple(only[1]), compared)


def golden_text(found: GoldenComparison) -> str:
    """The comparison as lines for a terminal."""
    lines = [f"A {found.a}", f"B {found.b}"]
    if found.programs:
        lines += ["", f"PROGRAM CHANGED ({len(found.programs)})", *map(_line, found.programs)]
    for title, cases in (("ONLY IN A", found.only_a), ("ONLY IN B", found.only_b)):
        if cases:
            lines += ["", f"{title} ({len(cases)})", *(f"  {case}" for case in cases)]
    same = sum(row["same_input"] for row in found.programs)
    summary = f"{count(found.compared, 'program')} in both, {len(found.programs)} changed"
    compiler = f", {same} of them though JAX handed the compiler the same" if found.programs else ""
    return "\n".join([*lines, "", summary + compiler])


def _line(row: dict[str, Any]) -> str:
    jax = f", JAX {row['jax']}" if row["jax"] else ""
    return f"  {case_name(row['case'], row['target'])}{jax}: {'; '.join(row['changes'])} ({row['case']})"
