"""The end of a study on one screen: which variant to use, how sure that is, what failed, what to do next."""

import textwrap
from collections.abc import Sequence

from normbench.display.units import count
from normbench.report.data.choice import Choice, bases_of, by_group, choices, columns_of, group_name, grouping
from normbench.report.data.frames import Run
from normbench.report.data.recommendation import Recommendation, recommendations
from normbench.report.data.summary import digest
from normbench.report.findings.conclusion import basis_lines, failures, next_steps

MAX_LINES = 40
"""With the path of the report, which the command prints below."""
_MIN_WIDTH, _MAX_WIDTH = 60, 160
_GAP = "  "
_NARROWEST = 24
"""Columns of text that an answer needs: a variant, its ratio, and whether it ties."""


def terminal_answer(run: Run, width: int) -> str:
    """The answer as text of at most `width` columns (60 to 160), in fewer than `MAX_LINES` lines."""
    width = min(max(width, _MIN_WIDTH), _MAX_WIDTH)
    data = digest(run)
    if data.summary.empty:
        return f"run {run.run_id}: no cases\n"
    told = recommendations(data, grouping(run))
    below = _wrapped([*basis_lines(told), *failures(data), *next_steps(data, told)], width)
    problems = count(data.summary["problem"].nunique(), "problem")
    head = textwrap.wrap(f"Which variant to use ({count(len(run.cases), 'case')} of {problems})", width)
    room = MAX_LINES - len(head) - len(below) - 3
    return "\n".join([*head, *_table(told, width, room), "", *below]) + "\n"


def _table(told: Sequence[Recommendation], width: int, room: int) -> list[str]:
    groups = by_group(told)
    if not groups:
        return textwrap.wrap("No two variants of a problem were compiled or timed: there is nothing to choose.", width)
    columns = columns_of(told)
    names = [group_name(group) for group in groups]
    least = (_NARROWEST + len(_GAP)) * len(columns)
    indent = max(min(max(map(len, names)) + len(_GAP), width - least), width // 4)
    wide = (width - indent - len(_GAP) * (len(columns) - 1)) // len(columns)
    lines = _row("", [_heading(told, column, wide) for column in columns], indent, wide)
    for number, (name, mine) in enumerate(zip(names, groups.values(), strict=True)):
        row = _row(name, [_answers(choices(mine, column), wide) for column in columns], indent, wide)
        last = number == len(names) - 1
        if len(lines) + len(row) > room - (not last):
            return [*lines, f"... and {count(len(names) - number, 'row')} more: see the report, or --full"]
        lines += row
    return lines


def _heading(told: Sequence[Recommendation], column: Sequence[str], wide: int) -> list[str]:
    where, what = " ".join(column), f"by {' or '.join(bases_of(told, column))}"
    together = f"{where}, {what}"
    return [together] if len(together) <= wide else [*textwrap.wrap(where, wide), *textwrap.wrap(what, wide)]


def _answers(found: list[Choice], wide: int) -> list[str]:
    """A line per answer: of the targets that differ from the most, by name."""
    if not found:
        return ["-"]
    first, *others = found
    return [_fitting(first, "", wide), *(_fitting(one, f"{' '.join(one.targets)}: ", wide) for one in others)]


def _fitting(choice: Choice, start: str, wide: int) -> str:
    texts = [start + text for text in (choice.long, choice.medium, choice.short)]
    return next((text for text in texts if len(text) <= wide), texts[-1])


def _row(name: str, cells: list[list[str]], indent: int, wide: int) -> list[str]:
    """The name, and its answers beside it; each cell in as many lines as it needs."""
    left = textwrap.wrap(name, indent - len(_GAP))
    right = [[line for text in cell for line in textwrap.wrap(text, wide)] for cell in cells]
    height = max(map(len, (left, *right)))
    padded = [side + [""] * (height - len(side)) for side in (left, *right)]
    return [
        (first.ljust(indent) + _GAP.join(cell.ljust(wide) for cell in rest)).rstrip()
        for first, *rest in zip(*padded, strict=True)
    ]


def _wrapped(sentences: list[str], width: int) -> list[str]:
    return [
        line
        for text in sentences
        for line in textwrap.wrap(text, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    ]
