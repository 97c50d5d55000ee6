"""A site as a problem of the registry: operator, shape, layout, dtypes, pass, context, epsilon and options."""

from collections.abc import Mapping
from typing import Any

from normbench import kernels
from normbench.errors import UserError
from normbench.kernels.problem import DTYPES, Problem

DTYPE_NAMES = {"bf16": "bfloat16", "f16": "float16", "f32": "float32", "f64": "float64"}
"""Names of dtypes by those of HLO's element types."""
_OPERATORS = {"layer": "layer_norm", "rms": "rms_norm", "group": "group_norm", "instance": "instance_norm"}
_FIRST = {2: "nc", 3: "ncl", 4: "nchw", 5: "ncdhw"}
_LAST = {1: "c", 2: "nc", 3: "nlc", 4: "nhwc", 5: "ndhwc"}


def problem_of(facts: Mapping[str, Any]) -> Problem | None:
    """The registry's problem that a site's facts describe; None where it has none: an axis in
    the middle, a rank, a mask, sums of several devices, an epsilon that is an argument."""
    if facts["masked"] or facts["devices"] > 1 or facts["epsilon"] is None:
        return None
    shape, axes = facts["shape"], facts["axes"]
    operator = _operator(facts)
    options: tuple[tuple[str, Any], ...] = ()
    if operator in ("layer_norm", "rms_norm"):
        count = len(axes)
        if axes != tuple(range(len(shape) - count, len(shape))):
            return None
        options = (("ndim", count),) if count > 1 else ()
        layout = _LAST.get(len(shape))
    else:
        layouts = _LAST if facts["channel_axis"] == len(shape) - 1 else _FIRST
        layout = layouts.get(len(shape)) if facts["channel_axis"] in (1, len(shape) - 1) else None
        options = (("groups", facts["groups"]),) if operator == "group_norm" else ()
    if layout is None or facts["dtype"] not in DTYPES or facts["param_dtype"] not in DTYPES:
        return None
    problem = Problem(
        operator=operator,
        shape=shape,
        layout=layout,
        dtype=facts["dtype"],
        param_dtype=facts["param_dtype"],
        pass_="forward_backward" if "backward" in facts["passes"] else "forward",
        context=_context(operator, facts),
        epsilon=facts["epsilon"],
        options=options,
    )
    try:
        kernels.operator(operator).validate(problem)
    except UserError:
        return None
    return problem


def _operator(facts: Mapping[str, Any]) -> str:
    if facts["kind"] == "batch":
        return "batch_norm" if facts["statistics"] == "given" else "batch_norm_training"
    return _OPERATORS[facts["kind"]]


def _context(operator: str, facts: Mapping[str, Any]) -> str:
    allowed = kernels.operator(operator).contexts
    return facts["activation"] if facts["activation"] in allowed else "alone"
