"""Pieces of a fusion picture: words, sizes, colours, and SVG elements of them."""

import textwrap
from functools import cache
from html import escape
from typing import Any

from normbench.display.palette import BLUE, INK, PURPLE, VERMILLION
from normbench.display.units import digits, printable

NEEDED, EXTRA, REFUSED = BLUE, VERMILLION, PURPLE
"""Arguments and results; what goes through memory between launches or is read again; what was not fused."""

LETTER = 6.6  # width of a letter at 12 px, on average
LINE = 15.0


def size_text(size: float) -> str:
    """102.8 MB."""
    for name, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{digits(size / scale, 4 if scale >= 1e6 and size >= 100 * scale else 3)} {name}"
    return f"{size:.0f} B"


def wrap(words: str, width: float, lines: int) -> list[str]:
    """`words` in at most `lines` lines of `width` px, the last one with an ellipsis where something was cut."""
    letters = max(8, int(width / LETTER))
    found = textwrap.wrap(printable(words), letters, break_on_hyphens=False)
    if len(found) > lines:
        found = [*found[: lines - 1], textwrap.shorten(" ".join(found[lines - 1 :]), letters, placeholder=" …")]
    return found


def tag(name: str, content: str = "", **attributes: Any) -> str:
    """An SVG element; underscores in attribute names become hyphens, and numbers are rounded to a tenth."""
    pairs = [f' {_attribute(key)}="{_value(value)}"' for key, value in attributes.items() if value is not None]
    head = f"<{name}{''.join(pairs)}"
    return f"{head}>{content}</{name}>" if content else f"{head}/>"


@cache
def _attribute(key: str) -> str:
    return key.rstrip("_").replace("_", "-")


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.1f}".removesuffix(".0")
    return escape(str(value), quote=True)


def text(words: str, x: float, y: float, anchor: str = "start", **attributes: Any) -> str:
    attributes.setdefault("fill", INK)
    return tag("text", escape(printable(words)), x=float(x), y=float(y), text_anchor=anchor, **attributes)


def arrow(path: str, colour: str, width: float, **attributes: Any) -> str:
    """A line along `path`, as wide as what it carries."""
    return tag("path", d=path, fill="none", stroke=colour, stroke_width=float(width), **attributes)


def head(x: float, y: float, direction: str, colour: str, width: float) -> str:
    """The head of an arrow whose tip is at (x, y)."""
    long, half = 7.0, max(4.5, width / 2 + 2.5)
    if direction == "down":
        points = [(x, y), (x - half, y - long), (x + half, y - long)]
    elif direction == "left":
        points = [(x, y), (x + long, y - half), (x + long, y + half)]
    else:
        points = [(x, y), (x - long, y - half), (x - long, y + half)]
    return tag("polygon", points=" ".join(f"{a:.1f},{b:.1f}" for a, b in points), fill=colour)
