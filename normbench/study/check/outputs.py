"""What shape and dtype is each output of a program to have?"""

from typing import Any

import jax

from normbench import kernels
from normbench.kernels import Program
from normbench.kernels.contexts import CAST_DTYPES, residuals_of


def trouble(program: Program, result: Any, shapes: list[tuple[int, ...]]) -> str:
    """What is wrong with the number, shapes and dtypes of the outputs of `program`, or an empty text.

    Args:
      result: what it returned.
      shapes: of the reference's outputs.
    """
    leaves, dtypes = jax.tree.leaves(result), expected_dtypes(program)
    if len(leaves) != len(shapes):
        return f"{len(leaves)} outputs; the operator has {len(shapes)}"
    for number, (leaf, shape, dtype) in enumerate(zip(leaves, shapes, dtypes, strict=True)):
        found = f"{leaf.dtype}{list(leaf.shape)}"
        wanted = f"{dtype}{list(shape)}"
        if found != wanted:
            return f"output {number} is {found}; to be right it is {wanted}, unless the variant declares another dtype"
    return ""


def expected_dtypes(program: Program) -> list[str]:
    """Of y the dtype that the variant declares, of statistics and gradients those of their arguments."""
    problem = program.problem
    statistics = kernels.operator(problem.operator).statistics
    arguments = program.arguments
    y = [_output(program), *[str(arguments[0].dtype)] * residuals_of(problem.context)]
    new = [str(one.dtype) for one in arguments[len(arguments) - statistics :]] if statistics else []
    if problem.pass_ == "forward":
        return [*y, *new]
    gradients = [str(one.dtype) for one in _differentiated(program, statistics)]
    return [*y, *new, *gradients] if problem.pass_ == "forward_backward" else gradients


def _output(program: Program) -> str:
    problem = program.problem
    return CAST_DTYPES[problem.dtype] if problem.context == "cast" else str(program.variant.output_dtype(problem))


def _differentiated(program: Program, statistics: int) -> list[Any]:
    """x, and the parameters or what is prepared of them."""
    leading = 1 + residuals_of(program.problem.context)
    x, parameters = program.arguments[0], program.arguments[leading:]
    if program.prepare is not None:
        prepared = jax.eval_shape(program.prepare, *parameters)
        return [x, *jax.tree.leaves(prepared)]
    return [x, *parameters[: len(parameters) - statistics]]
