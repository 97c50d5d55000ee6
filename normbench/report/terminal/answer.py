"""The end of a study on one screen: which variant to use, how sure that is, what failed, what to do next."""

import shlex
import textwrap
from collections.abc import Sequence

import pandas as pd

from normbench.display.units import count, listing, printable, relative
from normbench.report.data.frames import Run
from normbench.report.data.recommendation import BY_PASS, MEASURED, PREDICTED, TRAFFIC, Recommendation, recommendations
from normbench.report.data.summary import NOT_RUN, Digest, clock_and_cache, digest
from normbench.report.page.reproduce import explain_command
from normbench.schema import DEVICELESS_TARGETS

MAX_LINES = 40
"""With the path of the report, which the command prints below."""
BY_PROBLEM = ("operator", "pass", "context", "shape", "layout", "dtype", "param_dtype", "options")
FEW = 8
"""Up to so many problems, each is answered for itself."""
_MIN_WIDTH, _MAX_WIDTH = 60, 160
_TROUBLES = ("ok", "unsupported", "impossible", NOT_RUN)


def terminal_answer(run: Run, width: int) -> str:
    """The answer as text of at most `width` columns (60 to 160), in fewer than `MAX_LINES` lines."""
    width = min(max(width, _MIN_WIDTH), _MAX_WIDTH)
    data = digest(run)
    if data.summary.empty:
        return f"run {run.run_id}: no cases\n"
    told = recommendations(data, grouping(run))
    below = [*_wrapped(_basis_lines(told, data), width), *_wrapped([*_failures(data), *_next(data, told)], width)]
    problems = count(data.summary["problem"].nunique(), "problem")
    head = textwrap.wrap(f"Which variant to use ({count(len(run.cases), 'case')} of {problems})", width)
    room = MAX_LINES - len(head) - len(below) - 3
    return "\n".join([*head, *_table(told, width, room), "", *below]) + "\n"


def grouping(run: Run) -> tuple[str, ...]:
    """Each problem by itself where there are few of them, else by operator and pass."""
    return BY_PROBLEM if run.cases["problem"].nunique() <= FEW else BY_PASS


def group_name(one: Recommendation) -> str:
    """batch norm, forward; and of a single problem its context, shape, layout, dtypes and options."""
    operator, pass_, *rest = one.group
    words = [operator.replace("_", " "), pass_.replace("_", " and ")]
    if rest:
        context, shape, layout, dtype, param_dtype, options = rest
        words += [f"{shape} {layout}", dtype if dtype == param_dtype else f"{dtype} ({param_dtype} parameters)"]
        words += [word for word in (context, options) if word not in ("alone", "", "<NA>", "nan")]
    return ", ".join(words)


def answer_cells(group: Sequence[Recommendation]) -> list[tuple[tuple[str, ...], str]]:
    """For one group: the targets that share an answer, and the answer, e.g. "bytes pallas_triton 0.5-0.6 ~"."""
    same: dict[tuple[str, str], list[Recommendation]] = {}
    for one in group:
        same.setdefault((one.basis, one.variant), []).append(one)
    return [(tuple(one.target for one in mine), f"{SHORT[basis]} {_answer(mine)}") for (basis, _), mine in same.items()]


SHORT = {MEASURED: "measured", PREDICTED: "predicted", TRAFFIC: "bytes"}


def _answer(mine: Sequence[Recommendation]) -> str:
    variant, tie = mine[0].variant, " ~" if any(one.alike for one in mine) else ""
    if variant == mine[0].baseline:
        return f"{variant}{tie}"
    low, high = (relative(bound([one.chosen.ratio for one in mine])) for bound in (min, max))
    return f"{variant} {low}{f'-{high}' if low != high else ''}{tie}"


