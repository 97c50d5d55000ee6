"""Two runs side by side as one HTML file: what became slower or faster, and what changed in programs and errors."""

from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

from normbench.display.units import count
from normbench.report.compare.runs import Comparison, compare
from normbench.report.compare.verdict import REASONS, VERDICTS
from normbench.report.data.frames import Run
from normbench.report.page.embedded import to_script
from normbench.report.page.markup import section, table
from normbench.report.page.report import page, write_page

_COLUMNS = (
    ("verdict", "verdict", "choice", 1.0),
    ("case", "case", "text", 1.0),
    ("device", "device", "choice", 1.0),
    ("clock", "clock", "choice", 1.0),
    ("cache", "cache", "choice", 1.0),
    ("median_a_s", "A µs", "number", 1e6),
    ("median_b_s", "B µs", "number", 1e6),
    ("change", "change %", "number", 100.0),
    ("low", "from %", "number", 100.0),
    ("high", "to %", "number", 100.0),
    ("reason", "reason", "text", 1.0),
)
"""Column of a row of times, heading, kind, factor."""

_TABLE = """
<form id="filters" role="search" aria-label="Filter series"></form>
<p id="shown" role="status" aria-live="polite"></p>
<div class="scroll" tabindex="0" role="group" aria-label="Table of series"><table id="table"></table></div>
<p><button type="button" id="more" hidden>Show more rows</button></p>
"""


def write_comparison(a: Run, b: Run, path: Path) -> Path:
    """Writes what run B changes against run A, the earlier one, to `path`, and returns it.

    Raises:
      UserError: where the file cannot be written; an existing one is then left as it was.
    """
    write_page(Path(path), lambda: render(compare(a, b)))
    return Path(path)


def render(found: Comparison) -> str:
    """The comparison as one string of HTML."""
    document = found.document()
    times = document["times"]
    sections = {
        "summary": ("Summary", _summary(found, document)),
        "times": ("Times", _TABLE if times else "<p>No series was timed in both runs.</p>"),
        "programs": ("Programs that changed", _rows(("case", "target", "changes"), document["fusion"])),
        "errors": ("Errors that changed", _rows(("case", "device", "change"), document["errors"])),
        "environment": ("What else differs", _environment(document["environment"])),
    }
    links = "".join(f'<a href="#{name}">{title.lower()}</a>' for name, (title, _) in sections.items())
    header = (
        f"<header><h1>normbench comparison</h1><p class=run>A {escape(found.a)}<br>B {escape(found.b)}</p>"
        f'<nav aria-label="Sections">{links}</nav></header>'
    )
    body = [header, *(section(name, title, text) for name, (title, text) in sections.items())]
    scripts = [f'<script type="application/json" id="data">{to_script(_data(times))}</script>'] if times else []
    return page(f"normbench comparison · {found.a} · {found.b}", body, scripts, interactive=bool(times))


def _data(times: list[dict[str, Any]]) -> dict[str, Any]:
    order = {verdict: place for place, verdict in enumerate(("SLOWER", "FASTER", "AMBIGUOUS", "SAME"))}
    rows = sorted(times, key=lambda row: (order.get(row["verdict"], 9), -abs(row.get("change") or 0.0)))
    rows = [{**row, "reason": REASONS.get(str(row.get("reason")), row.get("reason"))} for row in rows]
    return {
        "columns": [
            {"name": name, "label": label, "kind": kind, "values": [_scaled(row.get(name), factor) for row in rows]}
            for name, label, kind, factor in _COLUMNS
        ],
        "cases": [row["case"] for row in rows],
        "problems": [row["case"] for row in rows],
        "findings": [],
        "texts": [],
    }


def _scaled(value: Any, factor: float) -> Any:
    return float(f"{value * factor:.6g}") if isinstance(value, int | float) and factor != 1.0 else value


def _summary(found: Comparison, document: dict[str, Any]) -> str:
    words = ", ".join(f"{document['counts'][verdict.lower()]} {verdict}" for verdict in VERDICTS)
    items = [
        f"{count(len(document['times']), 'series', 'series')} timed in both: {words}, at a threshold of "
        f"{100 * found.threshold:g} %.",
        f"{count(len(document['fusion']), 'program')} and {count(len(document['errors']), 'error')} changed.",
    ]
    for side, cases in (("A", found.only_a), ("B", found.only_b)):
        if cases:
            items.append(f"{count(len(cases), 'case')} only in {side}.")
    return f"<ul>{''.join(f'<li>{escape(item)}</li>' for item in items)}</ul>"


def _rows(names: tuple[str, ...], rows: Iterable[dict[str, Any]]) -> str:
    lines = [[_words(row.get(name)) for name in names] for row in rows]
    return table(names, lines, words=len(names), label="Changes") if lines else "<p>None.</p>"


def _environment(rows: Iterable[Any]) -> str:
    lines = [[_words(cell) for cell in row] for row in rows]
    return table(("", "A", "B"), lines, words=3, label="What differs") if lines else "<p>Nothing that was recorded.</p>"


def _words(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "; ".join(map(_words, value))
    return "" if value is None else str(value)
