"""What the notebooks share: the committed runs, compiling one case, and showing figures, tables and answers.

Import it before JAX: it lets a process without a GPU compile for one.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from normbench.fusion.targets import compile_environment

os.environ.update(compile_environment())

import pandas as pd
from matplotlib.figure import Figure

from normbench.explanation.explain import Report, explain
from normbench.report import Run, load_run, summary
from normbench.report.plots.figure_parts import to_svg

RESULTS = Path(__file__).resolve().parents[2] / "results"


@dataclass(frozen=True)
class Svg:
    """A figure, as a notebook shows it."""

    svg: str

    def _repr_svg_(self) -> str:
        return self.svg


@dataclass(frozen=True)
class Html:
    html: str

    def _repr_html_(self) -> str:
        return self.html


@dataclass(frozen=True)
class Answer:
    """Words with figures in them, in Markdown."""

    text: str

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
    return f"{value:,.2f}" if abs(value) >= 0.01 or value == 0 else f"{value:.2g}"


def answer(text: str) -> Answer:
    return Answer(text)
