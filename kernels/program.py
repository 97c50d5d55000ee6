"""The program that is compiled for a problem and a variant: pure, arrays in, arrays out.

A program takes what is known when the timed call starts, and nothing else:

| pass               | inputs                                    | outputs                      |
|--------------------|-------------------------------------------|------------------------------|
| forward            | x and the parameters, or what `prepare` made of them | y                 |
| forward_backward   | the same and dy                           | y and the gradients          |
| backward           | the residuals of the forward pass and dy  | the gradients                |
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kernels.problem import Problem
from kernels.registry import Operator, Variant, get, operator


@dataclass(frozen=True)
class Program:
    """`function(*inputs)` is what is measured; `setup(*arrays[, cotangent])` makes its inputs from the operator's
    arrays.

    Attributes:
      function: takes the inputs as positional pytrees of arrays; jittable.
      setup: the work that is done once, ahead of the timed call; to be called under `jax.jit`, which settles what the
        residuals of a backward pass are.
      prepare: (*parameters) -> what a variant makes of them ahead of the call, the operator's arrays without x; None
        for a variant that prepares nothing.
      arguments: abstract operator arrays, in order.
      inputs: abstract inputs of `function`.
      has_setup: False where the inputs are just the operator's arrays.
    """

    problem: Problem
    variant: Variant
    function: Callable[..., Any]
    setup: Callable[..., tuple]
    prepare: Callable[..., tuple] | None
    arguments: tuple[jax.ShapeDtypeStruct, ...]
    inputs: tuple[Any, ...]
    has_setup: bool


def program(problem: Problem, variant_name: str) -> Program:
    """Builds the program for `problem` by the variant of that name.

    Raises:
      UserError: for an unknown operator or variant, or a problem that makes no sense.
    """
    definition = operator(problem.operator)
    definition.validate(problem)
    variant = get(problem.operator, variant_name)
    arguments = tuple(
        jax.ShapeDtypeStruct(argument.shape, jnp.dtype(argument.dtype)) for argument in definition.arguments(problem)
    )
    forward, prepare = _forward(definition, variant, problem)
    ahead = partial(_ahead, prepare)
    function, setup = _BY_PASS[problem.pass_](forward, ahead, arguments)
    if problem.pass_ == "forward":
        inputs = jax.eval_shape(setup, *arguments)
    else:
        cotangent = jax.eval_shape(lambda *arrays: forward(*ahead(*arrays)), *arguments)
        inputs = jax.eval_shape(setup, *arguments, cotangent)
    has_setup = prepare is not None or problem.pass_ == "backward"
    return Program(problem, variant, function, setup, prepare, arguments, inputs, has_setup)


def reference(problem: Problem, arrays: Sequence[Any]) -> np.ndarray:
    """The operator's float64 NumPy reference, of the arrays of `arguments(problem)`.

    Raises:
      UserError: for an unknown operator.
    """
    definition = operator(problem.operator)
    return definition.reference(*definition.bind(problem, tuple(arrays)), **definition.keywords(problem))


def _forward(definition: Operator, variant: Variant, problem: Problem) -> tuple[Callable, Callable | None]:
    keywords = definition.keywords(problem)
    if variant.prepare is None or variant.apply is None:
        return lambda *arrays: variant.function(*definition.bind(problem, arrays), **keywords), None
    ahead = variant.prepare

    def prepare(*parameters):
        return ahead(*definition.bind(problem, (None, *parameters))[1:], **keywords)

    return partial(variant.apply, **keywords), prepare


def _ahead(prepare: Callable | None, x: Any, *parameters: Any) -> tuple:
    return (x, *parameters) if prepare is None else (x, *prepare(*parameters))


def _forward_pass(forward: Callable, ahead: Callable, _: tuple) -> tuple[Callable, Callable]:
    return forward, ahead


def _forward_backward_pass(forward: Callable, ahead: Callable, _: tuple) -> tuple[Callable, Callable]:
    def function(inputs, cotangent):
        output, pullback = jax.vjp(forward, *inputs)
        return output, pullback(cotangent)

    return function, lambda *arrays: (ahead(*arrays[:-1]), arrays[-1])


def _backward_pass(forward: Callable, ahead: Callable, arguments: tuple) -> tuple[Callable, Callable]:
    def pullback(*arrays):
        return jax.vjp(forward, *ahead(*arrays))[1]

    # The residuals travel as plain arrays: a pullback that was traced elsewhere has another tree structure.
    structure = jax.tree.structure(jax.eval_shape(pullback, *arguments))

    def function(residuals, cotangent):
        return jax.tree.unflatten(structure, residuals)(cotangent)

    return function, lambda *arrays: (tuple(jax.tree.leaves(pullback(*arrays[:-1]))), arrays[-1])


_BY_PASS = {
    "forward": _forward_pass,
    "forward_backward": _forward_backward_pass,
    "backward": _backward_pass,
}
