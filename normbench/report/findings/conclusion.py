"""What stands below a recommendation: what its figures are, how far to trust them, what failed, what to do next."""

import textwrap
from collections.abc import Sequence

import pandas as pd

from normbench.display.units import count, listing, printable
from normbench.own_targets import DEVICES
from normbench.report.data.recommendation import MEASURED, PREDICTED, TRAFFIC, Recommendation
from normbench.report.data.summary import NOT_RUN, Digest, clock_and_cache
from normbench.report.page.reproduce import explain_command
from normbench.run_folder.resume import resume_command
from normbench.schema import TPU_TARGETS

_TROUBLES = ("ok", "unsupported", "impossible", NOT_RUN)
_LOUD = 0.05
_MOST_FAILURES = 4


def basis_lines(told: Sequence[Recommendation]) -> list[str]:
    """What the figures are, by basis: over the baseline's, on which targets, and how far they can be trusted."""
    if not told:
        return []
    baselines = listing(list(dict.fromkeys(one.baseline for one in told)))
    both = "; both: forward and backward" if any(one.group[1] == "forward_backward" for one in told) else ""
    lines = [
        f"Figures: time or bytes ÷ the baseline's ({baselines}), geometric mean over the problems; ~: not told apart, "
        f"for the noise or the model's error, and then the baseline stands{both}."
    ]
    for basis, say in ((MEASURED, _measured), (PREDICTED, _predicted), (TRAFFIC, _traffic)):
        mine = [one for one in told if one.basis == basis]
        if mine:
            lines.append(f"{' '.join(dict.fromkeys(one.target for one in mine))}: {say(mine)}")
    return [*lines, *_passed_over(told)]


def _measured(mine: Sequence[Recommendation]) -> str:
    clock, cache = clock_and_cache(mine[0].series)
    floor = mine[0].floor
    noise = f"the same program timed twice differs by up to {100 * floor:.1f} %" if floor is not None else _UNTRIED
    return f"{MEASURED} ({clock.replace('_', ' ')} clock, {cache} cache); {noise}."


_UNTRIED = "what a program differs from itself by was not tried"


def _predicted(mine: Sequence[Recommendation]) -> str:
    widths = [one.chosen.high / one.chosen.low for one in mine if one.chosen.low > 0]
    off = f"; the model's known error leaves a factor of up to {max(widths):.1f} between low and high" if widths else ""
    return f"{PREDICTED} (from the compiled code, never measured here){off}."


def _traffic(mine: Sequence[Recommendation]) -> str:
    return f"{TRAFFIC} alone (neither timed nor predicted in this run): fewer bytes are not always faster."


def _passed_over(told: Sequence[Recommendation]) -> list[str]:
    """Variants that look better and were not recommended, with the reason of each."""
    found: dict[str, dict[str, None]] = {}
    for one in told:
        for each in one.passed_over:
            found.setdefault(each.reason, {})[each.variant] = None
    words = [f"{listing(list(names))} ({reason})" for reason, names in found.items()]
    return [f"Not recommended though lower: {'; '.join(words)}."] if words else []


def failures(data: Digest) -> list[str]:
    """A sentence per target and kind of failure, first those that need a look; one sentence where nothing failed."""
    rows = data.summary[~data.summary["status"].isin(_TROUBLES)]
    lines = []
    for (status, target), mine in rows.groupby(["status", "target"], sort=False):
        reason = next((printable(text) for text in mine["reason"].dropna()), "")
        reason = f": {textwrap.shorten(reason, 160, placeholder=' ...')}" if reason else ""
        variants = listing(list(dict.fromkeys(mine["variant"])))
        what = f"{count(len(mine), 'case')} {str(status).replace('_', ' ')} ({variants})"
        lines.append(f"FAILED on {target}: {what}{reason}")
    if len(lines) > _MOST_FAILURES:
        more = count(len(lines) - _MOST_FAILURES, "more kind of failure", "more kinds of failure")
        lines = [*lines[:_MOST_FAILURES], f"... and {more}: see the report"]
    waiting = data.summary[data.summary["status"] == NOT_RUN]["case"].nunique()
    if not data.run.complete:
        lines.append(
            f"The run is not finished ({data.run.info.get('status') or 'unfinished'}): "
            f"{count(waiting, 'case')} not run yet."
        )
    refused = data.summary[data.summary["status"] == "unsupported"].groupby("target", sort=False)["case"].nunique()
    if len(refused):
        words = [f"{number} on {target}" for target, number in refused.items()]
        lines.append(f"Cases not supported: {listing(words)} (why: normbench list).")
    return lines or ["Nothing failed."]


def next_steps(data: Digest, told: Sequence[Recommendation]) -> list[str]:
    """What to do next, each with its command."""
    steps = []
    if not data.run.complete:
        steps.append(f"finish it: {resume_command(data.run.path)}")
    floors = {one.floor for one in told if one.floor is not None}
    if floors and max(floors) > _LOUD:
        steps.append("the machine was not quiet: see normbench doctor; repeat with --processes 5")
    elsewhere = [one for one in told if one.target not in TPU_TARGETS]
    if elsewhere and not any(one.basis == MEASURED and one.target == "gpu" for one in elsewhere):
        steps.append("measure on a GPU: normbench gpu")
    worst = _worst(data)
    if worst:
        steps.append(f"see why bytes are moved twice: {worst}")
    return [f"Next: {step}" for step in steps]


def _worst(data: Digest) -> str:
    """The command that explains the baseline which moves the most over its minimum."""
    rows = data.summary[data.summary["baseline"].fillna(False).astype(bool) & data.summary["traffic_ratio"].notna()]
    if rows.empty or rows["traffic_ratio"].max() < 1.05:
        return ""
    compiled = rows[~rows["target"].isin(DEVICES)]
    rows = compiled if len(compiled) else rows
    row = rows.loc[rows["traffic_ratio"].idxmax()]
    plain = {name: None if pd.isna(value) else value for name, value in row.items()}
    return f"{explain_command(plain)} --target {row['target']}"
