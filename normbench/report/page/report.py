"""The report: one HTML file that holds everything it shows and loads nothing.

Words and plots are in the page; the tables are drawn by a small script from JSON in the page, a window at a time, and a
case's details are read only when it is opened, so that a run of thousands of cases opens at once.
"""

import os
import tempfile
from collections.abc import Iterable
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd

from normbench import __version__
from normbench.display.units import count, duration
from normbench.errors import UserError
from normbench.report.data.accuracy import TITLE, accuracy_table
from normbench.report.data.frames import Run
from normbench.report.data.summary import Digest, digest
from normbench.report.findings.findings import Finding, compile_cost, findings, status_counts
from normbench.report.findings.strongest import strongest
from normbench.report.page.atlas import atlas_html
from normbench.report.page.device_section import device_section
from normbench.report.page.embedded import case_table, details, to_script
from normbench.report.page.model_section import model_section
from normbench.report.page.packing import figure_places, fusion_pictures, packed
from normbench.report.plots.gallery import device_name, model_pictures, pictures

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def write_report(run: Run, path: Path | None = None) -> Path:
    """Writes the report of a run, by default to report.html in its folder, and returns where it lies.

    Raises:
      UserError: where the file cannot be written; an existing one is then left as it was.
    """
    path = Path(path) if path is not None else run.path / "report.html"
    write_page(path, render(run))
    return path


def render(run: Run) -> str:
    """The report as one string of HTML."""
    data = digest(run)
    told = strongest(data)
    plots, drawn = figure_places(pictures(data))
    model_plots, model_drawn = figure_places(model_pictures(data))
    body = [
        _header(run),
        _section("findings", "Findings", _findings(told)),
        _section("atlas", "Atlas", atlas_html(data)),
        _section("cost", "What it took", _cost(data)),
        _section("accuracy", "How far to trust the results", _accuracy(run)),
        _section("trust", "How far to trust the times", _trust(data)),
        _section("model", "How far to trust the predictions", model_section(run, model_plots)),
        _section("device", "Device-less against on-device", device_section(run)),
        _section("plots", "Plots", _plots(plots, data)),
        _section("cases", "Cases", _CASES),
        _section("environment", "Environment", _environment(run)),
    ]
    scripts = [
        _json("data", case_table(data, told)),
        packed("details", details(data)),
        packed("pictures", fusion_pictures(run)),
        packed("figures", {**drawn, **model_drawn}),
    ]
    return page(f"normbench report · {run.run_id}", body, scripts)


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
        *([f"<script>{_asset('report.js')}</script>"] if interactive else []),
    ]
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n' + "\n".join(parts) + "\n</body></html>\n"


_CASES = """
<form id="filters" role="search" aria-label="Filter cases"></form>
<p id="shown" role="status" aria-live="polite"></p>
<div class="scroll" tabindex="0" role="region" aria-label="Table of cases"><table id="table"></table></div>
<p><button type="button" id="more" hidden>Show more rows</button></p>
<noscript><p>The table of cases needs JavaScript; the same rows are in the Parquet files of the run.</p></noscript>
"""


def _header(run: Run) -> str:
    info = run.info
    facts = [
        ("preset", info.get("preset")),
        ("targets", ", ".join(run.targets)),
        ("started", info.get("created")),
        ("finished", info.get("finished")),
        ("command", info.get("command")),
    ]
    shown = "".join(f"<div><dt>{name}</dt><dd>{escape(_text(value))}</dd></div>" for name, value in facts if value)
    state = "" if run.complete else _UNFINISHED.format(status=escape(_text(info.get("status") or "unknown")))
    links = "".join(
        f'<a href="#{name}">{name}</a>'
        for name in (
            "findings",
            "atlas",
            "cost",
            "accuracy",
            "trust",
            "model",
            "device",
            "plots",
            "cases",
            "environment",
        )
    )
    return (
        f"<header><h1>normbench report</h1><p class=run>{escape(run.run_id)}</p><dl class=facts>{shown}</dl>{state}"
        f'<nav aria-label="Sections">{links}</nav></header>'
    )


_UNFINISHED = (
    '<p class="warning" role="note">This run is not finished (status: {status}). The report shows what it had written '
    "when it was read.</p>"
)


def _section(name: str, title: str, body: str) -> str:
    return f'<section id="{name}"><h2>{title}</h2>{body}</section>'


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