def _table(told: list[Recommendation], width: int, room: int) -> list[str]:
    groups: dict[tuple[str, ...], list[Recommendation]] = {}
    for one in told:
        groups.setdefault(one.group, []).append(one)
    if not groups:
        return textwrap.wrap("No two variants of a problem were compiled or timed: there is nothing to choose.", width)
    names = [group_name(mine[0]) for mine in groups.values()]
    indent = min(max(map(len, names)) + 2, width // 2)
    lines: list[str] = []
    for number, (name, mine) in enumerate(zip(names, groups.values(), strict=True)):
        cells = [f"{' '.join(targets)}: {text}" for targets, text in answer_cells(mine)]
        row = _row(name, cells, indent, width)
        if len(lines) + len(row) > room - 1 and number < len(names) - 1:
            return [*lines, f"... and {count(len(names) - number, 'row')} more: see the report, or --full"]
        lines += row
    return lines


def _row(name: str, cells: list[str], indent: int, width: int) -> list[str]:
    """The name, and its answers beside it, each whole on a line where it fits."""
    wide = width - indent
    parts, line = [], ""
    for cell in cells:
        if line and len(line) + 3 + len(cell) > wide:
            parts.append(line)
            line = ""
        line = f"{line} | {cell}" if line else cell
    parts.append(line)
    right = [text for part in parts for text in textwrap.wrap(part, wide)]
    left = textwrap.wrap(name, indent - 2)
    height = max(len(left), len(right))
    left, right = ([*side, *[""] * (height - len(side))] for side in (left, right))
    return [f"{a.ljust(indent)}{b}".rstrip() for a, b in zip(left, right, strict=True)]


def _basis_lines(told: list[Recommendation], data: Digest) -> list[str]:
    """What the figures are, by basis: over the baseline's, on which targets, and how far they can be trusted."""
    if not told:
        return []
    baselines = listing(list(dict.fromkeys(one.baseline for one in told)))
    lines = [
        f"Figures: over the baseline's ({baselines}; it stands where nothing is better for certain), geometric mean "
        "over the problems; below 1 is better. ~: others are as good, within the noise or the model's error."
    ]
    for basis, say in ((MEASURED, _measured), (PREDICTED, _predicted), (TRAFFIC, _traffic)):
        mine = [one for one in told if one.basis == basis]
        if mine:
            lines.append(f"{' '.join(dict.fromkeys(one.target for one in mine))}: {say(mine)}")
    return [*lines, *_passed_over(told)]


def _measured(mine: list[Recommendation]) -> str:
    clock, cache = clock_and_cache(mine[0].series)
    floor = mine[0].floor
    noise = f"the same program timed twice differs by up to {100 * floor:.1f} %" if floor is not None else _UNTRIED
    return f"{MEASURED} ({clock.replace('_', ' ')} clock, {cache} cache); {noise}."


_UNTRIED = "what a program differs from itself by was not tried"


def _predicted(mine: list[Recommendation]) -> str:
    widths = [one.chosen.high / one.chosen.low for one in mine if one.chosen.low > 0]
    off = f"; the model's known error leaves a factor of up to {max(widths):.1f} between low and high" if widths else ""
    return f"{PREDICTED} (from the compiled code, never measured here){off}."


def _traffic(mine: list[Recommendation]) -> str:
    return f"{TRAFFIC} alone (compiled, not timed, and the run holds no prediction): fewer bytes are not always faster."


def _passed_over(told: list[Recommendation]) -> list[str]:
    """Variants that look better and were not recommended, once per reason."""
    found: dict[str, dict[str, None]] = {}
    for one in told:
        for each in one.passed_over:
            found.setdefault(each.reason, {})[each.variant] = None
    return [f"Not recommended though lower: {listing(list(names))} ({reason})." for reason, names in found.items()]


def _failures(data: Digest) -> list[str]:
    rows = data.summary[~data.summary["status"].isin(_TROUBLES)]
    lines = []
    for (status, target), mine in rows.groupby(["status", "target"], sort=False):
        reason = next((printable(text) for text in mine["reason"].dropna()), "")
        reason = f": {textwrap.shorten(reason, 160, placeholder=' ...')}" if reason else ""
        variants = listing(list(dict.fromkeys(mine["variant"])))
        what = f"{count(len(mine), 'case')} {str(status).replace('_', ' ')} ({variants})"
        lines.append(f"FAILED on {target}: {what}{reason}")
    if len(lines) > 4:
        lines = [*lines[:4], f"... and {len(lines) - 4} more kinds of failure: see the report"]
    not_run = int((data.summary["status"] == NOT_RUN).sum())
    if not_run or not data.run.complete:
        lines.append(f"The run is not finished ({data.run.info.get('status') or 'unfinished'}): {not_run} not run yet.")
    refused = data.summary[data.summary["status"] == "unsupported"].groupby("target", sort=False).size()
    if len(refused):
        words = [f"{number} on {target}" for target, number in refused.items()]
        lines.append(f"Not supported: {listing(words)} (why: normbench list, or --full).")
    return lines or ["Nothing failed."]


def _next(data: Digest, told: list[Recommendation]) -> list[str]:
    steps = []
    if not data.run.complete:
        steps.append(f"finish it: normbench study --resume {shlex.quote(str(data.run.path.resolve()))}")
    floors = {one.floor for one in told if one.floor is not None}
    if floors and max(floors) > _LOUD:
        steps.append("the machine was not quiet: stop what else runs (normbench doctor), and repeat with --processes 5")
    if told and not any(one.basis == MEASURED and one.target == "gpu" for one in told):
        steps.append("measure on a GPU: normbench gpu")
    worst = _worst(data)
    if worst:
        steps.append(f"see why bytes are moved twice: {worst}")
    return [f"Next: {step}" for step in steps]


_LOUD = 0.05


def _worst(data: Digest) -> str:
    """The command that explains the baseline which moves the most over its minimum."""
    rows = data.summary[data.summary["baseline"].fillna(False).astype(bool) & data.summary["traffic_ratio"].notna()]
    if rows.empty or rows["traffic_ratio"].max() < 1.05:
        return ""
    compiled = rows[rows["target"].isin(DEVICELESS_TARGETS)]
    rows = compiled if len(compiled) else rows
    row = rows.loc[rows["traffic_ratio"].idxmax()]
    plain = {name: None if pd.isna(value) else value for name, value in row.items()}
    return f"{explain_command(plain)} --target {row['target']}"


def _wrapped(sentences: list[str], width: int) -> list[str]:
    return [
        line
        for text in sentences
        for line in textwrap.wrap(text, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    ]
