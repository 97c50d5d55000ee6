"""The program that is compiled for a problem and a variant: pure, arrays in, arrays out.

A program takes what is known when the timed call starts, and nothing else:

| pass               | inputs                                    | outputs                      |
|--------------------|-------------------------------------------|------------------------------|
| forward            | x and the parameters, or what `prepare` made of them | y                 |
| forward_backward   | the same and dy                           | y and the gradients          |
| backward           | the residuals of the forward pass and dy  | the gradients                |
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from kernels.problem import Problem
from kernels.registry import Variant, get, operator


@dataclass(frozen=True)
class Program:
    """`function(*inputs)` is what is measured; `setup(*arrays, cotangent)` makes its inputs from the operator's arrays.

    Attributes:
      function: takes the inputs as positional pytrees of arrays; jittable.
      setup: (*operator arrays[, cotangent]) -> inputs; jittable; the work that is done once, ahead of the timed call.
      arguments: abstract operator arrays, in order.
      inputs: abstract inputs of `function`.
      has_setup: False where the inputs are just the operator's arrays.
    """

    problem: Problem
    variant: Variant
    function: Callable[..., Any]
    setup: Callable[..., tuple]
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
    keywords = definition.keywords(problem)
    arguments = tuple(
        jax.ShapeDtypeStruct(argument.shape, jnp.dtype(argument.dtype)) for argument in definition.arguments(problem)
    )
    forward, ahead = _forward(variant, keywords)
    function, setup = _BY_PASS[problem.pass_](forward, ahead)
    if problem.pass_ != "forward":
        cotangent = jax.eval_shape(lambda *arrays: forward(*ahead(*arrays)), *arguments)
        inputs = jax.eval_shape(setup, *arguments, cotangent)
    else:
        inputs = jax.eval_shape(setup, *arguments)
    has_setup = variant.prepare is not None or problem.pass_ == "backward"
    return Program(problem, variant, function, setup, arguments, inputs, has_setup)


def _forward(variant: Variant, keywords: dict[str, Any]) -> tuple[Callable, Callable]:
    if variant.prepare is None or variant.apply is None:
        return partial(variant.function, **keywords), lambda *arrays: arrays
    prepare = partial(variant.prepare, **keywords)
    return partial(variant.apply, **keywords), lambda x, *parameters: (x, *prepare(*parameters))


def _forward_pass(forward: Callable, ahead: Callable) -> tuple[Callable, Callable]:
    return forward, ahead


def _forward_backward_pass(forward: Callable, ahead: Callable) -> tuple[Callable, Callable]:
    def function(inputs, cotangent):
        output, pullback = jax.vjp(forward, *inputs)
        return output, pullback(cotangent)

    return function, lambda *arrays: (ahead(*arrays[:-1]), arrays[-1])


def _backward_pass(forward: Callable, ahead: Callable) -> tuple[Callable, Callable]:
    def function(pullback, cotangent):
        return pullback(cotangent)

    return function, lambda *arrays: (jax.vjp(forward, *ahead(*arrays[:-1]))[1], arrays[-1])


_BY_PASS = {
    "forward": _forward_pass,
    "forward_backward": _forward_backward_pass,
    "backward": _backward_pass,
}
