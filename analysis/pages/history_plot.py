"""The plot of the history: by release and operator, how many programs move fewer and how many more bytes."""

from collections.abc import Sequence

import matplotlib as mpl

from analysis.pages.history_steps import Step
from normbench.display.palette import GREEN, VERMILLION
from normbench.report.plots.figure_parts import STYLE, make_panels, to_svg

_WIDTH_IN = 9.0
_ROW_IN = 0.3


def history_svg(steps: Sequence[Step]) -> str:
    """One panel per step; bars to the left are programs that move fewer bytes, to the right more."""
    operators = sorted({operator for step in steps for operator in step.operators}, reverse=True)
    with mpl.rc_context(STYLE):
        figure, axes = make_panels(1, len(steps), sharey=True, sharex=True)
        height = 1.1 + _ROW_IN * len(operators)
        figure.set_size_inches(_WIDTH_IN, height)
        figure.subplots_adjust(left=0.2, right=0.98, top=1 - 0.4 / height, bottom=0.6 / height, wspace=0.08)
        for panel, step in zip(axes[0], steps, strict=True):
            _draw(panel, step, operators)
        figure.supxlabel("programs that move fewer (left) and more (right) bytes than under the release before", y=0.02)
        return to_svg(figure, "history")


def _draw(panel, step: Step, operators: list[str]) -> None:
    panel.set_title(f"{step.before} → {step.after}")
    panel.axvline(0, color="#7b7b7b", linewidth=0.8)
    panel.margins(x=0.15)
    for row, operator in enumerate(operators):
        changes = step.of(operator)
        for effect, colour, side in (("fewer", GREEN, -1), ("more", VERMILLION, 1)):
            number = sum(change.effect == effect for change in changes)
            panel.barh(row, side * number, color=colour, height=0.7)
            if number:
                alignment = "left" if side > 0 else "right"
                panel.annotate(
                    str(number), (side * number, row), xytext=(3 * side, 0), textcoords="offset points",
                    ha=alignment, va="center",
                )  # fmt: skip
    panel.set_yticks(range(len(operators)), operators)
    panel.xaxis.set_major_formatter(lambda value, _: f"{abs(value):g}")
    panel.tick_params(left=False)
