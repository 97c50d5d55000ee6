"""The presets: named lists of problems, each with the model and the layer that its shape comes from.

One module per operator or family of them. Each operator has a module, or a `Family`, with `smoke`, `quick`, `standard`
and `exhaustive`, which yield (problem, provenance); `full` is chosen from the last. A new operator adds its own to
`BY_OPERATOR` and nowhere else.
"""

from typing import Any

from normbench import kernels
from normbench.cases.presets import batch_norm, conv_bn, peers, pytensor, repeatability, sharding
from normbench.cases.presets.batch_norm_training import BATCH_NORM_TRAINING
from normbench.cases.presets.covering import covering
from normbench.cases.presets.family import Family
from normbench.cases.presets.group_norms import GROUP_NORM, INSTANCE_NORM
from normbench.cases.presets.local_response_norm import LOCAL_RESPONSE_NORM
from normbench.cases.presets.row_norms import LAYER_NORM, RMS_NORM
from normbench.errors import unknown
from normbench.kernels.problem import Problem

PRESETS = ("smoke", "quick", "standard", "full", "exhaustive")
"""smoke: a problem or two of each operator; quick: some minutes; standard: every distinct layer; exhaustive: the
product of shapes, dtypes, layouts, passes and contexts; full: every pair of values that occurs in the product."""
SPECIAL: dict[str, Any] = {
    "peers": peers,
    "pytensor": pytensor,
    "repeatability": repeatability,
    "sharding": sharding,
}
"""Presets of one question: a module with `problems`, and `variants` of an operator."""

_FAMILIES: tuple[Family, ...] = (
    BATCH_NORM_TRAINING,
    LAYER_NORM,
    RMS_NORM,
    GROUP_NORM,
    INSTANCE_NORM,
    LOCAL_RESPONSE_NORM,
)
BY_OPERATOR: dict[str, Any] = {
    "batch_norm": batch_norm,
    "conv_bn": conv_bn,
    **{family.operator: family for family in _FAMILIES},
}


def problems(preset: str) -> dict[Problem, str]:
    """The problems of a preset, each with its provenance, e.g. "YOLO11n@640 model.2 cv1".

    Raises:
      UserError: for an unknown preset.
    """
    if preset in SPECIAL:
        return dict(SPECIAL[preset].problems())
    if preset not in PRESETS:
        raise unknown("preset", preset, (*PRESETS, *SPECIAL))
    found: dict[Problem, str] = {}
    for source in BY_OPERATOR.values():
        of_operator: dict[Problem, str] = {}
        for problem, provenance in getattr(source, "exhaustive" if preset == "full" else preset)():
            of_operator.setdefault(problem, provenance)
        chosen = covering(list(of_operator)) if preset == "full" else of_operator
        found |= {problem: of_operator[problem] for problem in chosen}
    return found


def variants(preset: str, operator: str) -> tuple[str, ...]:
    """The variants of an operator that a preset studies: by default those that XLA compiles."""
    return SPECIAL[preset].variants(operator) if preset in SPECIAL else kernels.variants(operator)
