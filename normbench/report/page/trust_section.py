"""The sections on what a run took and where, and on how far its results and times can be trusted."""

from html import escape
from typing import Any

import pandas as pd

from normbench.display.units import count, duration, listing
from normbench.report.data.accuracy import TITLE, accuracy_table
from normbench.report.data.frames import Run
from normbench.report.data.summary import Digest
from normbench.report.findings.findings import compile_cost, findings, status_counts
from normbench.report.page.markup import details, facts, listed, paragraphs, table


def accuracy_section(run: Run) -> str:
    """How many results were checked, how many were wrong; the table of errors and bounds below."""
    shown = accuracy_table(run)
    if shown.empty:
        return "<p>Nothing was checked: programs were only compiled.</p>"
    known = run.accuracy[run.accuracy["max_rel"].notna() | (run.accuracy["status"] == "wrong")]
    wrong = known[known["status"] == "wrong"]
    where = listing(sorted(map(str, known["device"].dropna().unique())))
    text = f"{count(known['case'].nunique(), 'case')} checked against the float64 reference on {where}"
    told = f"{text}: {count(wrong['case'].nunique(), 'case')} wrong." if len(wrong) else f"{text}: all within bounds."
    rows = [[str(cell) for cell in row] for row in shown.to_numpy().tolist()]
    markup = f"<p>{escape(TITLE)}</p>" + table(list(shown), rows, words=4, label="Errors and bounds")
    return paragraphs([told]) + details("Errors and bounds by dtype and variant", markup)


def noise_section(data: Digest) -> str:
    """Every sentence on noise, of which the findings have the strongest alone."""
    told = [finding.text for finding in findings(data, ("noise",))]
    return listed(told) or "<p>Nothing was timed, or nothing speaks against its times.</p>"


_COST = (
    "Means per compiled case. The first three are timed in the process that compiled it; the study's time per case "
    "also has the start of the processes in it, and counts processes that ran side by side once."
)


def cost_section(data: Digest) -> str:
    rows = [
        [
            str(row.target),
            f"{row.cases:,}",
            *(_seconds(value) for value in (row.lower_s, row.compile_s, row.read_s, row.study_s)),
        ]
        for row in compile_cost(data.run).itertuples()
    ]
    text = "<p>No case was compiled.</p>"
    if rows:
        head = ["target", "cases compiled", "lowering", "compiling", "reading the program", "study's time per case"]
        text = f"<p>{_COST}</p>" + table(head, rows, words=1, label="Cost of compiling")
    whole = data.run.info.get("cost") or {}
    if whole:
        text += details("As the study recorded it", facts(_flat(whole), "Cost of the study"))
    return text + "<h3>Cases by target and status</h3>" + _counts(data.summary)


def environment_section(run: Run) -> str:
    environment = run.info.get("environment") or {}
    config = run.info.get("config") or {}
    command = run.info.get("command")
    text = f"<p>Made by</p><pre>{escape(str(command))}</pre>" if command else ""
    if environment:
        text += details("Machine and versions", facts(_flat(environment), "Machine and versions"))
    else:
        text += "<p>The run has no environment record.</p>"
    return text + (details("Configuration of the study", facts(_flat(config), "Configuration")) if config else "")


def _seconds(value: float) -> str:
    return "" if pd.isna(value) else duration(value)


def _counts(summary: pd.DataFrame) -> str:
    counts = status_counts(summary)
    if counts.empty:
        return "<p>The run has no cases.</p>"
    head = ["target", *[str(status).replace("_", " ") for status in counts.columns]]
    rows = [[str(target), *[f"{number:,}" for number in row]] for target, row in counts.iterrows()]
    return table(head, rows, words=1, label="Cases by status")


def _flat(value: Any, name: str = "") -> list[tuple[str, str]]:
    """Nested objects as (dotted name, text) pairs."""
    if isinstance(value, dict) and value:
        return [pair for key, inner in value.items() for pair in _flat(inner, f"{name}.{key}" if name else str(key))]
    return [(name, as_text(value))]


def as_text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(as_text(item) for item in value)
    return "" if value is None else str(value)
