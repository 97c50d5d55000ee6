"""The Pallas Mosaic kernels as compiled for the H200 against XLA's best pure-JAX variant, out of the goldens.

`python -m analysis.pages.kernels_mosaic` renews its tables in `docs/kernels.md`, and compiles nothing: it reads
`results/golden/`. Bytes of a kernel are those that it declares.
"""

import argparse
import re
import sys
from collections import Counter
from dataclasses import dataclass
from typing import Any

from analysis.pages.kernels_against_xla import EQUAL, NOT_THE_SAME, PAGE, problems, quicker, range_of, renewed
from normbench.fusion.changes import Structure
from normbench.goldens.store import FOLDER, read_all

BEGIN, END = "<!-- mosaic: begin -->", "<!-- mosaic: end -->"
TARGET = "h200"
VARIANT = "pallas_mosaic"
NUMBER = re.compile(r"\b\d+\b")


@dataclass(frozen=True, slots=True)
class Compiled:
    """One problem of `standard`: what the Mosaic kernels come to; nothing but the reason where they refuse it."""

    operator: str
    pass_: str
    problem: str
    reason: str
    launches: int = 0
    traffic_ratio: float = 0.0
    bytes: int = 0
    xla_bytes: int = 0
    naive_bytes: int = 0


def goldens() -> dict[str, Structure]:
    """Of the latest JAX that has them, by case."""
    every = read_all(FOLDER)
    return every[list(every)[-1]][TARGET]


def compiled(known: dict[str, Structure]) -> tuple[Compiled, ...]:
    """Every problem of `standard` whose x has elements."""
    from normbench import kernels

    by_problem: dict[str, dict[str, Structure]] = {}
    for slug, row in known.items():
        problem, _, variant = slug.rpartition(".")
        by_problem.setdefault(problem, {})[variant] = row
    found = []
    for case in problems(VARIANT):
        problem = case.slug.removesuffix(f".{VARIANT}")
        reason = kernels.get(case.operator, VARIANT).supports(case.problem, TARGET) or ""
        rows = {} if reason else by_problem[problem]
        found.append(Compiled(case.operator, case.pass_, problem, reason, **(_facts(rows) if rows else {})))
    return tuple(found)


def _facts(rows: dict[str, Structure]) -> dict[str, Any]:
    own = rows[VARIANT]
    of_xla = {
        name: row["bytes"]
        for name, row in rows.items()
        if not name.startswith("pallas") and name not in NOT_THE_SAME and "bytes" in row
    }
    return {
        "launches": own["launches"],
        "traffic_ratio": own["traffic_ratio"],
        "bytes": own["bytes"],
        "xla_bytes": min(of_xla.values()),
        "naive_bytes": of_xla["naive"],
    }


def table(rows: tuple[Compiled, ...]) -> str:
    """By operator and pass; then how often which reason refuses a problem."""
    lines = [
        "| operator | pass | problems | refused | launches | bytes over the minimum | against XLA's best "
        "| against the textbook formula |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    groups: dict[tuple[str, str], list[Compiled]] = {}
    for row in rows:
        groups.setdefault((row.operator, row.pass_), []).append(row)
    for (operator, pass_), group in sorted(groups.items()):
        kept = [row for row in group if not row.reason]
        launches = sorted({row.launches for row in kept})
        cells = [
            " or ".join(map(str, launches)) or "–",
            range_of([row.traffic_ratio for row in kept]),
            range_of([row.xla_bytes / row.bytes for row in kept]),
            range_of([row.naive_bytes / row.bytes for row in kept]),
        ]
        lines.append(f"| {operator} | {pass_} | {len(group)} | {len(group) - len(kept)} | {' | '.join(cells)} |")
    reasons = Counter(_kind(row.reason) for row in rows if row.reason)
    lines += ["", "Refused:", "", *(f"- {number} × {reason}" for reason, number in reasons.most_common())]
    return "\n".join(lines)


def _kind(reason: str) -> str:
    """A refusal without the sizes of its problem."""
    given, mark, allowed = reason.partition("; allowed")
    return NUMBER.sub("N", given) + mark + allowed


def main(arguments: list[str] | None = None) -> int:
    argparse.ArgumentParser(prog="python -m analysis.pages.kernels_mosaic", description=__doc__).parse_args(arguments)
    rows = compiled(goldens())
    PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8"), table(rows), BEGIN, END), encoding="utf-8")
    allowed = quicker("pallas_mosaic")
    kept = [row for row in rows if not row.reason and row.problem not in allowed]
    more = [row for row in kept if row.xla_bytes < EQUAL * row.bytes]
    print("\n".join(f"{row.problem} moves more than XLA: {row.xla_bytes / row.bytes:.3f}" for row in more))
    return 1 if more else 0


if __name__ == "__main__":
    sys.exit(main())
