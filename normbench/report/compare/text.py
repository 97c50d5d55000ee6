"""A comparison of two runs as lines for a terminal: first what changed, then what could not be decided and why."""

from collections import Counter
from typing import Any

from normbench.display.units import count, duration
from normbench.report.compare.runs import Comparison
from normbench.report.compare.verdict import AMBIGUOUS, FASTER, REASONS, SAME, SLOWER


def comparison_text(found: Comparison) -> str:
    """The whole comparison; a verdict of SAME is only counted."""
    lines = [f"A {found.a}", f"B {found.b}"]
    lines += [f"   {name}: {before} → {after}" for name, before, after in found.environment]
    lines += [_noise(row) for row in found.noise]
    for verdict in (SLOWER, FASTER):
        lines += _section(verdict, [_time(row) for row in found.times if row["verdict"] == verdict])
    lines += _section(
        "PROGRAM CHANGED", [f"{r['case']} on {r['target']}: {'; '.join(r['changes'])}" for r in found.fusion]
    )
    lines += _section("ERROR CHANGED", [f"{r['case']} on {r['device']}: {r['change']}" for r in found.errors])
    lines += _section(AMBIGUOUS, _ambiguous(found))
    lines += _section("ONLY IN A", list(found.only_a))
    lines += _section("ONLY IN B", list(found.only_b))
    return "\n".join([*lines, "", _summary(found)])


def _section(title: str, rows: list[str]) -> list[str]:
    return ["", f"{title} ({len(rows)})", *(f"  {row}" for row in rows)] if rows else []


def _time(row: dict[str, Any]) -> str:
    where = f"{row['device']} {row['clock']} {row['cache']}"
    change = f"{row['change']:+.1%} [{row['low']:+.1%}, {row['high']:+.1%}], p {row['p_value']:.1g}"
    times = f"{duration(row['median_a_s'])} → {duration(row['median_b_s'])}"
    clocks = "" if row["clocks"] in ("agree", "one clock") else f"; clocks: {row['clocks']}"
    return f"{row['case']}  {where}  {times}  {change}{clocks}"


def _noise(row: dict[str, Any]) -> str:
    where = f"{row['device']} {row['clock']} {row['cache']}"
    processes = f"processes differ by {row['scatter']:.1%}" if row["degrees"] else "one process a side"
    twins = f"; {row['twins']} programs that are the same: {row['drift']:+.1%} ± {row['drift_scatter']:.1%}"
    floor = f"; one program under two names: {row['floor']:.1%}" if row["floor"] else ""
    return f"   noise, {where}: {processes}{twins if row['twins'] else ''}{floor}"


def _ambiguous(found: Comparison) -> list[str]:
    """A line per reason; the series themselves are in the JSON."""
    reasons = Counter(row["reason"] for row in found.times if row["verdict"] == AMBIGUOUS)
    return [f"{number} × {reason}: {REASONS[reason]}" for reason, number in reasons.most_common()]


def _summary(found: Comparison) -> str:
    verdicts = ", ".join(f"{found.count(word)} {word}" for word in (SAME, FASTER, SLOWER, AMBIGUOUS))
    changed = f"{count(len(found.fusion), 'program')} and {count(len(found.errors), 'error')} changed"
    return f"{count(len(found.times), 'series', 'series')}: {verdicts} (threshold {found.threshold:.1%}); {changed}"
