"""Local response norm: y = x / (k + alpha / size * sum of x² over a window of channels)^beta.

Options of a problem: size (5), alpha (1e-4), beta (0.75), k (1.0). It has no parameters and no statistics of x, so it
has none of the one-pass, pivoted or Welford forms; epsilon plays no part.
"""

from typing import Any

from normbench.kernels.common.checks import check_problem, layouts_of_rank
from normbench.kernels.local_response_norm.arguments import check_numbers
from normbench.kernels.local_response_norm.custom_vjp import custom_vjp
from normbench.kernels.local_response_norm.naive import naive
from normbench.kernels.local_response_norm.native import native
from normbench.kernels.local_response_norm.reference import reference
from normbench.kernels.local_response_norm.shifted import shifted
from normbench.kernels.native.call import unsupported as not_native
from normbench.kernels.problem import LAYOUTS, Problem
from normbench.kernels.registry import Argument, Operator, Variant, register_operator, register_variant

_NAME = "local_response_norm"
_DEFAULTS = {"size": 5, "alpha": 1e-4, "beta": 0.75, "k": 1.0}
_CONTEXTS = ("alone",)


def _settings(problem: Problem) -> dict[str, Any]:
    return {name: problem.option(name, default) for name, default in _DEFAULTS.items()}


def _keywords(problem: Problem) -> dict[str, Any]:
    return {**_settings(problem), "channel_axis": LAYOUTS[problem.layout]}


def _validate(problem: Problem) -> None:
    check_problem(problem, layouts=layouts_of_rank(2, 3, 4, 5), options=tuple(_DEFAULTS), contexts=_CONTEXTS)
    check_numbers(**_settings(problem))


def _unit(problem: Problem) -> float:
    """The x whose squares, times alpha, are as large as k."""
    settings = _settings(problem)
    ratio = abs(settings["k"] / settings["alpha"]) if settings["alpha"] else 0.0
    return ratio**0.5 or 1.0


register_operator(
    Operator(
        name=_NAME,
        arguments=lambda problem: (Argument("x", problem.shape, problem.dtype, "activation"),),
        keywords=_keywords,
        reference=reference,
        validate=_validate,
        contexts=_CONTEXTS,
        reduction=lambda problem: problem.option("size", _DEFAULTS["size"]),
        unit=_unit,
    )
)
for _variant in (
    Variant(_NAME, "naive", naive, "the sum over the window by reduce_window"),
    Variant(_NAME, "shifted", shifted, "the sum over the window as a sum of shifted copies"),
    Variant(_NAME, "custom_vjp", custom_vjp, "shifted copies; gradient by hand that saves x alone"),
    Variant(_NAME, "native", native, "one kernel in C++ for the CPU, gradient by hand", supports_problem=not_native),
):
    register_variant(_variant)
