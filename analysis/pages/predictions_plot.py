"""The plot of predicted against published times: the model, and bytes alone beside it."""

from collections.abc import Callable, Sequence

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analysis.published.judge import Judged
from normbench.display.palette import BLUE, GREEN, INK, ORANGE, PURPLE, VERMILLION
from normbench.report.plots.figure_parts import STYLE, make_panels, to_svg

_KINDS = (  # in the legend's order
    ("XLA", BLUE, ("xla",)),
    ("Triton, blocks of rows", GREEN, ("tokamax_triton",)),
    ("Triton, a row per program", ORANGE, ("liger_triton", "sglang_triton")),
    ("CUDA and CuTe DSL", VERMILLION, ("aten", "flashinfer", "vllm", "cutlass_cutedsl")),
    ("PyTorch, operation by operation", PURPLE, ("eager",)),
)
_WIDTH_IN, _HEIGHT_IN = 9.0, 4.7


def predictions_svg(judged: Sequence[Judged]) -> str:
    """Two panels of published against predicted time: by the model, with its range, and by bytes."""
    with mpl.rc_context(STYLE):
        figure, axes = make_panels(1, 2, sharey=True, sharex=True)
        figure.set_size_inches(_WIDTH_IN, _HEIGHT_IN)
        figure.subplots_adjust(left=0.08, right=0.985, top=0.93, bottom=0.24, wspace=0.06)
        model, by_bytes = axes[0]
        _draw(model, "by the model, with its range", judged, lambda one: one.predicted.seconds, ranges=True)
        _draw(by_bytes, "by bytes over the data sheet's bandwidth", judged, lambda one: one.bytes_s, ranges=False)
        model.set_ylabel("predicted / published time")
        figure.supxlabel("published device time, us (a prediction is no measurement)", x=0.53, y=0.14, fontsize=9)
        figure.legend(
            handles=_legend(),
            loc="lower center",
            ncols=3,
            bbox_to_anchor=(0.53, 0.0),
            columnspacing=1.2,
            handletextpad=0.2,
        )
        return to_svg(figure, "predictions")


def _draw(panel, title: str, judged: Sequence[Judged], seconds: Callable[[Judged], float], *, ranges: bool) -> None:
    panel.set_title(title)
    panel.set_xscale("log")
    panel.set_yscale("log", base=2)
    panel.axhspan(1 / 1.1, 1.1, color=INK, alpha=0.15, linewidth=0)
    panel.axhline(1, color=INK, linewidth=0.8)
    for one in judged:
        published_us, scale = one.row.device_s * 1e6, 1 / one.row.device_s
        colour = next(colour for _, colour, families in _KINDS if one.row.family in families)
        if ranges:
            low, high = one.predicted.low_s * scale, one.predicted.high_s * scale
            panel.plot([published_us] * 2, [low, high], color=colour, linewidth=0.6, alpha=0.35)
        panel.plot(published_us, seconds(one) * scale, **_marker(one, colour))
    panel.set_yticks([0.0625, 0.125, 0.25, 0.5, 1, 2, 4], ["1/16", "1/8", "1/4", "1/2", "1", "2", "4"])
    panel.minorticks_off()
    panel.set_xticks([10, 100, 1000], ["10", "100", "1000"])
    panel.grid(visible=True, axis="y")


def _marker(one: Judged, colour: str) -> dict:
    """Filled: kept apart; small: within the L2 or several launches."""
    size = 5.5 if one.single and one.beyond_l2 else 3.0
    fill = colour if one.kept_apart else "none"
    return {"marker": "o", "color": colour, "markerfacecolor": fill, "markersize": size, "linestyle": "none"}


def _legend() -> list[Artist]:
    def sign(label: str, colour: str, fill: str, size: float) -> Line2D:
        return Line2D([], [], marker="o", linestyle="none", color=colour, markerfacecolor=fill, markersize=size,
                      label=label)  # fmt: skip

    kinds = [sign(name, colour, colour, 5.5) for name, colour, _ in _KINDS]
    return [*kinds, sign("kept apart while shaping", INK, INK, 5.5), sign("not kept apart", INK, "none", 5.5),
            sign("small: several launches, or in the L2", INK, INK, 3.0),
            Patch(color=INK, alpha=0.15, linewidth=0, label="within 10 %")]  # fmt: skip
