"""How far apart are two measurements of one program? The A/A test of a run, and what else bears on its times.

The test times one executable under two names, as if it were two variants of a problem. What its sides differ by is the
run's own noise floor: a smaller difference between two variants says nothing.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from normbench.display.units import count, duration, listing
from normbench.report.data.frames import Run
from normbench.report.data.statistics import ratio

ACCEPTED = 0.03
"""A difference of a program from itself above this is reported, where its samples do not scatter as much."""
SHARE = 0.9
"""Of the programs, which differ from themselves by no more than the floor."""
PLACE = ["device", "clock", "cache"]
Told = tuple[str, list[tuple[str, str]], float]
"""A sentence, the (case, device) that it rests on, and its strength."""


def self_comparisons(run: Run) -> pd.DataFrame:
    """A row per program, device, clock and cache of the A/A test: its `ratio` b over a, computed as between two
    variants, with the bounds of its 95 % interval `low` and `high`, and `difference`, the share by which it is off 1.
    """
    rows = []
    samples = run.aa[run.aa["seconds"].notna()]
    for key, part in samples.groupby([*PLACE, "program"], sort=False):
        sides = [_by_process(part[part["name"] == name]) for name in ("b", "a")]
        if all(sides):
            value, low, high = ratio(*sides)
            rows.append((*key, value, low, high, max(value, 1 / value) - 1))
    columns = [*PLACE, "program", "ratio", "low", "high", "difference"]
    return pd.DataFrame(rows, columns=columns)


def noise_floors(run: Run) -> dict[tuple[str, str, str], float]:
    """By device, clock and cache, what nine in ten programs differ from themselves by at most; empty without an A/A
    test. One program that was disturbed does not set it; it is reported by itself."""
    return {key: float(part.quantile(SHARE)) for key, part in self_comparisons(run).groupby(PLACE)["difference"]}


def suspicious(compared: pd.DataFrame, accepted: float = ACCEPTED) -> pd.DataFrame:
    """The rows of `self_comparisons` that are further from 1 than `accepted` and than their own scatter."""
    certain = (compared["low"] > 1) | (compared["high"] < 1)
    return compared[(compared["difference"] > accepted) & certain]


def _by_process(rows: pd.DataFrame) -> dict[int, np.ndarray]:
    return {int(process): np.sort(part.to_numpy()) for process, part in rows.groupby("process")["seconds"]}


def trust(run: Run) -> Iterator[Told]:
    """What bears on how far the times can be trusted, in sentences: the noise floor first."""
    yield from _floors(run)
    yield from _launches(run)
    yield from _states(run)
    yield from _held_back(run)
    for text, part in run.notes.dropna(subset=["text"]).groupby("text", sort=False):
        devices = listing(sorted(part["device"].dropna().unique()))
        places = [(str(case), str(device)) for case, device in zip(part["case"], part["device"], strict=True)
                  if pd.notna(case)]  # fmt: skip
        about = f" ({count(len(set(places)), 'case')})" if places else ""
        yield f"On {devices}{about}: {text}.", sorted(set(places)), 0.0


def _floors(run: Run) -> Iterator[Told]:
    compared = self_comparisons(run)
    for device, part in compared.groupby("device", sort=False):
        floors = part.groupby(["clock", "cache"], sort=False)["difference"].quantile(SHARE)
        words = [f"{100 * value:.1f} % ({clock} clock, {cache} cache)" for (clock, cache), value in floors.items()]
        programs = count(part["program"].nunique(), "program")
        text = (
            f"On {device}, the noise floor: of {programs} timed under two names, nine in ten differ from themselves by "
        )
        yield f"{text}at most {listing(words)}.", _places(part), float(floors.max())
        found = suspicious(part)
        if len(found):
            worst = found.loc[found["difference"].idxmax()]
            text = (
                f"On {device}, {len(found)} of {len(part)} such comparisons differ by more than {100 * ACCEPTED:g} % "
                f"and than their samples scatter, {worst['program']} by {100 * worst['difference']:.1f} % "
                f"({worst['clock']} clock, {worst['cache']} cache): the machine was not quiet."
            )
            yield text, _places(found), 1.0 + float(worst["difference"])


def _places(part: pd.DataFrame) -> list[tuple[str, str]]:
    return sorted(set(zip(part["program"].astype(str), part["device"].astype(str), strict=True)))


def _launches(run: Run) -> Iterator[Told]:
    """What launching costs, by the programs that move next to nothing."""
    idle = run.ceilings[run.ceilings["bytes"].isna() & run.ceilings["seconds"].notna()]
    for device, part in idle.groupby("device", sort=False):
        medians = part.groupby("program", sort=False)["seconds"].median()
        words = [f"{duration(float(value))} ({program})" for program, value in medians.items()]
        yield f"On {device}, a call that moves next to nothing takes {listing(words)}.", [], 0.0


def _states(run: Run) -> Iterator[Told]:
    """What the clock, the power and the temperature of a device ranged over, after groups of series."""
    after = run.device_states[run.device_states["moment"] == "after"]
    for device, part in after.groupby("device", sort=False):
        words = []
        for column, unit in (("clock_mhz", "MHz"), ("power_w", "W"), ("temperature_c", "°C")):
            known = part[column].dropna()
            if len(known):
                words.append(f"{known.min():.0f} to {known.max():.0f} {unit}")
        if words:
            text = f"On {device}, after {count(len(part), 'group')} of series it was at {listing(words)}."
            yield text, [], 0.0


def _held_back(run: Run) -> Iterator[Told]:
    timed = run.timings[run.timings["throttled"].notna()]
    for device, part in timed.groupby("device", sort=False, observed=True):
        marked = part[part["throttled"].astype(bool)]
        if len(marked):
            states = run.device_states[run.device_states["device"] == device]["throttled"].dropna().unique()
            why = f" ({listing(sorted(states))})" if len(states) else ""
            text = (
                f"On {device}, {len(marked):,} of {count(len(part), 'sample')} were taken while it was held back{why}."
            )
            yield text, [(str(case), str(device)) for case in sorted(marked["case"].unique())], 1.0
