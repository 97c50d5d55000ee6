"""What the launches of one program are, counted: kinds, patterns that a pass of the compiler recognised, refusals."""

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

REWRITER = "triton-softmax-rewriter"
"""XLA's pass that makes one Triton kernel of a reduction and the elementwise work that meets its input again."""
Row = dict[str, Any]


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