def _cost(data: Digest) -> str:
    rows = [
        [
            row.target,
            f"{row.cases:,}",
            *(_seconds(value) for value in (row.lower_s, row.compile_s, row.read_s, row.study_s)),
        ]
        for row in compile_cost(data.run).itertuples()
    ]
    text = "<p>No case was compiled.</p>"
    if rows:
        head = ["target", "cases compiled", "lowering", "compiling", "reading the program", "study's time per case"]
        text = f"<p>{_COST}</p>" + _table(head, rows)
    whole = data.run.info.get("cost") or {}
    if whole:
        text += f"<details><summary>As the study recorded it</summary>{_facts(_flat(whole))}</details>"
    return text + "<h3>Cases by target and status</h3>" + _counts(data.summary)


def _accuracy(run: Run) -> str:
    table = accuracy_table(run)
    if table.empty:
        return "<p>Nothing was checked: programs were only compiled.</p>"
    return f"<p>{escape(TITLE)}</p>" + _table(list(table), table.to_numpy().tolist())


def _trust(data: Digest) -> str:
    """Every sentence on noise, of which the findings above have the strongest alone."""
    told = findings(data, ("noise",))
    items = "".join(f"<li>{escape(finding.text)}</li>" for finding in told)
    return f"<ul>{items}</ul>" if told else "<p>Nothing was timed, or nothing speaks against its times.</p>"


_COST = (
    "Means per compiled case. The first three are timed in the process that compiled it; the study's time per case "
    "also has the start of the processes in it, and counts processes that ran side by side once."
)


def _seconds(value: float) -> str:
    return "" if pd.isna(value) else duration(value)


def _counts(summary: pd.DataFrame) -> str:
    counts = status_counts(summary)
    if counts.empty:
        return "<p>The run has no cases.</p>"
    head = ["target", *[str(status).replace("_", " ") for status in counts.columns]]
    rows = [[str(target), *[f"{number:,}" for number in row]] for target, row in counts.iterrows()]
    return _table(head, rows)


def _plots(places: str, data: Digest) -> str:
    timed = sorted({str(device) for device in data.run.timings.loc[data.run.timings["seconds"].notna(), "device"]})
    where = f"Measured on {', '.join(device_name(data.run, device) for device in timed)}." if timed else _NOT_TIMED
    return f"<p>{escape(where)}</p>{places or '<p>Nothing to draw.</p>'}"


_NOT_TIMED = "This run holds no times: nothing was measured, programs were only compiled."


def _environment(run: Run) -> str:
    environment = run.info.get("environment") or {}
    config = run.info.get("config") or {}
    text = _facts(_flat(environment)) if environment else "<p>The run has no environment record.</p>"
    if config:
        text += f"<details><summary>Configuration of the study</summary>{_facts(_flat(config))}</details>"
    return text


def _facts(pairs: Iterable[tuple[str, str]]) -> str:
    rows = "".join(f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in pairs)
    return f'<div class="scroll"><table class="facts">{rows}</table></div>'


def _table(head: list[str], rows: list[list[str]]) -> str:
    top = _cells(head, "th")
    body = "".join(f"<tr>{_cells(row, 'td')}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _cells(row: list[str], tag: str) -> str:
    first, *rest = (escape(cell) for cell in row)
    return f"<{tag}>{first}</{tag}>" + "".join(f'<{tag} class="number">{cell}</{tag}>' for cell in rest)


def _flat(value: Any, name: str = "") -> list[tuple[str, str]]:
    """Nested objects as (dotted name, text) pairs."""
    if isinstance(value, dict) and value:
        return [pair for key, inner in value.items() for pair in _flat(inner, f"{name}.{key}" if name else str(key))]
    return [(name, _text(value))]


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(_text(item) for item in value)
    return "" if value is None else str(value)


def _json(name: str, value: Any) -> str:
    return f'<script type="application/json" id="{name}">{to_script(value)}</script>'


def _asset(name: str) -> str:
    return (files("normbench.report.page") / "assets" / name).read_text(encoding="utf-8")


def write_page(path: Path, text: str) -> None:
    """Writes a whole file or, where that fails, nothing.

    Raises:
      UserError: where it cannot be written.
    """
    temporary = None
    try:
        descriptor, temporary = tempfile.mkstemp(".tmp", f".{path.name}.", path.parent)
        with open(descriptor, "w", encoding="utf-8", errors="replace") as stream:
            stream.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)
        raise UserError(f"report {str(path)!r} cannot be written: {error.strerror or error}") from error
