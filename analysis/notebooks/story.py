"""What the notebooks share: the committed runs, compiling one case, and showing figures, tables and answers.

Import it before JAX: it lets a process without a GPU compile for one.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from normbench.fusion.targets import compile_environment

os.environ.update(compile_environment())

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from normbench.display.palette import BLUE
from normbench.explanation.explain import Report, explain
from normbench.report import Run, load_run, summary
from normbench.report.plots.figure_parts import STYLE, add_caption, longest_in, to_svg

_BARS_IN = 2.3  # a panel of bars, beside its names
RESULTS = Path(__file__).resolve().parents[2] / "results"


@dataclass(frozen=True)
class Svg:
    """A figure, as a notebook shows it; not in its repr, which the notebook stores beside it."""

    svg: str = field(repr=False)

    def _repr_svg_(self) -> str:
        return self.svg


@dataclass(frozen=True)
class Html:
    html: str = field(repr=False)

    def _repr_html_(self) -> str:
        return self.html


@dataclass(frozen=True)
class Answer:
    """Words with figures in them, in Markdown."""

    text: str = field(repr=False)

    def _repr_markdown_(self) -> str:
        return self.text


def committed(name: str) -> Run | None:
    """The run results/runs/<name>, or None where none is committed."""
    folder = RESULTS / "runs" / name
    return load_run(folder) if (folder / "run.json").is_file() else None


def rows_of(run: Run) -> pd.DataFrame:
    """A row per case and target; see `normbench.report.data.summary.summary`."""
    return summary(run)


def source(run: Run) -> str:
    """What a caption says of where its data come from."""
    environment = run.info.get("environment") or {}
    revision = str((environment.get("git") or {}).get("revision") or "")[:7]
    jax = (environment.get("packages") or {}).get("jax")
    timed = run.timings["seconds"].notna().any()
    where = f", {environment['cpu_model']}" if timed and "cpu_model" in environment else ""
    return f"Run {run.run_id} (commit {revision}, JAX {jax}{where})."


def compiled(slug: str, target: str = "h200") -> Report:
    """The case of that slug, compiled now. Every case has a slug; `normbench list` prints them."""
    from normbench import kernels
    from normbench.cases.case import Case

    case = Case.from_slug(slug)
    program = kernels.program(case.problem, case.variant)
    return replace(explain(program.function, *program.inputs, target=target), name=slug)


def facts(report: Report) -> dict[str, Any]:
    """What a table says of one compiled program."""
    return {
        "launches": len(report.launches),
        "moved MB": report.bytes / 1e6,
        "minimum MB": report.minimum_bytes / 1e6,
        "traffic ratio": report.traffic_ratio,
    }


def show(figure: Figure | None, name: str) -> Svg:
    """A figure for the page; `name` is unique in the notebook."""
    if figure is None:
        raise ValueError(f"figure {name!r} has nothing to show")
    return Svg(to_svg(figure, name))


def table(frame: pd.DataFrame) -> Html:
    """A frame as a table, numbers with two decimals and names without an index column."""
    shown = frame.copy()
    for column in shown.columns:
        if pd.api.types.is_float_dtype(shown[column].dtype):
            shown[column] = [_number(value) for value in shown[column]]
    return Html(shown.to_html(index=False, border=0, na_rep=""))


def _number(value: Any) -> str:
    if pd.isna(value):
        return ""
    if value == 0:
        return "0"
    return f"{value:,.2f}" if abs(value) >= 0.01 else f"{value:.2g}"


def answer(text: str) -> Answer:
    return Answer(text)


def in_one_figure(panels: Mapping[str, pd.Series], caption: str) -> Figure:
    """The answer that a notebook closes with: bars from zero with their figures, a panel per question.

    Args:
      panels: by what is drawn, in words with its unit: the figures by name. Those that are missing are left out.
    """
    known = {title: values.dropna().astype(float) for title, values in panels.items()}
    names = [[str(name) for name in values.index] for values in known.values()]
    named = [not place or each != names[place - 1] for place, each in enumerate(names)]  # not twice beside each other
    widths = [_BARS_IN + longest_in(each) * shown for each, shown in zip(names, named, strict=True)]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(sum(widths), 0.8 + 0.27 * max(map(len, names))), layout="constrained")
        places = figure.subplots(1, len(known), squeeze=False).flat
        for axes, each, shown, (title, values) in zip(places, names, named, known.items(), strict=True):
            bars = axes.barh(each, values, color=BLUE, height=0.7)
            counts = bool((values == values.round()).all())
            axes.bar_label(bars, [f"{value:,.0f}" if counts else _number(value) for value in values], padding=3)
            axes.margins(x=0.25)
            axes.invert_yaxis()
            axes.set_title(title, loc="left")
            axes.tick_params(axis="y", length=0, labelleft=shown)
        add_caption(figure, caption)
    return figure
