"""The program that is compiled for a problem and a variant: pure, arrays in, arrays out.

A program takes what is known when the timed call starts, and nothing else:

| pass               | inputs                                    | outputs                      |
|--------------------|-------------------------------------------|------------------------------|
| forward            | x and the parameters, or what `prepare` made of them | y                 |
| forward_backward   | the same and dy                           | y and the gradients          |
| backward           | the residuals of the forward pass and dy  | the gradients                |

Where an operator has running statistics, y stands for (y, *statistics); gradients are taken of y alone, with respect to
the arguments that are no statistics. In the context "residual", y stands for (y, z) and dy for the cotangents of both;
see `normbench.kernels.contexts`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from normbench.kernels.contexts import fused, residuals_of, surround
from normbench.kernels.problem import Problem
from normbench.kernels.registry import Operator, Variant, get, operator, variants
from normbench.kernels.sharding import WHOLE, Division, division_of, part_of, specs_of


@dataclass(frozen=True)
class Program:
    """`function(*inputs)` is what is measured; `setup(*arrays[, cotangent])` makes its inputs from the operator's
    arrays.

    Attributes:
      function: takes the inputs as positional pytrees of arrays; jittable. Of a variant with a `host`, which is
        measured in its place, it is the baseline's, which has the same inputs and outputs.
      setup: the work that is done once, ahead of the timed call; to be called under `jax.jit`, which settles what the
        residuals of a backward pass are.
      prepare: (*parameters) -> what a variant makes of them ahead of the call, the operator's arrays without x and a
        residual; None for a variant that prepares nothing.
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
    traced = variant if variant.host is None else get(problem.operator, variants(problem.operator)[0])
    forward, prepare = _forward(definition, traced, problem)
    leading = 1 + residuals_of(problem.context)
    ahead = partial(_ahead, prepare, leading)
    differentiate = partial(_differentiate, leading, definition.statistics, forward)
    function: Callable = forward
    setup: Callable = ahead
    together = _together(definition, traced, problem)
    if problem.pass_ == "forward":
        inputs = jax.eval_shape(setup, *arguments)
    else:
        function, setup = _BY_PASS[problem.pass_](differentiate, ahead, arguments)
        function = together or function
        cotangent = jax.eval_shape(lambda *arrays: differentiate(*ahead(*arrays))[0], *arguments)
        inputs = jax.eval_shape(setup, *arguments, cotangent)
    has_setup = prepare is not None or problem.pass_ == "backward"
    inputs = _lying(definition, problem, inputs)
    return Program(problem, variant, function, setup, prepare, arguments, inputs, has_setup)


def reference(problem: Problem, arrays: Sequence[Any]) -> np.ndarray | tuple[np.ndarray, ...]:
    """The operator's float64 NumPy reference, of the arrays of `arguments(problem)`: y, or (y, *statistics).

    In the context "residual", (y, z) stands for y; "cast" leaves it as it is, in float64.

    Raises:
      UserError: for an unknown operator.
    """
    definition = operator(problem.operator)
    keywords = definition.keywords(problem)

    def operator_alone(*inputs):
        return definition.reference(*definition.bind(problem, inputs), **keywords)

    if not residuals_of(problem.context):
        return operator_alone(*arrays)
    return surround(problem, operator_alone, definition.statistics)(
        *(np.asarray(array).astype(np.float64) for array in arrays)
    )


def _forward(definition: Operator, variant: Variant, problem: Problem) -> tuple[Callable, Callable | None]:
    """Returns the forward pass in its context, and what is prepared for it."""
    keywords = definition.keywords(problem)
    if division := division_of(problem):
        return _divided(definition, variant, problem, division), None
    if problem.context in variant.fused_contexts:
        return fused(problem, partial(variant.fused_contexts[problem.context], **keywords), definition.bind), None
    if variant.prepare is None or variant.apply is None:

        def function(*arrays):
            return variant.function(*definition.bind(problem, arrays), **keywords)

        return surround(problem, function, definition.statistics), None
    ahead = variant.prepare

    def prepare(*parameters):
        return ahead(*definition.bind(problem, (None, *parameters))[1:], **keywords, dtype=problem.dtype)

    return surround(problem, partial(variant.apply, **keywords), definition.statistics), prepare


