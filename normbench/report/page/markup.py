"""Small pieces of HTML that the sections of the report are made of; all text is escaped."""

from collections.abc import Iterable
from html import escape


def paragraphs(sentences: Iterable[str]) -> str:
    return "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)


def listed(sentences: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(sentence)}</li>' for sentence in sentences)}</ul>"


def details(title: str, markup: str, opened: bool = False) -> str:
    """`markup` behind a title that opens it."""
    return f"<details{' open' if opened else ''}><summary>{escape(title)}</summary>{markup}</details>"


def table(head: list[str], rows: list[list[str]], words: int) -> str:
    """A table whose first columns, `words` of them, are text, and the others figures."""
    body = "".join(f"<tr>{_cells(row, 'td', words)}</tr>" for row in rows)
    top = _cells(head, "th", words)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _cells(row: list[str], tag: str, words: int) -> str:
    kinds = ["" if place < words else ' class="number"' for place in range(len(row))]
    return "".join(f"<{tag}{kind}>{escape(str(cell))}</{tag}>" for cell, kind in zip(row, kinds, strict=True))
