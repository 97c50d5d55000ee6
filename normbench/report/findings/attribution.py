"""Where the time of a case goes: the measured seconds of each launch, beside what is known of the launch."""

import pandas as pd

from normbench.report.data.frames import Run

_KEY = ["case", "target", "name"]


def measured_launches(run: Run) -> pd.DataFrame:
    """The table of launches with the columns `measured_s`, the median of its calls, and `share` of the case's sum.

    Both are null where the time was not told launch by launch. They are joined by the name of the HLO instruction on
    the device that was measured.
    """
    times = run.launch_times[run.launch_times["seconds"].notna()].rename(columns={"device": "target"})
    medians = times.groupby(_KEY, as_index=False)["seconds"].median().rename(columns={"seconds": "measured_s"})
    medians = medians.astype({name: "string" for name in _KEY})
    whole = medians.groupby(["case", "target"])["measured_s"].transform("sum")
    medians["share"] = medians["measured_s"] / whole
    return run.launches.merge(medians, on=_KEY, how="left")


def unmatched(run: Run) -> pd.DataFrame:
    """Measured instructions that are no launch of the table: case, device and name."""
    times = run.launch_times[run.launch_times["seconds"].notna()]
    known = set(run.launches[_KEY].itertuples(index=False, name=None))
    found = times[["case", "device", "name"]].drop_duplicates()
    keep = [row not in known for row in found.itertuples(index=False, name=None)]
    return found[keep].reset_index(drop=True)


def attribution_lines(run: Run, problems: int = 5) -> list[str]:
    """For the terminal: the slowest launch of each of the cases whose launches take longest together."""
    told = measured_launches(run).dropna(subset=["measured_s"])
    whole = told.groupby(["case", "target"])["measured_s"].sum().nlargest(problems)
    lines = []
    for (case, target), seconds in whole.items():
        rows = told[(told["case"] == case) & (told["target"] == target)]
        slowest = rows.loc[rows["measured_s"].idxmax()]
        lines.append(
            f"{case} on {target}: {slowest['name']} ({slowest['kind']}) takes {100 * slowest['share']:.0f} % of the "
            f"{seconds * 1e6:.1f} us of its {len(rows)} launches"
        )
    return lines
