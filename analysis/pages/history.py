"""The history of fusion by JAX release, operator by operator, out of the goldens: docs/history.md and its plot.

`python -m analysis.pages.history` writes both; `--check` says whether they are as the goldens have them.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from normbench.display.units import count, digits, listing
from normbench.fusion.changes import REWRITER, Structure
from normbench.goldens.compare import compare_sides
from normbench.goldens.store import FOLDER, Goldens, read_all

PAGE = Path("docs/history.md")
PLOT = Path("docs/images/history.svg")
SHOWN = 8
"""Rows of one table; the rest is counted, and `normbench compare --golden` prints it."""
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
        """The newest device first."""
        return sorted({target for _, target in self.compared}, reverse=True)


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


def page(goldens: dict[str, dict[str, Goldens]]) -> str:
    """The history as Markdown."""
    found = steps(goldens)
    versions = list(goldens)
    newest = goldens[versions[-1]]
    programs = ", ".join(f"{len(cases):,} for the {target}" for target, cases in sorted(newest.items(), reverse=True))
    lines = [
        "# What each JAX release makes of the same normalizations",
        "",
        f"Programs compiled, not timed: {programs}; under JAX {listing(versions)}.",
        "One that moves fewer bytes is fused better.",
        "",
        "Made by `make history` out of `results/golden/`. Every change, case by case:",
        f"`normbench compare --golden {versions[0]} {versions[-1]}`.",
        "",
        f"![Programs that move fewer and more bytes than under the release before, by operator]({_plot_link()})",
        "",
    ]
    for step in found:
        lines += _chapter(step)
    return "\n".join(lines)


def _plot_link() -> str:
    return PLOT.relative_to(PAGE.parent).as_posix()


def _chapter(step: Step) -> Iterator[str]:
    yield from (f"## From {step.before} to {step.after}", "", _summary(step), "")
    yield "| operator | target | programs | changed | fewer bytes | more bytes | launches fewer / more |"
    yield "|---|---|---:|---:|---:|---:|---:|"
    for operator in step.operators:
        for target in step.targets:
            if (operator, target) in step.compared:
                yield _counts(step, operator, target)
    yield ""
    for operator in step.operators:
        changes = [change for change in step.of(operator) if change.structural]
        if changes:
            yield from (f"### {operator}", "", *_told(changes), "", *_table(changes), "")


def _summary(step: Step) -> str:
    structural = [change for change in step.changes if change.structural]
    total = count(sum(step.compared.values()), "program")
    if not structural:
        return f"Of {total} none moves other bytes or takes another number of launches."
    same = sum(change.same_input for change in structural)
    quiet = [name for name in step.operators if not any(change.operator == name for change in structural)]
    text = (
        f"Of {total}, {len(structural)} are fused in another way: {_effects(structural)}. In {same} of them JAX hands "
        "the compiler the same program, so the change is XLA's."
    )
    return text + (f" Nothing changed in {listing([f'`{name}`' for name in quiet])}." if quiet else "")


def _effects(changes: list[Change]) -> str:
    words = {
        "fewer": "move fewer bytes", "more": "move more", "as many": "move as many in another number of launches",
        "status": "began or ceased to compile",
    }  # fmt: skip
    numbers = {effect: sum(change.effect == effect for change in changes) for effect in words}
    return listing([f"{number} {words[effect]}" for effect, number in numbers.items() if number])


def _counts(step: Step, operator: str, target: str) -> str:
    changes = [change for change in step.of(operator, target) if change.structural]
    compiled = [change for change in changes if change.compiles]
    effects = [sum(change.effect == effect for change in changes) for effect in ("fewer", "more")]
    fewer, more = (sum(sign * (c.after["launches"] - c.before["launches"]) > 0 for c in compiled) for sign in (-1, 1))
    cells = [f"`{operator}`", target, f"{step.compared[operator, target]:,}", str(len(changes)), *map(str, effects)]
    return f"| {' | '.join(cells)} | {fewer} / {more} |"


def _told(changes: list[Change]) -> Iterator[str]:
    """Sentences on one operator: the most that was gained and lost, and patterns that match no more or match now."""
    compiled = [change for change in changes if change.compiles]
    best = min(compiled, key=lambda change: change.bytes_ratio, default=None)
    worst = max(compiled, key=lambda change: change.bytes_ratio, default=None)
    if best and best.effect == "fewer":
        yield f"- The most gained: {_sentence(best)}."
    if worst and worst.effect == "more":
        yield f"- The most lost: {_sentence(worst)}."
    for words in (f"{REWRITER} no longer matches", f"{REWRITER} matches now"):
        if found := [change for change in changes if words in change.words]:
            variants = sorted({f"`{change.case.rpartition('.')[2]}`" for change in found})
            yield f"- {words}: {count(len(found), 'program')}, of {listing(variants)}."
    same = sum(change.same_input for change in changes)
    yield f"- {count(len(changes), 'program')} changed, {same} of them though JAX hands the compiler the same."


def _sentence(change: Change) -> str:
    return f"{_name(change.case)} on the {change.target}, {'; '.join(change.words[:2])}"


def _name(case: str) -> str:
    """Variant, pass and problem: "`naive`, forward and backward, silu 8x160x160x32 nhwc bf16"."""
    _, context, shape, layout, dtype, _, pass_, *_ = case.split(".")
    return f"`{case.rpartition('.')[2]}`, {pass_.replace('_', ' and ')}, {context} {shape} {layout} {dtype}"


def _table(changes: list[Change]) -> Iterator[str]:
    """The largest changes of bytes first."""
    order = sorted(changes, key=lambda c: (-abs(c.bytes_ratio - 1), c.case, c.target))
    yield "| program | target | launches | bytes ÷ minimum | same input |"
    yield "|---|---|---|---|---|"
    for change in order[:SHOWN]:
        sides = change.before, change.after
        launches, ratios = (" → ".join(_number(side, name) for side in sides) for name in ("launches", "traffic_ratio"))
        same = "yes" if change.same_input else "no"
        yield f"| {_name(change.case)} | {change.target} | {launches} | {ratios} | {same} |"
    if len(order) > SHOWN:
        yield f"\n… and {len(order) - SHOWN} more."


def _number(row: Structure, name: str) -> str:
    value = row.get(name)
    return row.get("status", "unknown") if value is None else digits(value) if isinstance(value, float) else str(value)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m analysis.pages.history", description="Write docs/history.md.")
    parser.add_argument("--check", action="store_true", help="write nothing; 1 where the page is not up to date")
    parsed = parser.parse_args()
    goldens = read_all(FOLDER)
    if parsed.check:
        current = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == page(goldens)
        print("up to date" if current else f"{PAGE} is not as the goldens have it; make it with: make history")
        return int(not current)
    write(goldens)
    print(f"{PAGE}\n{PLOT}")
    return 0


def write(goldens: dict[str, dict[str, Goldens]]) -> None:
    """Writes the page and its plot."""
    from analysis.pages.history_plot import history_svg

    PAGE.write_text(page(goldens), encoding="utf-8")
    PLOT.write_text(history_svg(steps(goldens)), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
