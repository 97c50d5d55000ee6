"""Which plots a report shows, and under which heading."""

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from analysis.report import plots
from analysis.report.frames import Run
from analysis.report.summary import Digest


@dataclass(frozen=True)
class Picture:
    """A drawn figure.

    Attributes:
      name: file-safe and unique within the report.
      title: heading.
      figure: the figure.
    """

    name: str
    title: str
    figure: Figure


def pictures(digest: Digest) -> list[Picture]:
    """The plots of a run: time, traffic and error against speed, by operator and pass; none that would be empty."""
    found: list[Picture] = []
    for (operator, pass_), part in digest.summary.groupby(["operator", "pass"], sort=False):
        what = f"{operator} {str(pass_).replace('_', ' and ')}"
        for name, title, figure in _of_operator(digest.run, what, part):
            if figure is not None:
                found.append(Picture(f"{operator}-{pass_}-{name}", title, figure))
    return found


def _of_operator(run: Run, what: str, part: pd.DataFrame) -> Iterator[tuple[str, str, Figure | None]]:
    source = f"Run {run.run_id}, {what}."
    for target, rows in part.groupby("target", sort=False):
        caption = f"{source} Measured on {device_name(run, str(target))}."
        yield f"time-{target}", f"Time of {what} on {target}", plots.time_by_variant(rows, "wall", caption)
    compiled = f"{source} By the compiled programs."
    yield "traffic", f"Memory traffic of {what}", plots.traffic_ratio(part, compiled)
    for target, rows in part.groupby("target", sort=False):
        caption = f"{source} Measured on {device_name(run, str(target))}."
        series = next((name for name in ("wall_cold", "wall_warm") if rows[f"{name}_ratio"].notna().any()), "wall_cold")
        title = f"Error against speed of {what} on {target}"
        yield f"error-{target}", title, plots.error_against_speed(rows, series, caption)


def device_name(run: Run, target: str) -> str:
    """The target, and the device's own name where the environment record has it."""
    environment = run.info.get("environment") or {}
    name = environment.get("cpu_model")
    if target != "cpu":
        devices = environment.get("devices")
        kinds = [device.get("kind") for device in devices if device.get("platform") != "cpu"] if devices else []
        name = kinds[0] if kinds else None
    return f"{target} ({name})" if name else target
