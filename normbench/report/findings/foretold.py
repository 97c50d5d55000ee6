"""Which variant is predicted to be the fastest, beside the one that moves the fewest bytes: in sentences.

Predictions, never measurements: each time has its range, and variants that the model cannot tell apart are named.
"""

from collections import Counter
from dataclasses import dataclass

import pandas as pd

from normbench.display.units import count, duration
from normbench.predict.known_error import told_apart

_TIMES = ["predicted_s", "predicted_low_s", "predicted_high_s"]


@dataclass(frozen=True)
class Foretold:
    """One problem on one target.

    Attributes:
      fastest: variant with the shortest predicted time; seconds: that time, with low_s and high_s around it.
      alike: variants that the model cannot tell from it, the nearest first.
      least_traffic: variants with the fewest bytes, of these with the fewest launches.
    """

    fastest: str
    seconds: float
    low_s: float
    high_s: float
    alike: tuple[str, ...]
    least_traffic: tuple[str, ...]


def foretold(rows: pd.DataFrame) -> Foretold | None:
    """What is predicted for the variants of one problem on one target; None with fewer than two predictions.

    Args:
      rows: of `normbench.report.data.summary.summary`.
    """
    known = rows[(rows["status"] == "ok") & rows[_TIMES].notna().all(axis=1)].sort_values("predicted_s", kind="stable")
    if len(known) < 2:
        return None
    names = [str(name) for name in known["variant"]]
    times = [(float(s), float(low), float(high)) for s, low, high in known[_TIMES].itertuples(index=False)]
    least = known[known["bytes"] == known["bytes"].min()]
    least = least[least["launches"] == least["launches"].min()]
    alike = [name for name, time in zip(names[1:], times[1:], strict=True) if not told_apart(times[0], time)]
    return Foretold(names[0], *times[0], tuple(alike), tuple(str(name) for name in least["variant"]))


def foretold_lines(summary: pd.DataFrame) -> list[str]:
    """A sentence per operator, pass and target that has predictions."""
    lines = []
    for (operator, pass_, target), rows in summary.groupby(["operator", "pass", "target"], sort=False):
        found = [one for _, part in rows.groupby("problem", sort=False) if (one := foretold(part))]
        if found:
            words = str(pass_).replace("_", " and ")
            lines.append(f"{operator} {words}, {target}: {_one(found[0]) if len(found) == 1 else _many(found)}.")
    return lines


def _one(found: Foretold) -> str:
    between = f"{duration(found.seconds)}, between {duration(found.low_s)} and {duration(found.high_s)}"
    alike = f", within the model's error of {', '.join(found.alike)}" if found.alike else ""
    return f"predicted fastest is {found.fastest} ({between}){alike}; fewest bytes: {', '.join(found.least_traffic)}"


def _many(found: list[Foretold]) -> str:
    fastest, first = Counter(one.fastest for one in found).most_common(1)[0]
    mine = [one for one in found if one.fastest == fastest]
    alike = Counter(name for one in mine for name in one.alike)
    unsure = sum(bool(one.alike) for one in mine)
    words = f"predicted fastest is {fastest}, in {first} of {count(len(found), 'problem')}"
    if unsure:
        nearest, _ = alike.most_common(1)[0]
        words += f", in {unsure} of them within the model's error of another, most often {nearest}"
    least, often = Counter(name for one in found for name in one.least_traffic).most_common(1)[0]
    return f"{words}; fewest bytes: {least}, in {often}"
