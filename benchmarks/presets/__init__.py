"""The presets: named lists of problems, each with the model and the layer that its shape comes from.

One module per operator; a module holds `smoke`, `quick`, `standard` and `full`, functions that yield
(problem, provenance). A new operator adds its module here and nowhere else.
"""

from benchmarks.presets import batch_norm, conv_bn
from kernels.problem import Problem
from normbench.errors import unknown

PRESETS = ("smoke", "quick", "standard", "full")
"""smoke: under 20 cases, seconds; quick: some minutes; standard: every distinct layer; full: the product."""

MODULES = {"batch_norm": batch_norm, "conv_bn": conv_bn}


def problems(preset: str) -> dict[Problem, str]:
    """The problems of a preset, each with its provenance, e.g. "YOLO11n@640 model.2 cv1".

    Raises:
      UserError: for an unknown preset.
    """
    if preset not in PRESETS:
        raise unknown("preset", preset, PRESETS)
    found: dict[Problem, str] = {}
    for module in MODULES.values():
        for problem, provenance in getattr(module, preset)():
            found.setdefault(problem, provenance)
    return found
