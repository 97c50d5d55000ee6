"""Evaluates a traced program equation by equation, with a word on what each of them returns."""

from collections.abc import Callable, Sequence
from typing import Any

INLINED = (
    "jit", "pjit", "closed_call", "core_call", "remat", "checkpoint",
    "custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr",
)  # fmt: skip
"""Equations that stand for a program of their own, under the names of several releases."""
_PROGRAMS = ("jaxpr", "call_jaxpr", "fun_jaxpr")

Change = Callable[[Any, Sequence[Any], Sequence[Any]], Sequence[Any]]


def evaluate(closed: Any, arguments: Sequence[Any], change: Change) -> list[Any]:
    """The results of a program that `jax.make_jaxpr` made.

    Args:
      closed: the program, with its constants.
      arguments: its flat arguments.
      change: (equation, its operands, its results) -> what stands in the place of the results.
    """
    return _evaluate(closed.jaxpr, closed.consts, arguments, change)


def _evaluate(jaxpr: Any, constants: Sequence[Any], arguments: Sequence[Any], change: Change) -> list[Any]:
    known: dict[Any, Any] = {}
    known.update(zip(jaxpr.constvars, constants, strict=True))
    known.update(zip(jaxpr.invars, arguments, strict=True))

    def value(variable: Any) -> Any:
        return variable.val if hasattr(variable, "val") else known[variable]

    for equation in jaxpr.eqns:
        operands = [value(variable) for variable in equation.invars]
        known.update(zip(equation.outvars, _results(equation, operands, change), strict=True))
    return [value(variable) for variable in jaxpr.outvars]


def _results(equation: Any, operands: list[Any], change: Change) -> Sequence[Any]:
    inner = next((equation.params[name] for name in _PROGRAMS if name in equation.params), None)
    if equation.primitive.name in INLINED and inner is not None:
        program, constants = (inner.jaxpr, inner.consts) if hasattr(inner, "consts") else (inner, ())
        return _evaluate(program, constants, operands, change)
    results = again(equation, operands)
    return change(equation, operands, results if equation.primitive.multiple_results else [results])


def again(equation: Any, operands: Sequence[Any]) -> Any:
    """What the equation returns for other operands."""
    return equation.primitive.bind(*operands, **equation.primitive.get_bind_params(equation.params))
