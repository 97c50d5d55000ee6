"""The section of the report on the model's error: how it was calibrated, how far off it is, and where to trust it."""

import pandas as pd

from normbench.display.units import count, digits
from normbench.report.data.frames import Run
from normbench.report.model.error import (
    ABSENT,
    calibrations,
    case_errors,
    launch_errors,
    missing_lines,
    poor,
    predictions,
    size,
    spread,
)
from normbench.report.model.predictions import attained, told_launches
from normbench.report.model.trust_map import (
    decade_name,
    order_lines,
    orders,
    trust_of_cases,
    trust_of_cases_lines,
    trust_of_launches_lines,
)
from normbench.report.page.markup import details, listed, paragraphs, table

_INTRODUCTION = (
    "A program's time is predicted from its launches, and held against what was measured, launches with a warm "
    "cache. Model compiled: what a model makes of their compiled code, nothing measured. Datasheet: bytes over the "
    "bandwidth of the data sheet, and a fixed cost per launch. Streaming: what the streaming programs of this run "
    "took for as many bytes, with a cold cache, and the cost of a launch that it measured. Attained: as much more "
    "than streaming as launches of that kind and size took in the other problems, so that nothing is predicted from "
    "its own time. All but the first know nothing of arithmetic, so that convolutions are beyond them. An error is "
    "by how much the longer of the two times exceeds the shorter."
)


def model_section(run: Run, places: str) -> str:
    """The section's HTML.

    Args:
      places: of its pictures, by `figure_places`.
    """
    cases, launches = case_errors(run), launch_errors(run)
    if cases.empty and launches.empty:
        return paragraphs([ABSENT, *missing_lines(run)])
    untold = poor(run)
    if set(launches["device"]) and set(launches["device"]) <= set(untold):
        return paragraphs([*untold.values(), *missing_lines(run)])
    text = paragraphs([_INTRODUCTION, *_sources(run), *missing_lines(run)])
    text += "<h3>How far off</h3>" + _errors(cases, launches) + listed(order_lines(run))
    text += "<h3>Where to trust it</h3>" + listed(trust_of_cases_lines(run)) + details("Pictures", places)
    text += details("Launches in words", listed(trust_of_launches_lines(run)))
    return text + details("By operator and pass", _operators(run)) + details("Attained by kind and size", _rates(run))


def _sources(run: Run) -> list[str]:
    told = []
    for device, costs in calibrations(run).items():
        launches, source = predictions(run, device)
        if launches.empty:
            continue
        told.append(f"On {device}, programs are taken as compiled for {source}.")
        measured, found = len(told_launches(run, device)), int(launches["measured_s"].notna().sum())
        if found < measured:
            told.append(
                f"Of {measured:,} launches that were timed on {device}, {measured - found:,} were not foreseen."
            )
        told.append(costs.sentence() if costs else f"The run has no ceilings of {device}: nothing calibrates a model.")
    return told


def _errors(cases: pd.DataFrame, launches: pd.DataFrame) -> str:
    head = ["device", "model", "of", "median", "90th percentile", "measured longer than predicted"]
    rows = []
    for noun, errors, plural in (("case", cases, None), ("launch", launches, "launches")):
        for _, row in spread(errors, ["device", "model"]).iterrows():
            rows.append([row["device"], row["model"], count(row["n"], noun, plural), *_figures(row)])
    for _, row in spread(launches, ["device", "model", "kind"]).iterrows():
        what = f"{count(row['n'], 'launch', 'launches')}, {row['kind']}"
        rows.append([row["device"], row["model"], what, *_figures(row)])
    return table(head, rows, words=3, label="Errors of the models")


def _operators(run: Run) -> str:
    head = ["device", "operator", "pass", "model", "cases", "median", "90th percentile"]
    head += ["measured longer than predicted", "pairs of variants", "ordered right", "wrong", "told no difference"]
    keys = ["device", "operator", "pass", "model"]
    judged = trust_of_cases(run).merge(orders(run), on=keys, how="left").sort_values(keys, kind="stable")
    rows = []
    for _, row in judged.iterrows():
        pairs = ["" if pd.isna(row[name]) else f"{row[name]:.0f}" for name in ("pairs", "right", "wrong", "silent")]
        rows.append([*(str(row[key]) for key in keys), f"{row['n']}", *_figures(row), *pairs])
    return table(head, rows, words=4, label="Errors by operator and pass")


def _rates(run: Run) -> str:
    rows = []
    for device in calibrations(run):
        for _, row in attained(predictions(run, device)[0]).iterrows():
            share = "" if pd.isna(row["share"]) else f"{100 * row['share']:.0f} %"
            rate = digits(row["bytes_per_second"] / 1e9)
            rows.append([device, row["kind"], decade_name(row["decade"]), f"{row['n']}", rate, share])
    return table(
        ["device", "kind", "bytes", "launches", "GB/s, median", "of streaming"], rows, words=3, label="Attained rates"
    )


def _figures(row: pd.Series) -> list[str]:
    return [size(row["median"]), size(row["p90"]), f"{100 * row['hopeful']:.0f} %"]
