"""A report as text for a terminal and as HTML for a notebook."""

import html
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from normbench.explanation.explain import Report
    from normbench.fusion.ptx import Kernel

_COLUMNS = ("#", "launch", "kind", "read MB", "write MB", "grid x block", "ld/st B", "from")
_SOURCE_WIDTH = 44
_BOUNDS = "bound by (predicted, not measured)"


def text_report(report: "Report") -> str:
    """The launches as a table, the sum, the hints and the refusals; 80 to 140 columns wide."""
    rows = [_COLUMNS, *_rows(report)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    lines = [_title(report), ""]
    lines += ["  ".join(_aligned(cell, widths[i], i) for i, cell in enumerate(row)).rstrip() for row in rows]
    lines += ["", _sum(report)]
    for heading, sentences in ((_BOUNDS, report.bounds), ("hints", report.hints), ("not fused", report.refusals)):
        if sentences:
            lines += ["", f"{heading}:", *(f"  - {sentence}" for sentence in sentences)]
    return "\n".join(lines)


def html_report(report: "Report") -> str:
    """The same as HTML with the picture above it, in the colours of the page."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in _COLUMNS)
    body = "".join(f"<tr>{''.join(_cell(i, text) for i, text in enumerate(row))}</tr>" for row in _rows(report))
    parts = [
        report.picture.inline(),
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>",
        f"<p>{html.escape(_sum(report))}</p>",
    ]
    for heading, sentences in ((_BOUNDS, report.bounds), ("Hints", report.hints), ("Not fused", report.refusals)):
        if sentences:
            items = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in sentences)
            parts.append(f"<p>{heading}</p><ul>{items}</ul>")
    return "".join(parts)


def _title(report: "Report") -> str:
    return f"{report.name} on {report.target}"


def _rows(report: "Report") -> list[tuple[str, ...]]:
    reading = report.compilation.reading
    return [
        (
            str(launch.index),
            launch.name,
            launch.kind,
            _megabytes(launch.read_bytes),
            _megabytes(launch.write_bytes),
            f"{kernel.grid} x {kernel.block}" if kernel.grid else "",
            _widths(kernel),
            _shortened(", ".join(launch.source_ops)),
        )
        for launch, kernel in zip(reading.launches, reading.kernels, strict=True)
    ]


def _widths(kernel: "Kernel") -> str:
    if kernel.load_bytes is None and kernel.store_bytes is None:
        return ""
    return f"{kernel.load_bytes or '-'}/{kernel.store_bytes or '-'}"


def _cell(column: int, text: str) -> str:
    return f"<td style='text-align:{_side(column)}'>{html.escape(text)}</td>"


def _sum(report: "Report") -> str:
    count = len(report.compilation.reading.launches)
    ratio = "no minimum" if report.traffic_ratio is None else f"traffic ratio {report.traffic_ratio:.2f}"
    parts = [
        f"{count} launch{'' if count == 1 else 'es'}, {_megabytes(report.bytes)} MB; "
        f"minimum {_megabytes(report.minimum_bytes)} MB: {ratio}"
    ]
    streaming = report.streaming_minimum_bytes
    if streaming is not None and streaming != report.minimum_bytes:
        parts.append(f"streaming minimum {_megabytes(streaming)} MB")
    if report.declared_bytes is not None:
        parts.append(f"declared by the kernels {_megabytes(report.declared_bytes)} MB")
    if report.predicted_s is not None:
        parts.append(predicted_text(report.predicted_s, report.predicted_range_s))
    return "; ".join(parts)


def predicted_text(seconds: float, low_and_high_s: tuple[float, float] | None) -> str:
    """A prediction in words, with its range; nothing that could be taken for a measurement."""
    low, high = low_and_high_s or (seconds, seconds)
    return f"predicted (not measured) {seconds * 1e6:.1f} us, between {low * 1e6:.1f} and {high * 1e6:.1f}"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.3f}" if size < 1e6 else f"{size / 1e6:.1f}"


def _shortened(text: str) -> str:
    return text if len(text) <= _SOURCE_WIDTH else f"{text[: _SOURCE_WIDTH - 1]}…"


def _side(column: int) -> str:
    return "right" if column in (0, 3, 4) else "left"


def _aligned(cell: str, width: int, column: int) -> str:
    return cell.rjust(width) if _side(column) == "right" else cell.ljust(width)
