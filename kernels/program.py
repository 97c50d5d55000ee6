"""The program that is compiled for a problem and a variant: pure, arrays in, arrays out.

A program takes what is known when the timed call starts, and nothing else:

| pass               | inputs                                    | outputs                      |
|--------------------|-------------------------------------------|------------------------------|
| forward            | x and the parameters, or what `prepare` made of them | y                 |
| forward_backward   | the same and dy                           | y and the gradients          |
| backward           | the residuals of the forward pass and dy  | the gradients                |

Where an operator has running statistics, y stands for (y, *statistics); gradients are taken of y alone, with respect to
the arguments that are no statistics.
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
    differentiate = partial(_differentiate, definition.statistics, forward)
    function: Callable = forward
    setup: Callable = ahead
    if problem.pass_ == "forward":
        inputs = jax.eval_shape(setup, *arguments)
    else:
        function, setup = _BY_PASS[problem.pass_](differentiate, ahead, arguments)
        cotangent = jax.eval_shape(lambda *arrays: differentiate(*ahead(*arrays))[0], *arguments)
        inputs = jax.eval_shape(setup, *arguments, cotangent)
    has_setup = prepare is not None or problem.pass_ == "backward"
    return Program(problem, variant, function, setup, prepare, arguments, inputs, has_setup)


def reference(problem: Problem, arrays: Sequence[Any]) -> np.ndarray | tuple[np.ndarray, ...]:
    """The operator's float64 NumPy reference, of the arrays of `arguments(problem)`: y, or (y, *statistics).

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


def _differentiate(statistics: int, forward: Callable, *inputs: Any) -> tuple[Any, Callable, tuple]:
    """Returns y, the pullback from y to the inputs that are no statistics, and the new statistics."""
    constants = inputs[len(inputs) - statistics :]

    def output_and_statistics(*differentiated):
        outputs = forward(*differentiated, *constants)
        return (outputs[0], outputs[1:]) if statistics else (outputs, ())

    return jax.vjp(output_and_statistics, *inputs[: len(inputs) - statistics], has_aux=True)


def _forward_backward_pass(differentiate: Callable, ahead: Callable, _: tuple) -> tuple[Callable, Callable]:
    def function(inputs, cotangent):
        output, pullback, statistics = differentiate(*inputs)
        return (output, *statistics) if statistics else output, pullback(cotangent)

    return function, lambda *arrays: (ahead(*arrays[:-1]), arrays[-1])


def _backward_pass(differentiate: Callable, ahead: Callable, arguments: tuple) -> tuple[Callable, Callable]:
    def pullback(*arrays):
        return differentiate(*ahead(*arrays))[1]

    # The residuals travel as plain arrays: a pullback that was traced elsewhere has another tree structure.
    structure = jax.tree.structure(jax.eval_shape(pullback, *arguments))

    def function(residuals, cotangent):
        return jax.tree.unflatten(structure, residuals)(cotangent)

    return function, lambda *arrays: (tuple(jax.tree.leaves(pullback(*arrays[:-1]))), arrays[-1])


_BY_PASS = {"forward_backward": _forward_backward_pass, "backward": _backward_pass}
