"""How wrong is the prediction of the compile-only study? Predicted against measured seconds, per launch and per case.

The size of an error is by how much the longer of the two times exceeds the shorter: 0.25 is 25 %, 1 a factor of two,
in either direction. Where the device of a measurement has no prediction in the run, there is nothing to compare, and
the tables are empty.
"""

from functools import lru_cache

import numpy as np
import pandas as pd

from normbench.display.units import count
from normbench.report.data.frames import Run
from normbench.report.model.calibration import Calibration, calibration
from normbench.report.model.predictions import MODELS, UNCALIBRATED, devices, predicted
from normbench.schema import DEVICELESS_TARGETS, TPU_TARGETS

ABSENT = "The model's error is not known: no case of this run has both a predicted and a measured time."
NO_GPU = (
    "The predictions for {targets} have no error yet: no GPU was measured in this run; "
    "on a machine with one, this does it: make gpu PRESET=standard"
)
NO_TPU = (
    "The predictions for {targets} are made of the compiler's own estimates, and nothing here measures on a TPU: "
    "docs/tpu.md has the six published times that they were held against, all of one operator on a TPU7x."
)
POOR = 0.5
"""A median error per launch above this is of no use: it is told in one line."""
UNTOLD = "no time that is predicted for this device is to be trusted."
_OF_CASE = ["case", "problem", "operator", "pass", "variant"]
_TIMES = ["device", "model", "predicted_s", "measured_s"]
_CASE = ["case", "clock", "cache", *_TIMES]
_LAUNCH = ["case", "problem", "operator", "pass", "name", "kind", "bytes", "decade", *_TIMES]
_CACHES = {"compiled": "cold", "datasheet": "cold", "streaming": "cold", "attained": "warm"}
"""The cache of the case that a model speaks of: time launch by launch, from which the last is made, is told warm."""


@lru_cache(maxsize=4)
def calibrations(run: Run) -> dict[str, Calibration | None]:
    """Of every device that was measured."""
    return {device: calibration(run.ceilings, device) for device in devices(run)}


@lru_cache(maxsize=8)
def predictions(run: Run, device: str) -> tuple[pd.DataFrame, str]:
    """Of `normbench.report.model.predictions.predicted`, with the calibration of the run."""
    return predicted(run, device, calibrations(run).get(device))


@lru_cache(maxsize=4)
def launch_errors(run: Run) -> pd.DataFrame:
    """A row per launch and model that have both times.

    Columns: `case`, `problem`, `operator`, `pass`, `device`, `name`, `kind`, `bytes`, `decade` (of bytes, 10^decade at
    least), `model`, `predicted_s`, `measured_s`, `error` (measured / predicted - 1: above 0 where the model was too
    hopeful) and `off`, its size.
    """
    found = []
    for device in devices(run):
        launches, _ = predictions(run, device)
        for model in MODELS:
            rows = launches.drop(columns=list(MODELS)).assign(device=device, model=model, predicted_s=launches[model])
            found.append(rows)
    return _with_error(_joined(found, _LAUNCH))


@lru_cache(maxsize=4)
def case_errors(run: Run) -> pd.DataFrame:
    """A row per case and model that have both times: a call, by the clock of the calibration.

    Columns: `case`, `problem`, `operator`, `pass`, `variant`, `device`, `clock`, `cache`, `model`, `predicted_s`,
    `measured_s`, `error`, `off`. A case of which a launch has no prediction is left out: the sum of the rest is not its
    time.
    """
    found = []
    for device, costs in calibrations(run).items():
        launches, _ = predictions(run, device)
        clock = costs.clock if costs else "device_kernels"
        for model in MODELS:
            whole = launches.groupby("case")[model].agg(lambda seconds: seconds.sum(skipna=False)).dropna()
            if model not in UNCALIBRATED and costs:
                whole = costs.of_call(whole)
            rows = whole.rename("predicted_s").reset_index()
            rows = rows.merge(_timed(run, device, clock, _CACHES[model]), on="case")
            found.append(rows.assign(device=device, clock=clock, cache=_CACHES[model], model=model))
    return _with_error(_joined(found, _CASE).merge(run.cases[_OF_CASE], on="case"))


