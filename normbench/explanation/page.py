"""A report as HTML for a notebook: the same screen as in a terminal, with the picture above it; of a long
program the picture and the rest are folded away."""

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

from normbench.explanation.groups import SHOWN, Group, shown_and_rest
from normbench.explanation.render import (
    cells_of,
    columns,
    footnotes,
    is_number,
    rest_line,
    sections,
    sum_line,
)
from normbench.explanation.sentences import GROUPS

if TYPE_CHECKING:
    from normbench.explanation.explain import Report


def html_report(report: "Report") -> str:
    """The report with every launch and sentence in it, in the colours of the page."""
    rows = report.rows
    shown, rest = shown_and_rest(rows, SHOWN)
    parts = [*([] if rest else [report.picture.inline()]), _table(shown, brief=bool(rest))]
    if rest:
        parts.append(_folded(rest_line(rest, report.bytes), _table([Group((row,)) for row in rows], brief=False)))
    parts += [f"<p>{html.escape(line)}</p>" for line in (sum_line(report), *footnotes(rows))]
    everything = dict(sections(report, full=True))
    for heading, sentences in sections(report, full=False):
        parts.append(f"<p>{heading.capitalize()}</p>{_list(sentences[:GROUPS])}")
        if everything[heading] != sentences[:GROUPS]:
            parts.append(_folded(f"all {len(everything[heading])}", _list(everything[heading])))
    if rest:
        parts.append(_folded("picture", report.picture.inline()))
    return "".join(parts)


def _table(shown: Sequence[Group], brief: bool) -> str:
    names = columns(shown, brief)
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    body = "".join(_line(cells_of(group), names) for group in shown)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _line(cells: dict[str, str], names: Sequence[str]) -> str:
    found = (
        f"<td style='text-align:{'right' if is_number(name) else 'left'}'>{html.escape(cells[name])}</td>"
        for name in names
    )
    return f"<tr>{''.join(found)}</tr>"


def _folded(summary: str, inner: str) -> str:
    return f"<details><summary>{html.escape(summary)}</summary>{inner}</details>"


def _list(sentences: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{html.escape(sentence)}</li>' for sentence in sentences)}</ul>"
