"""How wrong is the prediction of the compile-only study? Predicted against measured seconds, per launch and per case.

Where the device of a measurement has no prediction in the run, there is nothing to compare, and the tables are empty.
"""

import pandas as pd

from analysis.report.attribution import measured_launches
from analysis.report.frames import Run

ABSENT = "The model's error is not known: no case of this run has both a predicted and a measured time."


def launch_errors(run: Run) -> pd.DataFrame:
    """A row per launch that has both times: case, target, name, kind, predicted_s, measured_s, error.

    The error is measured / predicted - 1: above 0 where the model was too hopeful.
    """
    told = measured_launches(run).dropna(subset=["predicted_s", "measured_s"])
    return _with_error(told[["case", "target", "name", "kind", "predicted_s", "measured_s"]])


def case_errors(run: Run) -> pd.DataFrame:
    """A row per case and device that has both: case, target, predicted_s, measured_s (of its launches), error.

    A case of which a launch was not measured is left out: the sum of the rest is not its time.
    """
    launches = measured_launches(run).groupby(["case", "target"])["measured_s"]
    measured = launches.agg(lambda seconds: seconds.sum(skipna=False)).reset_index()
    predicted = run.compiled[["case", "target", "predicted_s"]]
    told = predicted.merge(measured, on=["case", "target"]).dropna(subset=["predicted_s", "measured_s"])
    return _with_error(told)


def model_error_lines(run: Run) -> list[str]:
    """The error in words: median and 90th percentile of its size per case, and per kind of launch."""
    cases = case_errors(run)
    if cases.empty:
        return [ABSENT]
    lines = [f"Per case, the prediction is off by {_spread(cases['error'])} ({len(cases)} cases)."]
    for kind, rows in launch_errors(run).groupby("kind"):
        lines.append(f"Launches of kind {kind}: off by {_spread(rows['error'])} ({len(rows)} launches).")
    return lines


def _with_error(told: pd.DataFrame) -> pd.DataFrame:
    return told.assign(error=told["measured_s"] / told["predicted_s"] - 1).reset_index(drop=True)


def _spread(error: pd.Series) -> str:
    size = 100 * error.abs()
    return f"{size.median():.0f} % (median), {size.quantile(0.9):.0f} % (90th percentile)"
