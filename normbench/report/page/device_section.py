"""The section of the report on the GPU's programs as compiled without it and on it."""

from html import escape

from normbench.report.data.frames import Run
from normbench.report.model.device_target import (
    DEVICE,
    GROUP_WORDS,
    GROUPS,
    OWN,
    compared,
    described,
    device_target_lines,
    gpu_name,
    grouped_differences,
    words,
)
from normbench.report.page.markup import details, listed, paragraphs, table

_INTRODUCTION = (
    "The compile-only study knows {name} by a description alone. Held against each other here: the programs compiled "
    "for a packaged description, for the one that XLA gave of this very GPU, and on the GPU itself, where the compiler "
    "may also try out algorithms."
)


def device_section(run: Run) -> str:
    """The section's HTML; one sentence where there is nothing to compare."""
    lines = device_target_lines(run)
    if run.tables["described"].empty:
        return paragraphs(lines)
    text = paragraphs([_INTRODUCTION.format(name=gpu_name(run))]) + listed(lines) + _counts(run)
    changes = grouped_differences(run)
    if len(changes):
        text += "<h3>What differs</h3>" + _changes(run)
    failed = [
        f"{case} ({words(config)}): {row['status']}: {row['reason']}"
        for config, rows in described(run).items()
        for case, row in rows.items()
        if row["status"] != "ok"
    ]
    return text + (details(f"Not compiled ({len(failed)})", listed(failed)) if failed else "")


def _counts(run: Run) -> str:
    head = ["before", "after", "programs", "differ", *(GROUP_WORDS[name] for name in GROUPS)]
    rows = []
    for row in compared(run).to_dict("records"):
        numbers = (row[name] for name in ("cases", "changed", *GROUPS))
        rows.append([words(row["before"]), words(row["after"]), *(f"{number:,}" for number in numbers)])
    return table(head, rows, words=2, label="Programs that differ")


def _changes(run: Run) -> str:
    """A list per pair of compilations: the same change of several cases once, with their number and one of them."""
    changes = grouped_differences(run)
    text = ""
    for (before, after), rows in changes.groupby(["before", "after"], sort=False):
        title = f"{words(str(before))} → {words(str(after))}: {int(rows['cases'].sum()):,} programs"
        items = []
        for row in rows.to_dict("records"):
            what = f"{row['operator']} {str(row['pass']).replace('_', ' and ')}"
            number = "" if row["cases"] == 1 else f" ({row['cases']} cases)"
            items.append(
                f"<li>{escape(what)}{number}: {escape(row['change'])}, as in <code>{escape(row['example'])}</code></li>"
            )
        text += details(title, f"<ul>{''.join(items)}</ul>", opened=after == DEVICE or before == OWN)
    return text
