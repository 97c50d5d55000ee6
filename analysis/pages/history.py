"""The history of fusion by JAX release, operator by operator, out of the goldens: docs/history.md and its plot.

`python -m analysis.pages.history` writes both; `--check` says whether they are as the goldens have them.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from analysis.pages.history_plot import history_svg
from analysis.pages.history_steps import Change, Step, by_device, steps
from normbench.display.units import count, digits, listing
from normbench.fusion.changes import REWRITER, Structure
from normbench.goldens.store import FOLDER, Goldens, read_all

PAGE = Path("docs/history.md")
PLOT = Path("docs/images/history.svg")
SHOWN = 8
"""Rows of one table; the rest is counted, and `normbench compare --golden` prints it."""


def page(goldens: dict[str, dict[str, Goldens]]) -> str:
    """The history as Markdown."""
    found = steps(goldens)
    versions = list(goldens)
    lines = [
        "# What each JAX release makes of the same normalizations",
        "",
        f"Programs compiled, not timed: {_programs(goldens)}; under JAX {listing(versions)}.",
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


def _programs(goldens: dict[str, dict[str, Goldens]]) -> str:
    """How many each target has in the newest release that has it, and of a TPU, which has a sample, in which ones."""
    words = []
    for target in by_device({target for found in goldens.values() for target in found}):
        versions = [version for version, found in goldens.items() if target in found]
        number = f"{len(goldens[versions[-1]][target]):,} for the {target}"
        whole = versions == list(goldens)
        words.append(number if whole else f"{number} (under {listing(versions)} alone)")
    return ", ".join(words)


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
    PAGE.write_text(page(goldens), encoding="utf-8")
    PLOT.write_text(history_svg(steps(goldens)), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
