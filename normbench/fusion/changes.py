"""What the launches of a program are, counted, and how two compiled programs differ, in words."""

import json
import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

from normbench.display.units import digits

Structure = dict[str, Any]
"""Launches, kinds, bytes and ratio of one compiled program."""

Row = dict[str, Any]


def program_changes(before: Row, after: Row) -> list[str]:
    """Says in words how a compiled program differs: status, launches, ratio, patterns, kinds, bytes, or its text alone.

    Args:
      before, after: columns of the table "compiled", and what `launch_facts` returns.
    """
    status = [row.get("status") or "ok" for row in (before, after)]
    if status[0] != status[1]:
        reason = after.get("reason") or before.get("reason")
        return [f"{status[0]} → {status[1]}" + (f": {reason}" if reason else "")]
    changes = []
    if _differ(before, after, "launches"):
        changes.append(f"{_number(before, 'launches')} → {_number(after, 'launches')} launches")
    if _differ(before, after, "traffic_ratio"):
        changes.append(f"{_number(before, 'traffic_ratio')} → {_number(after, 'traffic_ratio')} × the minimum bytes")
    changes += _rewrite_changes(before.get("rewrites") or {}, after.get("rewrites") or {})
    if kinds := _count_changes(before.get("kinds") or {}, after.get("kinds") or {}):
        changes.append(f"kinds: {kinds}")
    if _differ(before, after, "bytes"):
        changes.append(f"{_number(before, 'bytes')} → {_number(after, 'bytes')} bytes")
    if "refused" in before and "refused" in after:
        changes += _refusal_changes(before["refused"], after["refused"])
    if not changes and _differ(before, after, "hlo_sha256"):
        changes.append("another program with the same launches and bytes")
    return changes


def _rewrite_changes(before: dict[str, int], after: dict[str, int]) -> list[str]:
    """Whether the pattern of a pass matches; how often, where it does before and after, is in the launches."""
    lost = [f"{name} no longer matches" for name in before if name not in after]
    return lost + [f"{name} matches now" for name in after if name not in before]


def _refusal_changes(before: dict[str, int], after: dict[str, int]) -> list[str]:
    changes = _count_changes(before, after)
    return [f"refusals: {changes}"] if changes else []


def _count_changes(before: dict[str, int], after: dict[str, int]) -> str:
    counts = {name: (before.get(name, 0), after.get(name, 0)) for name in sorted({*before, *after})}
    return ", ".join(f"{name} {x} → {y}" for name, (x, y) in counts.items() if x != y)


def _differ(before: Row, after: Row, name: str) -> bool:
    x, y = before.get(name), after.get(name)
    if isinstance(x, float) and isinstance(y, float):
        return not math.isclose(x, y, rel_tol=1e-3)
    return x != y


def _number(row: Row, name: str) -> str:
    value = row.get(name)
    if value is None:
        return "unknown"
    return digits(value) if name == "traffic_ratio" else f"{int(value):,}"


REWRITER = "triton-softmax-rewriter"
"""XLA's pass that makes one Triton kernel of a reduction and the elementwise work that meets its input again."""


def launch_facts(launches: Iterable[Row]) -> dict[str, dict[str, int]]:
    """What the launches of one program are, counted.

    Args:
      launches: rows of the table "launches".

    Returns:
      `kinds`: launches by kind; `rewrites`: by the pass whose pattern they matched; `refused`: refusals by reason,
      without the estimates that some hold.
    """
    kinds: Counter[str] = Counter()
    rewrites: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    for row in launches:
        kinds[row["kind"]] += 1
        if row["kind"] == "triton" and "reduce" in (row["ops"] or "").split(","):
            rewrites[REWRITER] += 1
        refused.update(_short(reason) for _, reason in json.loads(row.get("refused") or "[]"))
    return {"kinds": _sorted(kinds), "rewrites": _sorted(rewrites), "refused": _sorted(refused)}


def _short(reason: str) -> str:
    for mark in (":", ",", " ("):
        reason = reason.split(mark)[0]
    return reason


def _sorted(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items()))
