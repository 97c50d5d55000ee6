"""Where the compile-only study can be trusted, and where not: the model's error by operator and pass, kind and size.

And whether it puts two variants of a problem in the right order, which is what it is mostly asked.
"""

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd

from normbench.display.units import count, listing
from normbench.report.data.frames import Run
from normbench.report.findings.noise_floor import ACCEPTED, noise_floors
from normbench.report.model.error import case_errors, launch_errors, size, spread
from normbench.report.model.predictions import ENOUGH

TRUSTED, ROUGH = 0.25, 1.0
"""Median sizes of the error up to which a prediction is trusted, and is a rough guide: 25 %, and a factor of two."""
WORDS = {
    "trusted": f"to be trusted (median within {100 * TRUSTED:.0f} %)",
    "rough": "a rough guide (median within a factor of two)",
    "not": "not to be trusted (median beyond a factor of two)",
    "few": f"too few to tell (below {ENOUGH})",
}
SAME_PREDICTION = 0.01
"""Two predictions that differ by less do not say which is faster."""


def trust_of_cases(run: Run) -> pd.DataFrame:
    """A row per device, model, operator and pass: columns of `spread`, and `trust`, a key of `WORDS`."""
    return _judged(spread(case_errors(run), ["device", "model", "operator", "pass"]))


def trust_of_launches(run: Run) -> pd.DataFrame:
    """A row per device, model, kind of launch and decade of bytes: columns of `spread`, and `trust`."""
    return _judged(spread(launch_errors(run), ["device", "model", "kind", "decade"]))


def _judged(found: pd.DataFrame) -> pd.DataFrame:
    trust = np.select(
        [found["n"] < ENOUGH, found["median"] <= TRUSTED, found["median"] <= ROUGH],
        ["few", "trusted", "rough"],
        "not",
    )
    return found.assign(trust=trust)


def trust_lines(run: Run) -> list[str]:
    """The map in words: which operators and passes, then which launches, fall under each of `WORDS`. Not of the model
    "attained", which needs the times of other launches."""
    return [*trust_of_cases_lines(run), *trust_of_launches_lines(run)]


def trust_of_cases_lines(run: Run) -> list[str]:
    return list(_lines("Cases", trust_of_cases(run), ["operator", "pass"]))


def trust_of_launches_lines(run: Run) -> list[str]:
    return list(_lines("Launches", trust_of_launches(run), ["kind", "decade"]))


def _lines(title: str, table: pd.DataFrame, keys: list[str]) -> Iterator[str]:
    for (device, model, trust), rows in _by_trust(table[table["model"] != "attained"]):
        words = [f"{place_name(row, keys)} ({_figures(row)})" for _, row in rows.iterrows()]
        yield f"{title} on {device}, model {model!r}, {WORDS[trust]}: {listing(words)}."


def _by_trust(table: pd.DataFrame) -> Iterator[tuple[tuple[str, str, str], pd.DataFrame]]:
    for (device, model), mine in table.groupby(["device", "model"], sort=False):
        for trust in WORDS:
            rows = mine[mine["trust"] == trust].sort_values("median", kind="stable")
            if len(rows):
                yield (str(device), str(model), trust), rows


def place_name(row: pd.Series, keys: list[str]) -> str:
    """conv_bn forward; loop of 1 to 10 MB."""
    first, second = (row[key] for key in keys)
    return (
        f"{first} of {decade_name(second)}" if keys[1] == "decade" else f"{first} {str(second).replace('_', ' and ')}"
    )


def decade_name(decade: float) -> str:
    """1 to 10 MB, of 6."""
    return f"{_bytes(decade)} to {_bytes(decade + 1)}"


def _bytes(power: float) -> str:
    unit, least = next((name, least) for name, least in (("GB", 9), ("MB", 6), ("KB", 3), ("B", 0)) if power >= least)
    return f"{10 ** int(power - least)} {unit}"


def _figures(row: pd.Series) -> str:
    hopeful = row["hopeful"]
    lean = "measured longer" if hopeful >= 0.9 else "measured shorter" if hopeful <= 0.1 else ""
    return ", ".join(filter(None, [size(row["median"]), lean, f"n {row['n']}"]))


def orders(run: Run) -> pd.DataFrame:
    """Whether predictions put the variants of a problem in the order that was measured.

    A row per device, model, operator and pass: `pairs` of variants whose measured times differ by more than the noise
    floor of the run; of these `right`, `wrong`, and `silent`, where the predictions are the same.
    """
    floors = noise_floors(run)
    rows = []
    for (device, model, _), part in case_errors(run).groupby(["device", "model", "problem"], sort=False):
        first = part.iloc[0]
        floor = max(ACCEPTED, floors.get((device, first["clock"], first["cache"]), 0.0))
        times = part[["predicted_s", "measured_s"]].to_numpy(dtype=float)
        verdicts = [_order(a, b, floor) for place, a in enumerate(times) for b in times[place + 1 :]]
        rows += [(device, model, first["operator"], first["pass"], verdict) for verdict in verdicts if verdict]
    keys = ["device", "model", "operator", "pass"]
    found = pd.DataFrame(rows, columns=[*keys, "verdict"])
    counted = found.groupby([*keys, "verdict"], sort=False).size().unstack(fill_value=0)
    counted = counted.reindex(columns=["right", "wrong", "silent"], fill_value=0)
    return counted.assign(pairs=counted.sum(axis=1)).reset_index().rename_axis(columns=None)


def _order(a: np.ndarray, b: np.ndarray, floor: float) -> str | None:
    predicted, measured = a / b
    if max(measured, 1 / measured) - 1 <= floor:
        return None
    if max(predicted, 1 / predicted) - 1 <= SAME_PREDICTION:
        return "silent"
    return "right" if (predicted > 1) == (measured > 1) else "wrong"


def order_lines(run: Run) -> list[str]:
    """In a sentence per device and model, how often the order was right."""
    lines = []
    for (device, model), rows in orders(run).groupby(["device", "model"], sort=False):
        right, wrong, silent = (int(rows[name].sum()) for name in ("right", "wrong", "silent"))
        chance = " That is no better than chance." if right - wrong <= 2 * math.sqrt(right + wrong) else ""
        lines.append(
            f"Which of two variants is faster: of {count(right + wrong + silent, 'pair')} whose times on {device} "
            f"differ measurably, model {model!r} orders {right:,} as measured, {wrong:,} the other way, and foresees "
            f"no difference for {silent:,}.{chance}"
        )
    return lines
