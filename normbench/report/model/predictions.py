"""Launches as the compile-only study foresees them for a device that was measured, and what each model says they take.

| model      | a launch takes                                                                                      |
|------------|-----------------------------------------------------------------------------------------------------|
| compiled   | what `normbench.predict` says of its compiled code: `predicted_s`, nothing measured                 |
| datasheet  | its bytes over the bandwidth of the data sheet, and a fixed cost: `bytes_s`, nothing measured       |
| streaming  | what the streaming programs of the run take for as many bytes, and the measured cost of a launch    |
| attained   | as much more than streaming as launches of its kind and size took, in the *other* problems          |
"""

import re

import numpy as np
import pandas as pd

from normbench.report.data.frames import Run
from normbench.report.findings.attribution import measured_launches
from normbench.report.model.calibration import Calibration
from normbench.schema import DEVICELESS_TARGETS

MODELS = ("compiled", "datasheet", "streaming", "attained")
UNCALIBRATED = ("compiled", "datasheet")
"""Of these, those that take nothing from the run, the cost of a launch included."""
CONFIG = "gpu_target_config.pbtxt"
"""XLA's description of the GPU of a run, in its folder."""
MEASURED_TARGETS = ("cpu", "gpu")
_SAME = ["case", "name", "kind", "bytes"]
"""By which a launch that was foreseen is found again on the device: another program has launches of the same names."""
ENOUGH = 3
"""Launches of other problems that a kind and size needs, to say what it attains."""


def devices(run: Run) -> list[str]:
    """Devices of which the time was told launch by launch, or case by case beside a compiled program."""
    timed = {*run.launch_times["device"].dropna(), *run.timings.loc[run.timings["seconds"].notna(), "device"].dropna()}
    return [name for name in MEASURED_TARGETS if name in timed]


def device_kind(run: Run) -> str | None:
    """The name of the GPU of a run as its vendor spells it, from XLA's description or the environment record."""
    path = run.path / CONFIG
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    if found := re.search(r'^\s*name:\s*"([^"\n]+)"', text, re.MULTILINE):
        return found[1]
    listed = (run.info.get("environment") or {}).get("devices") or []
    return next((str(one["kind"]) for one in listed if one.get("platform") != "cpu" and one.get("kind")), None)


def foreseen(run: Run, device: str) -> tuple[pd.DataFrame, str]:
    """The launches of all cases as compiled without the device, and in words what they were compiled for.

    Of a GPU, as compiled for its own description; else for the target that names the same device; else, where the run
    has neither, as compiled on the device itself. Columns: `case`, `name`, `kind`, `bytes`, `predicted_s`,
    `bytes_s`.
    """
    if device == "gpu":
        described = run.tables["described_launches"]
        if len(described):
            return _plain(described), "the description of the GPU, without it"
        target = same_device(device_kind(run))
        rows = run.launches[run.launches["target"] == target]
        if len(rows):
            return _plain(rows), f"{target}, without the GPU"
    rows = run.launches[run.launches["target"] == device]
    return _plain(rows), "the GPU itself: the run has no program compiled without it" if device == "gpu" else device


def same_device(kind: str | None) -> str | None:
    """The device-less target whose device has this name."""
    from normbench.fusion.targets import deviceless_target

    return next((name for name in DEVICELESS_TARGETS if deviceless_target(name).device_name == kind), None)


def told_launches(run: Run, device: str) -> pd.DataFrame:
    """The launches of a device whose time was told: `case`, `name`, `kind`, `bytes`, `measured_s`."""
    rows = measured_launches(run)
    rows = rows[(rows["target"] == device) & rows["measured_s"].notna()]
    return _plain(rows).assign(measured_s=rows["measured_s"].to_numpy())[[*_SAME, "measured_s"]].drop_duplicates(_SAME)


def _plain(rows: pd.DataFrame) -> pd.DataFrame:
    size = (rows["read_bytes"] + rows["write_bytes"]).astype("Float64")
    return (
        rows[["case", "name", "kind", "predicted_s", "bytes_s"]].assign(bytes=size.astype(float)).reset_index(drop=True)
    )


def predicted(run: Run, device: str, costs: Calibration | None) -> tuple[pd.DataFrame, str]:
    """`foreseen` with `problem`, `decade` (of bytes), `measured_s` (null where not told) and a column per model, null
    where it says nothing."""
    launches, source = foreseen(run, device)
    told = told_launches(run, device)
    launches = launches.merge(told, on=_SAME, how="left")
    launches = launches.merge(run.cases[["case", "problem", "operator", "pass"]], on="case", how="left")
    launches["decade"] = np.floor(np.log10(launches["bytes"].where(launches["bytes"] > 0)))
    launches = launches.rename(columns={"predicted_s": "compiled", "bytes_s": "datasheet"})
    streaming = np.nan if costs is None else costs.launches_s(launches["bytes"].fillna(0.0))
    launches["streaming"] = pd.Series(streaming, index=launches.index).where(launches["bytes"] > 0)
    launches["attained"] = launches["streaming"] * _factors(launches)
    return launches, source


def _factors(launches: pd.DataFrame) -> pd.Series:
    """What launches of the same kind and size took over what streaming takes: the median over the other problems; over
    all sizes of the kind where these are too few, and null where those are too."""
    ratio = (launches["measured_s"] / launches["streaming"]).to_numpy(dtype=float)
    problem = launches["problem"].to_numpy(dtype=object)
    found = np.full(len(launches), np.nan)
    groups = [launches.groupby(keys, sort=False).indices.values() for keys in (["kind"], ["kind", "decade"])]
    for rows in (rows for by in groups for rows in by):
        known = rows[np.isfinite(ratio[rows])]
        for own in dict.fromkeys(problem[rows]):
            others = ratio[known[problem[known] != own]]
            if len(others) >= ENOUGH:
                found[rows[problem[rows] == own]] = np.median(others)
    return pd.Series(found, index=launches.index)


def attained(launches: pd.DataFrame) -> pd.DataFrame:
    """A row per kind and decade of bytes that was measured: `n`, median `bytes_per_second`, and `share`, of what
    streaming attains there.

    Args:
      launches: of `predicted`.
    """
    told = launches[launches["measured_s"].notna() & (launches["bytes"] > 0)]
    told = told.assign(rate=told["bytes"] / told["measured_s"], share=told["streaming"] / told["measured_s"])
    by = told.groupby(["kind", "decade"])
    return by.agg(n=("rate", "size"), bytes_per_second=("rate", "median"), share=("share", "median")).reset_index()