def _together(definition: Operator, variant: Variant, problem: Problem) -> Callable | None:
    """The program of both passes where the variant makes y and the gradients together, or None."""
    both, context = variant.both_passes, problem.context
    if both is None or problem.pass_ != "forward_backward" or division_of(problem):
        return None
    if residuals_of(context) and context not in variant.fused_contexts:
        return None
    keywords = definition.keywords(problem)

    def function(inputs, cotangent):
        return fused(problem, partial(both, **keywords, cotangent=cotangent), definition.bind)(*inputs)

    return function


def _divided(definition: Operator, variant: Variant, problem: Problem, division: Division) -> Callable:
    """The forward pass of arrays that lie on the devices as their context says; gradients lie as their arrays do."""
    specs = specs_of(division, [argument.role for argument in definition.arguments(problem)])
    keywords = definition.keywords(problem)
    results = (division.y, *(WHOLE,) * definition.statistics) if definition.statistics else division.y

    def call(*arrays):
        if variant.divided is not None:
            return variant.divided(division, *arrays, **keywords)
        if not variant.interpreted_on_cpu:
            return variant.function(*arrays, **keywords)
        of_part = partial(variant.function, **definition.keywords(part_of(problem)))  # a hand-written kernel
        return division.map(of_part, specs, division.x)(*arrays)

    def function(*arrays):
        lying = [jax.lax.with_sharding_constraint(a, division.on(s)) for a, s in zip(arrays, specs, strict=True)]
        outputs = call(*definition.bind(problem, tuple(lying)))
        return jax.lax.with_sharding_constraint(outputs, jax.tree.map(division.on, results))

    return function


def _lying(definition: Operator, problem: Problem, inputs: tuple) -> tuple:
    """Abstract inputs of a program with their shardings, where its context is one."""
    division = division_of(problem)
    if division is None:
        return inputs
    specs = specs_of(division, [argument.role for argument in definition.arguments(problem)])
    on = [division.on(spec) for spec in (*specs, division.y)]  # a cotangent lies as y does
    leaves, structure = jax.tree.flatten(inputs)
    lying = [jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s) for a, s in zip(leaves, on, strict=False)]
    return jax.tree.unflatten(structure, lying)


def _ahead(prepare: Callable | None, leading: int, *arrays: Any) -> tuple:
    """The inputs of the forward pass; the `leading` arrays, x and a residual, are never prepared."""
    return arrays if prepare is None else (*arrays[:leading], *prepare(*arrays[leading:]))


def _differentiate(leading: int, statistics: int, forward: Callable, *inputs: Any) -> tuple[Any, Callable, tuple]:
    """Returns y, the pullback from y to x and the inputs that are no statistics, and the new statistics."""
    end = len(inputs) - statistics
    residuals, parameters, constants = inputs[1:leading], inputs[leading:end], inputs[end:]

    def output_and_statistics(x, *parameters):
        outputs = forward(x, *residuals, *parameters, *constants)
        return (outputs[0], outputs[1:]) if statistics else (outputs, ())

    return jax.vjp(output_and_statistics, inputs[0], *parameters, has_aux=True)


def _forward_backward_pass(differentiate: Callable, ahead: Callable, _: tuple) -> tuple[Callable, Callable]:
    def function(inputs, cotangent):
        output, pullback, statistics = differentiate(*inputs)
        return (output, *statistics) if statistics else output, pullback(cotangent)

    return function, lambda *arrays: (ahead(*arrays[:-1]), arrays[-1])


def _backward_pass(differentiate: Callable, ahead: Callable, arguments: tuple) -> tuple[Callable, Callable]:
    def pullback(*arrays):
        return differentiate(*ahead(*arrays))[1]

    def function(residuals, cotangent):
        # The residuals travel as plain arrays: a pullback that was traced elsewhere has another tree structure, and has
        # kept the devices that it was traced for.
        structure = jax.tree.structure(jax.eval_shape(pullback, *arguments))
        return jax.tree.unflatten(structure, residuals)(cotangent)

    return function, lambda *arrays: (tuple(jax.tree.leaves(pullback(*arrays[:-1]))), arrays[-1])


_BY_PASS = {"forward_backward": _forward_backward_pass, "backward": _backward_pass}
