"""Small pieces of HTML that the sections of the report are made of; all text is escaped."""

from collections.abc import Iterable, Sequence
from html import escape


def section(name: str, title: str, body: str) -> str:
    return f'<section id="{name}"><h2>{escape(title)}</h2>{body}</section>'


def paragraphs(sentences: Iterable[str]) -> str:
    return "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)


def listed(sentences: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f"<ul>{items}</ul>" if items else ""


def details(title: str, markup: str, opened: bool = False) -> str:
    """`markup` behind a title that opens it."""
    return f"<details{' open' if opened else ''}><summary>{escape(title)}</summary>{markup}</details>"


def scrolling(markup: str, label: str) -> str:
    """What may be wider than the window: it scrolls by itself, by keyboard too, and says what it is."""
    return f'<div class="scroll" tabindex="0" role="group" aria-label="{escape(label, quote=True)}">{markup}</div>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]], words: int, label: str) -> str:
    """A table whose first columns, `words` of them, are text, and the others figures."""
    body = "".join(f"<tr>{_cells(row, 'td', words)}</tr>" for row in rows)
    return scrolling(f"<table><thead><tr>{_cells(head, 'th', words)}</tr></thead><tbody>{body}</tbody></table>", label)


def facts(pairs: Iterable[tuple[str, str]], label: str) -> str:
    """Names with their values."""
    rows = "".join(f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in pairs)
    return scrolling(f'<table class="facts">{rows}</table>', label)


def _cells(row: Sequence[str], tag: str, words: int) -> str:
    scope = ' scope="col"' if tag == "th" else ""
    kinds = ["" if place < words else ' class="number"' for place in range(len(row))]
    return "".join(f"<{tag}{kind}{scope}>{escape(cell)}</{tag}>" for kind, cell in zip(kinds, row, strict=True))