def _timed(run: Run, device: str, clock: str, cache: str) -> pd.DataFrame:
    wanted = {"status": "ok", "device": device, "stage": "call", "clock": clock, "cache": cache}
    chosen = run.timings["seconds"].notna()
    for name, value in wanted.items():
        chosen &= (run.timings[name] == value).fillna(False).astype(bool)
    rows = run.timings.loc[chosen, ["case", "seconds"]]
    return rows.groupby("case", observed=True)["seconds"].median().rename("measured_s").reset_index()


def _joined(frames: list[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    known = [frame[columns] for frame in frames if len(frame)]
    return pd.concat(known, ignore_index=True) if known else pd.DataFrame(columns=columns)


def _with_error(told: pd.DataFrame) -> pd.DataFrame:
    told = told.dropna(subset=["predicted_s", "measured_s"]).reset_index(drop=True)
    told = told[(told["predicted_s"].astype(float) > 0) & (told["measured_s"].astype(float) > 0)]
    ratio = told["measured_s"].astype(float) / told["predicted_s"].astype(float)
    return told.assign(error=ratio - 1, off=np.maximum(ratio, 1 / ratio) - 1).reset_index(drop=True)


def spread(errors: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """A row per group: `n`, `median` and `p90` of the size of the errors, and `hopeful`, the share whose measured time
    is the longer."""
    groups = errors.groupby(by, sort=False, dropna=True)
    found = groups.agg(
        n=("off", "size"),
        median=("off", "median"),
        p90=("off", lambda off: off.quantile(0.9)),
        hopeful=("error", lambda error: float((error > 0).mean())),
    )
    return found.reset_index()


def size(off: float) -> str:
    """An error in words: 31 %, or a factor where it is more than two."""
    return f"{100 * off:.0f} %" if off < 1 else f"factor {1 + off:.1f}"


def off_by(row: pd.Series) -> str:
    return f"{size(row['median'])} (median), {size(row['p90'])} (90th percentile)"


def model_error_lines(run: Run) -> list[str]:
    """The error in words: median and 90th percentile of its size, per case and per launch of every kind, by model."""
    cases, launches, untold = case_errors(run), launch_errors(run), poor(run)
    lines = list(untold.values()) if len(cases) or len(launches) else [ABSENT]
    cases, launches = (errors[~errors["device"].isin(untold)] for errors in (cases, launches))
    for _, row in spread(cases, ["device", "model"]).iterrows():
        lines.append(f"{_model(row)} per case: off by {off_by(row)} ({count(row['n'], 'case')}).")
    for _, row in spread(launches, ["device", "model"]).iterrows():
        lines.append(f"{_model(row)} per launch: off by {off_by(row)} ({count(row['n'], 'launch', 'launches')}).")
    for _, row in spread(launches[launches["model"] == "streaming"], ["device", "model", "kind"]).iterrows():
        what = count(row["n"], "launch", "launches")
        lines.append(f"{_model(row)} per launch of kind {row['kind']}: off by {off_by(row)} ({what}).")
    return lines + missing_lines(run)


def poor(run: Run) -> dict[str, str]:
    """By device whose launches no model foretells well, a sentence that says so in place of maps and tables."""
    by_device: dict[str, list[pd.Series]] = {}
    for _, row in spread(launch_errors(run), ["device", "model"]).iterrows():
        by_device.setdefault(row["device"], []).append(row)
    found = {}
    for device, rows in by_device.items():
        best = min(rows, key=lambda row: row["median"])
        if best["median"] > POOR:
            what = count(best["n"], "launch", "launches")
            found[device] = f"{_model(best)} the best one, is off by {off_by(best)} per launch ({what}): {UNTOLD}"
    return found


def missing_lines(run: Run) -> list[str]:
    """What was predicted and not measured, and the command that measures it."""
    foretold = run.compiled[run.compiled[["bytes_s", "predicted_s"]].notna().any(axis=1)]["target"].unique()
    targets = [target for target in run.targets if target in DEVICELESS_TARGETS and target in foretold]
    tpus = [target for target in targets if target in TPU_TARGETS]
    gpus = [target for target in targets if target not in tpus] if "gpu" not in devices(run) else []
    told = ((NO_GPU, gpus), (NO_TPU, tpus))
    return [sentence.format(targets=", ".join(names)) for sentence, names in told if names]


def _model(row: pd.Series) -> str:
    return f"Model {row['model']!r} on {row['device']},"
