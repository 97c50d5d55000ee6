"""The first thing on the page: which variant to use, as a table, and what to know about it."""

from collections.abc import Sequence
from html import escape

from normbench.report.data.choice import Choice, bases_of, by_group, choices, columns_of, group_name
from normbench.report.data.recommendation import Recommendation
from normbench.report.data.summary import Digest
from normbench.report.findings.conclusion import basis_lines, failures, next_steps
from normbench.report.page.markup import details, listed, scrolling

NOTHING = "No two variants of a problem were compiled or timed: there is nothing to choose."


def answer_section(data: Digest, told: Sequence[Recommendation]) -> str:
    """The section's body: a row per group, a column per kind of evidence; what failed; what to do next."""
    text = _table(told) if told else f"<p>{NOTHING}</p>"
    troubles = failures(data)
    bad = [line for line in troubles if line.startswith(("FAILED", "...", "The run is not finished"))]
    text += "".join(f'<p class="warning" role="note">{escape(line)}</p>' for line in bad)
    text += listed(basis_lines(told)) + listed(line for line in troubles if line not in bad)
    steps = [f"<li>{_unbroken(step.removeprefix('Next: '))}</li>" for step in next_steps(data, told)]
    return text + (details("What to do next", f"<ul>{''.join(steps)}</ul>", opened=True) if steps else "")


def _table(told: Sequence[Recommendation]) -> str:
    columns = columns_of(told)
    head = "".join(
        f'<th scope="col">{escape(" ".join(column))}<small>by {" or ".join(bases_of(told, column))}</small></th>'
        for column in columns
    )
    rows = []
    for group, mine in by_group(told).items():
        cells = "".join(f"<td>{_answers(choices(mine, column))}</td>" for column in columns)
        rows.append(f'<tr><th scope="row">{escape(group_name(group))}</th>{cells}</tr>')
    top = f'<thead><tr><th scope="col">operator, pass</th>{head}</tr></thead>'
    return scrolling(f'<table class="answer">{top}<tbody>{"".join(rows)}</tbody></table>', "Which variant to use")


def _answers(found: list[Choice]) -> str:
    if not found:
        return '<span class="missing">–</span>'
    first, *others = found
    return _answer(first) + "".join(
        f'<div><span class="missing">{escape(" ".join(one.targets))}:</span> {_answer(one)}</div>' for one in others
    )


def _answer(choice: Choice) -> str:
    text = f'<strong class="use">{escape(choice.variant)}</strong> {escape(choice.ratio)}'
    if choice.rival:
        word = "~" if choice.tied else "next"
        text += f' <span class="missing">{word} {escape(choice.rival)} {escape(choice.rival_ratio)}</span>'
    return text


def _unbroken(text: str) -> str:
    """Lines break between words alone: an option keeps its dashes."""
    return " ".join(
        f'<span class="word">{escape(word)}</span>' if "-" in word else escape(word) for word in text.split()
    )
