"""What surrounds an operator, built once for all of them.

| context          | further input        | what stands in the place of y                                             |
|------------------|----------------------|---------------------------------------------------------------------------|
| alone            |                      | y                                                                         |
| relu, silu, gelu |                      | act(y): the operator's own keyword `activation`                           |
| cast             |                      | y in another width: float32 of bfloat16 and float16, bfloat16 of float32, |
|                  |                      | float32 of float64                                                        |
| residual         | residual, x's shape  | (y, z) with z = x + residual and y the operator's of z; z in x's dtype    |
|                  | and dtype, after x   |                                                                           |

The gradient of a residual is that of x, as z is their sum: it is given once, as that of x.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from normbench.declared import WIDE_OUTPUTS
from normbench.kernels.problem import ACTIVATIONS, Problem

CONTEXTS = ("alone", *(name for name in ACTIVATIONS if name != "none"), "cast")
"""What may surround every operator that takes an `activation`."""
CONTEXTS_AND_RESIDUAL = (*CONTEXTS, "residual")

CAST_DTYPES = {"bfloat16": "float32", "float16": "float32", "float32": "bfloat16", "float64": "float32"}
"""The dtype of y in the context "cast", by the dtype of x."""


def activation_of(context: str) -> str:
    """The activation epilogue that a context asks for."""
    return context if context in ACTIVATIONS else "none"


def residuals_of(context: str) -> int:
    """Number of further arrays that follow x."""
    return int(context == "residual")


def surround(problem: Problem, operator: Callable[..., Any], statistics: int) -> Callable[..., Any]:
    """Returns `operator`, a function of x and whatever follows it, in the context of `problem`.

    `statistics` is the number of running statistics that it returns after y.
    """
    if problem.context == "residual":
        return partial(_after_addition, operator, statistics)
    if problem.context == "cast":
        dtype = jnp.dtype(CAST_DTYPES[problem.dtype])
        return _asked(lambda *arrays: _replaced(operator(*arrays), statistics, lambda y: y.astype(dtype)))
    return operator


def fused(problem: Problem, operator: Callable[..., Any], bind: Callable[..., Sequence[Any]]) -> Callable[..., Any]:
    """Returns what a variant computes together with the context, as a function of the same arrays as `surround`'s.

    `operator` is the value of `Variant.fused_contexts`, its keywords bound; `bind` completes the operator's arrays.
    """
    if problem.context == "residual":
        return lambda x, residual, *others: operator(*bind(problem, (x, *others)), residual=residual)
    if problem.context == "cast":
        dtype = CAST_DTYPES[problem.dtype]
        return _asked(lambda *arrays: operator(*bind(problem, arrays), output_dtype=dtype))
    return lambda *arrays: operator(*bind(problem, arrays))


def _asked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Declares that the width of the outputs is meant, for those who count the bytes of the compiled program."""

    def declared(*arrays):
        with jax.named_scope(WIDE_OUTPUTS):
            return function(*arrays)

    return declared


def _after_addition(operator: Callable[..., Any], statistics: int, x: Any, residual: Any, *others: Any) -> Any:
    z = x + residual
    return _replaced(operator(z, *others), statistics, lambda y: (y, z))


def _replaced(outputs: Any, statistics: int, change: Callable[[Any], Any]) -> Any:
    """The outputs of an operator with `change(y)` in the place of y."""
    return (change(outputs[0]), *outputs[1:]) if statistics else change(outputs)
