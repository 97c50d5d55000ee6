"""Which cases are worth telling launch by launch: of each problem the baseline and the fastest variant."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from normbench import kernels
from normbench.cases.case import Case


def telling_cases(parts: Iterable[dict[str, Any]], cases: Sequence[Case]) -> set[tuple[str, str]]:
    """(slug, device) of the cases that were timed and are their problem's baseline, or its fastest by wall clock.

    Variants that another compiler than XLA compiles have no launches, and are passed over.
    """
    seconds: dict[tuple[str, str], list[float]] = {}
    for part in parts:
        for row in part["tables"].get("timings", ()):
            if row.get("seconds") is not None and row["clock"] == "wall" and row["stage"] == "call":
                seconds.setdefault((row["case"], row["device"]), []).append(row["seconds"])
    known = {case.slug: case for case in cases if _by_xla(case)}
    chosen: set[tuple[str, str]] = set()
    fastest: dict[tuple[Any, str], tuple[float, str]] = {}
    for (slug, device), samples in seconds.items():
        if slug not in known:
            continue
        case, median_s = known[slug], float(np.median(samples))
        if case.variant == kernels.variants(case.operator)[0]:
            chosen.add((slug, device))
        place = (case.problem, device)
        fastest[place] = min(fastest.get(place, (median_s, slug)), (median_s, slug))
    return chosen | {(slug, device) for (_, device), (_, slug) in fastest.items()}


def _by_xla(case: Case) -> bool:
    return kernels.get(case.operator, case.variant).is_jax
