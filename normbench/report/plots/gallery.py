"""Which plots a report shows, and under which heading."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from normbench.errors import UserError
from normbench.report.data.frames import Run
from normbench.report.data.summary import Digest, ceiling_rates, digest
from normbench.report.model.error import calibrations, case_errors
from normbench.report.model.trust_map import trust_of_cases, trust_of_launches
from normbench.report.plots import scatter as plots
from normbench.report.plots import speed as plots_speed
from normbench.report.plots.figure_parts import to_svg
from normbench.report.plots.trust_map import trust_picture


@dataclass(frozen=True)
class Picture:
    """A drawn figure.

    Attributes:
      name: file-safe and unique within the report.
      title: the question that it answers.
      figure: the figure.
    """

    name: str
    title: str
    figure: Figure


def write_plots(run: Run, folder: Path) -> list[Path]:
    """Writes every plot of the report of a run as an SVG file of its own, legible on white and on dark.

    The atlas is there as a whole and per target: atlas-bfloat16.svg, atlas-bfloat16-h200.svg.

    Raises:
      UserError: where a file cannot be written.
    """
    data = digest(run)
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for picture in [*_atlas(data), *_atlas_by_target(data), *pictures(data), *model_pictures(data)]:
            path = folder / f"{re.sub(r'[^A-Za-z0-9._-]+', '_', picture.name)}.svg"
            path.write_text(to_svg(picture.figure, picture.name), encoding="utf-8")
            written.append(path)
    except OSError as error:
        raise UserError(f"plots {str(folder)!r} cannot be written: {error.strerror or error}") from error
    return sorted(written)


def pictures(data: Digest) -> list[Picture]:
    """The plots of a run, none that would be empty, each with its question: of every device; time, traffic and error
    against speed by operator and pass."""
    found = list(_of_devices(data))
    for (operator, pass_), part in data.summary.groupby(["operator", "pass"], sort=False):
        what = f"{operator} {str(pass_).replace('_', ' and ')}"
        for name, title, figure in _of_operator(data.run, what, part):
            if figure is not None:
                found.append(Picture(f"{operator}-{pass_}-{name}", title, figure))
    return found


def model_pictures(data: Digest) -> list[Picture]:
    """Of every device that was measured, the trust maps of its predictions, and the predictions against its times."""
    return list(_of_models(data))


def _of_models(data: Digest) -> Iterator[Picture]:
    run = data.run
    by_case, by_launch = trust_of_cases(run), trust_of_launches(run)
    for device, costs in calibrations(run).items():
        caption = f"Run {run.run_id}. Measured on {device_name(run, device)}."
        for what, judged, row, column in (
            ("cases by operator and pass", by_case, "operator", "pass"),
            ("launches by kind and bytes", by_launch, "kind", "decade"),
        ):
            figure = trust_picture(judged[judged["device"] == device], row, column, f"{caption} {_MEDIAN}")
            if figure is not None:
                yield Picture(f"trust-{row}-{device}", f"How wrong is the prediction on {device}, {what}?", figure)
        found = case_errors(run).query("device == @device and model == 'streaming'")[["case", "predicted_s"]]
        rows = data.summary[data.summary["target"] == device].drop(columns="predicted_s").merge(found, on="case")
        series = f"{costs.clock if costs else 'wall'}_cold"
        figure = plots_speed.predicted_against_measured(rows, series, f"{caption} Model streaming.")
        if figure is not None:
            yield Picture(f"calibrated-{device}", f"Do predicted times hold on {device}?", figure)


_MEDIAN = "Median error; the darker, the larger."


def _atlas(data: Digest) -> Iterator[Picture]:
    for dtype, part in data.atlas.groupby("dtype", sort=False):
        yield from _atlas_picture(data, part, f"{dtype}")


def _of_devices(data: Digest) -> Iterator[Picture]:
    """Of every device with cold times: its cases below the measured ceiling, and predictions against times."""
    rates = ceiling_rates(data.run.ceilings)
    for target, rows in data.summary.groupby("target", sort=False):
        device = device_name(data.run, str(target))
        caption = f"Run {data.run.run_id}. Measured on {device}."
        clock = next((one for one in ("device_kernels", "wall") if (str(target), one, "cold") in rates), "wall")
        ceilings = rates.get((str(target), clock, "cold"), {})
        roof = plots_speed.roofline(rows, ceilings, f"{clock}_cold", caption)
        if roof is not None:
            yield Picture(
                f"roofline-{target}", f"How near does each case come to the measured bandwidth of {target}?", roof
            )
        against = plots_speed.predicted_against_measured(rows, f"{clock}_cold", caption)
        if against is not None:
            yield Picture(f"prediction-{target}", f"Do predicted times hold on {target}?", against)


def _atlas_by_target(data: Digest) -> Iterator[Picture]:
    if data.atlas["target"].nunique() > 1:
        for (dtype, target), part in data.atlas.groupby(["dtype", "target"], sort=False):
            yield from _atlas_picture(data, part, f"{dtype}-{target}")


def _atlas_picture(data: Digest, part: pd.DataFrame, name: str) -> Iterator[Picture]:
    what = name.replace("-", ", ")
    figure = plots.atlas(part, f"Run {data.run.run_id}, {what}. By the compiled programs.")
    if figure is not None:
        yield Picture(f"atlas-{name}", f"Which variant moves the least, {what}?", figure)


def _of_operator(run: Run, what: str, part: pd.DataFrame) -> Iterator[tuple[str, str, Figure | None]]:
    source = f"Run {run.run_id}, {what}."
    for target, rows in part.groupby("target", sort=False):
        caption = f"{source} Measured on {device_name(run, str(target))}."
        yield f"time-{target}", f"How long does {what} take on {target}?", plots.time_by_variant(rows, "wall", caption)
        speed_up = plots_speed.speed_up(rows, "wall_cold", caption)
        yield f"speed-up-{target}", f"Which variant of {what} is faster than the baseline on {target}?", speed_up
    compiled = f"{source} By the compiled programs."
    yield "traffic", f"What does {what} move over the minimum?", plots.traffic_ratio(part, compiled)
    for target, rows in part.groupby("target", sort=False):
        caption = f"{source} Measured on {device_name(run, str(target))}."
        series = next((name for name in ("wall_cold", "wall_warm") if rows[f"{name}_ratio"].notna().any()), "wall_cold")
        title = f"Is speed of {what} on {target} paid for with error?"
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
