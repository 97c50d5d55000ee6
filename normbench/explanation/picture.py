"""The compiled program of one case as a picture: launches as boxes, what flows between them as lines as wide as their
bytes, what the compiler did not fuse as dashed lines with its reason, and the minimum beside the total."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from normbench.display.palette import GREY, INK
from normbench.display.units import count, printable
from normbench.explanation.groups import executed
from normbench.explanation.picture_parts import (
    EXTRA,
    LETTER,
    LINE,
    NEEDED,
    REFUSED,
    arrow,
    head,
    size_text,
    tag,
    text,
    wrap,
)
from normbench.explanation.picture_rows import Argument, Box, boxes
from normbench.fusion.reading import Reading

WIDTH = 900.0
_BOX_X, _BOX_W = 262.0, 372.0
_RIGHT = _BOX_X + _BOX_W
_PILL_RIGHT, _RESULT_X = 158.0, 778.0
_DATA_X, _DASH_X, _REASON_X = _BOX_X + 26, _BOX_X + 48, _BOX_X + 60
_LANE = 15.0
_WIDEST, _THINNEST = 11.0, 1.4
_FONT = "font-family='system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif' font-size='12'"
_REASON_LINES, _OPS_LINES = 4, 2


@dataclass(frozen=True)
class FusionPicture:
    """A picture that a notebook shows as it is.

    Attributes:
      svg: one SVG element, legible on a light and on a dark page.
    """

    svg: str

    def _repr_svg_(self) -> str:
        return self.svg

    def inline(self) -> str:
        """The same to be put into a page, in the colour of its text."""
        return self.svg.replace(INK, "currentColor").replace("<svg ", "<svg style='max-width:100%;height:auto' ", 1)

    def write(self, path: Path) -> Path:
        path = Path(path)
        path.write_text(self.svg, encoding="utf-8")
        return path


def fusion_picture(title: str, rows: Sequence[Mapping[str, Any]], compiled: Mapping[str, Any]) -> FusionPicture:
    """The picture of one compiled program.

    Args:
      title: what was compiled.
      rows: of the table `launches`, in the order of execution; the JSON lists in it may be lists, too.
      compiled: a row of the table `compiled`: bytes, minimum_bytes and traffic_ratio are shown.
    """
    drawing = _Drawing(boxes(rows))
    total = _sum(rows, compiled)
    parts, height = drawing.draw(title, total, compiled)
    label = f"{title}: {total}"
    attributes = f"xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH:.0f} {height:.0f}' {_FONT} role='img'"
    size = f"width='{WIDTH:.0f}' height='{height:.0f}'"
    return FusionPicture(f"<svg {attributes} {size}>{tag('title', escape(printable(label)))}{''.join(parts)}</svg>")


def with_flows(rows: Sequence[Mapping[str, Any]], reading: Reading) -> list[dict[str, Any]]:
    """Rows of the table `launches` with what flows between them as lists, as it was read, in place of JSON."""
    refused: dict[int, list] = {}
    for refusal in reading.refusals:
        refused.setdefault(refusal.producer, []).append((refusal.consumers, refusal.reason))
    return [
        {**row, "inputs": flow.inputs, "results": flow.results, "refused": refused.get(place, [])}
        for place, (row, flow) in enumerate(zip(rows, reading.flows, strict=True))
    ]


class _Drawing:
    """Places the boxes one below the other, then draws what lies between and beside them."""

    def __init__(self, found: list[Box]):
        self.boxes = found
        self.tops: list[float] = []
        self.heights = [self._height(box) for box in found]
        sizes = [size for box in found for _, size in box.inner] + [size for box in found for size in box.results]
        sizes += [argument.size for box in found for argument in box.arguments]
        self.widest = max(sizes, default=0) or 1
        self.lanes: list[int] = []  # per lane on the right, the box down to which it is taken
        self.crossing: list[int] = []  # boxes that a refusal reaches past others

    def draw(self, title: str, total: str, compiled: Mapping[str, Any]) -> tuple[list[str], float]:
        parts = [text(title, 8, 20, font_weight=600, font_size=14), *_legend(38.0)]
        y = 66.0
        for box in self.boxes:
            self.tops.append(y)
            y += self.heights[box.index] + self._gap(box)
        for box in self.boxes:
            parts += self._flows_in(box)
            parts += self._results(box)
        for box in self.boxes:
            parts += self._box(box)
            parts += self._refusals(box)
        bars, height = self._bars(y + 8, total, compiled)
        return [*parts, *bars], height

    def _height(self, box: Box) -> float:
        lines = len(wrap(box.ops, _BOX_W - 24, _OPS_LINES))
        beside = max(len(box.arguments), len(box.results[:3]))
        return max(26 + LINE * lines + 20, 34.0 * beside + 4)

    def _gap(self, box: Box) -> float:
        if box.index == len(self.boxes) - 1:
            return 18.0
        lines = sum(len(self._reason(why)) for _, why in box.refused[:2])
        return max(34.0, 20 + LINE * lines)

    def _reason(self, why: str) -> list[str]:
        return wrap(f"not fused: {why}", _RIGHT + 8 - _REASON_X, _REASON_LINES)

    def _matters(self, size: int) -> bool:
        return size > 0.02 * self.widest

    def _stroke(self, size: int) -> float:
        return max(_THINNEST, _WIDEST * size / self.widest)

    def _box(self, box: Box) -> list[str]:
        top, height = self.tops[box.index], self.heights[box.index]
        name = "  ".join(part for part in (box.label, box.name) if part)
        right = ", ".join(part for part in (box.often, box.kind) if part)
        parts = [
            tag("rect", x=_BOX_X, y=top, width=_BOX_W, height=height, rx=7, fill=INK, fill_opacity=0.13, stroke=INK,
                stroke_opacity=0.7, stroke_dasharray="5 3" if box.count > 1 else None,
                stroke_width=3.0 if box.kind == "collective" else None),
            text(wrap(name, _BOX_W - 40 - LETTER * len(right), 1)[0], _BOX_X + 12, top + 19, font_weight=600),
            text(right, _RIGHT - 12, top + 19, "end", font_style="italic"),
        ]  # fmt: skip
        y = top + 19
        for line in wrap(box.ops, _BOX_W - 24, _OPS_LINES):
            y += LINE
            parts.append(text(line, _BOX_X + 12, y))
        words = f"reads {size_text(box.read_bytes)}, writes {size_text(box.write_bytes)}"
        if box.wire_bytes:
            words += f"; {size_text(box.wire_bytes)} over the link"
        parts.append(text(words, _BOX_X + 12, top + height - 9, font_size=11))
        return parts

    def _flows_in(self, box: Box) -> list[str]:
        top, height = self.tops[box.index], self.heights[box.index]
        parts = []
        for place, argument in enumerate(box.arguments):
            y = top + height * (place + 0.5) / len(box.arguments)
            parts += self._argument(argument, y)
        for source, size in box.inner:
            if source == box.index - 1:
                parts += self._down(source, box.index, size)
            elif source < box.index:
                parts += self._around(source, box.index, size)
        return parts

    def _argument(self, argument: Argument, y: float) -> list[str]:
        colour, width = (EXTRA if argument.again else NEEDED), self._stroke(argument.size)
        again = " again" if argument.again else ""
        return [
            text(wrap(argument.name + again, _PILL_RIGHT - 8, 1)[0], _PILL_RIGHT, y + 4, "end"),
            arrow(f"M{_PILL_RIGHT + 6:.1f} {y:.1f}H{_BOX_X - 6:.1f}", colour, width),
            head(_BOX_X, y, "right", colour, width),
            text(size_text(argument.size), (_PILL_RIGHT + _BOX_X) / 2 - 2, y - width / 2 - 4, "middle", font_size=11),
        ]

    def _down(self, source: int, into: int, size: int) -> list[str]:
        start, end, width = self.tops[source] + self.heights[source], self.tops[into], self._stroke(size)
        return [
            arrow(f"M{_DATA_X:.1f} {start:.1f}V{end - 6:.1f}", EXTRA, width),
            head(_DATA_X, end, "down", EXTRA, width),
            text(size_text(size), _BOX_X + 12 - width / 2 + 2, (start + end) / 2 + 4, "end", font_size=11),
        ]

    def _around(self, source: int, into: int, size: int) -> list[str]:
        """A line in a free lane on the right."""
        lane = next((n for n, until in enumerate(self.lanes) if until <= source), len(self.lanes))
        self.lanes[lane : lane + 1] = [into]
        x, width = _RIGHT + 22 + _LANE * min(lane, 6), self._stroke(size)
        start = self.tops[source] + self.heights[source] - 12 - 3 * (lane % 3)
        end = self.tops[into] + 14 + 4 * (lane % 3)
        return [
            arrow(f"M{_RIGHT:.1f} {start:.1f}H{x:.1f}V{end:.1f}H{_RIGHT + 6:.1f}", EXTRA, width,
                  stroke_linejoin="round"),
            head(_RIGHT, end, "left", EXTRA, width),
            *([text(size_text(size), x + width / 2 + 5, end + 4, font_size=11)] if self._matters(size) else []),
        ]  # fmt: skip

    def _results(self, box: Box) -> list[str]:
        top, height = self.tops[box.index], self.heights[box.index]
        shown = box.results[:2] if len(box.results) > 3 else box.results
        sizes = [(size, "result") for size in shown]
        if len(shown) < len(box.results):
            rest = box.results[len(shown) :]
            sizes.append((sum(rest), f"{len(rest)} more results"))
        parts = []
        for place, (size, name) in enumerate(sizes):
            y, width = top + height * (place + 0.5) / len(sizes), self._stroke(size)
            parts += [
                arrow(f"M{_RIGHT:.1f} {y:.1f}H{_RESULT_X - 12:.1f}", NEEDED, width),
                head(_RESULT_X - 6, y, "right", NEEDED, width),
                text(name, _RESULT_X, y + 4),
                text(size_text(size), _RESULT_X - 16, y - width / 2 - 4, "end", font_size=11),
            ]
        return parts

    def _refusals(self, box: Box) -> list[str]:
        parts = []
        start = self.tops[box.index] + self.heights[box.index]
        y = start + 4
        for into, why in box.refused[:2]:
            for consumer in into:
                if consumer > box.index:
                    x = _DASH_X if consumer == box.index + 1 else _BOX_X - 64 - 7 * (len(self.crossing) % 4)
                    self.crossing += [consumer] if consumer > box.index + 1 else []
                    parts.append(self._dashed(start, self.tops[consumer], x, consumer == box.index + 1))
            for line in self._reason(why):
                y += LINE
                parts.append(text(line, _REASON_X, y, fill=REFUSED, font_size=11.5))
        return parts

    def _dashed(self, start: float, end: float, x: float, straight: bool) -> str:
        path = (
            f"M{x:.1f} {start:.1f}V{end:.1f}"
            if straight
            else (f"M{_BOX_X:.1f} {start - 8:.1f}H{x:.1f}V{end + 8:.1f}H{_BOX_X:.1f}")
        )
        return arrow(path, REFUSED, 1.6, stroke_dasharray="5 4")

    def _bars(self, y: float, total: str, compiled: Mapping[str, Any]) -> tuple[list[str], float]:
        """The minimum above what is moved, launch by launch, to one scale."""
        minimum, moved = compiled.get("minimum_bytes") or 0, compiled.get("bytes") or 0
        room, left = _RESULT_X - 70, 108.0
        scale = (room - left) / max(minimum, moved, 1)
        parts = [
            text("minimum", left - 8, y + 13, "end"),
            tag("rect", x=left, y=y, width=max(1.0, minimum * scale), height=17, rx=2, fill=NEEDED),
            text(size_text(minimum), left + minimum * scale + 8, y + 13),
            text("moved", left - 8, y + 39, "end"),
        ]
        x = left
        for box in self.boxes:
            wide = (box.read_bytes + box.write_bytes) * scale
            parts.append(tag("rect", x=x, y=y + 26, width=max(0.3, wide - 1.2), height=17, fill=GREY))
            if wide > 14 and box.count == 1:
                parts.append(text(box.label, x + wide / 2, y + 39, "middle", fill="#ffffff", font_size=11))
            x += wide
        parts.append(text(size_text(moved), x + 8, y + 39))
        parts.append(text(total, left, y + 64, font_weight=600))
        return parts, y + 76


def _legend(y: float) -> list[str]:
    parts, x = [], 8.0
    for colour, dash, words in (
        (NEEDED, None, "arguments and results"),
        (EXTRA, None, "through memory between launches, or read again"),
        (REFUSED, "5 4", "not fused, and the compiler's reason"),
    ):
        width = 1.6 if dash else 5.0
        parts.append(arrow(f"M{x:.1f} {y - 4:.1f}h24", colour, width, stroke_dasharray=dash))
        parts.append(text(words, x + 30, y, font_size=11))
        x += 52 + 5.7 * len(words)
    return parts


def _sum(rows: Sequence[Mapping[str, Any]], compiled: Mapping[str, Any]) -> str:
    ratio, runs = compiled.get("traffic_ratio"), executed(rows)
    often = "" if runs == len(rows) else f", {runs:,} executed"
    words = f"{count(len(rows), 'launch', 'launches')}{often}, {size_text(compiled.get('bytes') or 0)} moved"
    known = isinstance(ratio, int | float) and ratio == ratio
    return f"{words}: {ratio:.2f} times the minimum" if known else words
