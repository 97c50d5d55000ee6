"""The report: one HTML file that holds everything it shows and loads nothing.

Words and plots are in the page; the tables are drawn by a small script from JSON in the page, a window at a time, and a
case's details are read only when it is opened, so that a run of thousands of cases opens at once.
"""

import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from normbench import __version__
from normbench.display.units import count
from normbench.errors import UserError
from normbench.report.data.choice import grouping
from normbench.report.data.frames import Run
from normbench.report.data.recommendation import recommendations
from normbench.report.data.summary import Digest, digest
from normbench.report.findings.findings import Finding
from normbench.report.findings.strongest import strongest
from normbench.report.page.answer_section import answer_section
from normbench.report.page.atlas import atlas_data, atlas_section
from normbench.report.page.device_section import device_section
from normbench.report.page.embedded import case_table, details, to_script
from normbench.report.page.markup import section
from normbench.report.page.model_section import model_section
from normbench.report.page.packing import figure_chooser, figure_places, fusion_pictures, packed
from normbench.report.page.trust_section import (
    accuracy_section,
    as_text,
    cost_section,
    environment_section,
    noise_section,
)
from normbench.report.plots.gallery import device_name, model_pictures, pictures

_SCRIPTS = ("report.js", "atlas.js")
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def write_report(run: Run, path: Path | None = None) -> Path:
    """Writes the report of a run, by default to report.html in its folder, and returns where it lies.

    Raises:
      UserError: where the file cannot be written; an existing one is then left as it was.
    """
    path = Path(path) if path is not None else run.path / "report.html"
    write_page(path, lambda: render(run))
    return path


def render(run: Run) -> str:
    """The report as one string of HTML."""
    data = digest(run)
    recommended = recommendations(data, grouping(run)) if len(data.summary) else []
    told = strongest(data)
    chosen, drawn = figure_chooser(pictures(data))
    model_plots, model_drawn = figure_places(model_pictures(data))
    atlas = atlas_data(data)
    bodies = {
        "answer": answer_section(data, recommended),
        "findings": _findings(told),
        "atlas": atlas_section(atlas),
        "plots": _plots(chosen, data),
        "cases": _CASES,
        "accuracy": accuracy_section(run),
        "trust": noise_section(data),
        "model": model_section(run, model_plots),
        "device": device_section(run),
        "cost": cost_section(data),
        "environment": environment_section(run),
    }
    body = [_header(run), "<main>", *(section(name, _TITLES[name], text) for name, text in bodies.items()), "</main>"]
    scripts = [
        _json("data", case_table(data, told)),
        _json("atlas-data", atlas),
        packed("details", details(data)),
        packed("pictures", fusion_pictures(run)),
        packed("figures", {**drawn, **model_drawn}),
    ]
    return page(f"normbench report · {run.run_id}", body, scripts)


_TITLES = {
    "answer": "Which variant to use",
    "findings": "Findings",
    "atlas": "Atlas",
    "plots": "Plots",
    "cases": "Cases",
    "accuracy": "How far to trust the results",
    "trust": "How far to trust the times",
    "model": "How far to trust the predictions",
    "device": "Device-less against on-device",
    "cost": "What it took",
    "environment": "Where it ran",
}
"""Sections by name, in the order of the page."""


def page(title: str, body: list[str], scripts: list[str], interactive: bool = True) -> str:
    """One self-contained page, which may load nothing; `interactive` where `scripts` hold a table for report.js."""
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>{escape(title)}</title><style>{_asset('report.css')}</style>"
    )
    parts = [
        *body,
        '<dialog id="case" aria-labelledby="case-title"></dialog>',
        f"<footer>Written by normbench {escape(__version__)}. This file loads nothing from the network.</footer>",
        *scripts,
        *(f"<script>{_asset(name)}</script>" for name in (_SCRIPTS if interactive else ())),
    ]
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n' + "\n".join(parts) + "\n</body></html>\n"


_CASES = """
<form id="filters" role="search" aria-label="Filter cases"></form>
<p id="shown" role="status" aria-live="polite"></p>
<div class="scroll" tabindex="0" role="group" aria-label="Table of cases"><table id="table"></table></div>
<p><button type="button" id="more" hidden>Show more rows</button></p>
<noscript><p>The table of cases needs JavaScript; the same rows are in the Parquet files of the run.</p></noscript>
"""


def _header(run: Run) -> str:
    info = run.info
    facts = [
        ("run", run.run_id),
        ("preset", info.get("preset")),
        ("targets", ", ".join(run.targets)),
        ("started", _minute(info.get("created"))),
        ("finished", _minute(info.get("finished"))),
    ]
    shown = "".join(f"<div><dt>{name}</dt><dd>{escape(as_text(value))}</dd></div>" for name, value in facts if value)
    state = "" if run.complete else _UNFINISHED.format(status=escape(as_text(info.get("status") or "unknown")))
    links = "".join(f'<a href="#{name}">{name}</a>' for name in _TITLES)
    return (
        f"<header><h1>normbench report</h1><dl class=facts>{shown}</dl>{state}"
        f'<nav aria-label="Sections">{links}</nav></header>'
    )


def _minute(moment: Any) -> str:
    """2026-11-21 18:58 UTC; as it stands where it is none."""
    try:
        return datetime.fromisoformat(moment).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (TypeError, ValueError):
        return as_text(moment)


_UNFINISHED = (
    '<p class="warning" role="note">This run is not finished (status: {status}). The report shows what it had written '
    "when it was read.</p>"
)


def _findings(told: list[Finding]) -> str:
    if not told:
        return "<p>No row of this run bears a finding.</p>"
    items = []
    for number, finding in enumerate(told):
        rows = count(len(finding.rows), "row")
        button = f'<button type="button" class="rows" data-finding="{number}">{rows}</button>'
        items.append(f'<li><span class="kind">{_KINDS[finding.kind]}</span> {escape(finding.text)} {button}</li>')
    return f'<ul class="findings">{"".join(items)}</ul>'


_KINDS = {
    "status": "What ran",
    "launches": "Launches",
    "traffic": "Memory traffic",
    "speed": "Speed",
    "fold": "Work done ahead",
    "error": "Numerical error",
    "noise": "Noise",
    "cost": "Cost",
}


def _plots(chosen: str, data: Digest) -> str:
    timed = sorted({str(device) for device in data.run.timings.loc[data.run.timings["seconds"].notna(), "device"]})
    where = f"Measured on {', '.join(device_name(data.run, device) for device in timed)}." if timed else _NOT_TIMED
    return f"<p>{escape(where)}</p>{chosen or '<p>Nothing to draw.</p>'}"


_NOT_TIMED = "This run holds no times: nothing was measured, programs were only compiled."


def _json(name: str, value: Any) -> str:
    return f'<script type="application/json" id="{name}">{to_script(value)}</script>'


def _asset(name: str) -> str:
    return (files("normbench.report.page") / "assets" / name).read_text(encoding="utf-8")


def write_page(path: Path, rendered: Callable[[], str]) -> None:
    """Writes a whole file or, where that fails, nothing; what can be known to fail does so before it is rendered.

    Raises:
      UserError: where it cannot be written.
    """
    with _named(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    text = rendered()
    with _named(path):
        _replace(path, text)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"report {str(path)!r} cannot be written: {error.strerror or error}") from error


def _replace(path: Path, text: str) -> None:
    descriptor, temporary = tempfile.mkstemp(".tmp", f".{path.name}.", path.parent)
    try:
        with open(descriptor, "w", encoding="utf-8", errors="replace") as stream:
            stream.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise
