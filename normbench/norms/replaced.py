"""The program with calls of the registry in the place of normalizations, compiled: what replacing them changes.

A Pallas kernel is a wall for the compiler: what was fused across the normalization no longer is, values are copied into
the layout that it takes, and what one launch did for several sites stays for those that are left. None of it shows
in the site alone, so the program that was compiled is rewritten and compiled again: in the forward pass the call
stands for y (activation included) and for the running statistics, in the backward pass its pullback stands for the
gradients of x and of the parameters.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, TypeAlias

import jax

from normbench import kernels
from normbench.display.units import microseconds
from normbench.errors import UserError
from normbench.fusion.compilation import lower_with_text
from normbench.fusion.hlo import read_module
from normbench.fusion.isolation import CompileError, compiler
from normbench.fusion.program.words import megabytes
from normbench.jax_compat.provenance import unoptimised_hlo
from normbench.jax_compat.rewrite import ARGUMENT, Call, Handed, Place, Source, rewritten
from normbench.kernels.problem import Problem
from normbench.norms.members import Found, found_in
from normbench.norms.seams import Seams, seams_of
from normbench.norms.site import Norms, Site, seconds_of
from normbench.norms.values import Values, read_values
from normbench.predict.program import predict

_TIMEOUT_S = 600.0
Bytecode: TypeAlias = bytes


@dataclass(frozen=True)
class Replaced:
    """A program with some of its normalizations replaced, compiled.

    Attributes:
      variants: by the index of a site the variant that was put in its place.
      left: by the index of a site why it could not be put in.
      launches, bytes, predicted_s: of the program then.
      saved_bytes, saved_s: of the program as it is, less those; negative where the replacement costs.
      module: the program then: StableHLO, as bytecode.
    """

    variants: Mapping[int, str]
    left: Mapping[int, str]
    launches: int
    bytes: int
    predicted_s: float | None
    saved_bytes: int
    saved_s: float | None
    module: Bytecode

    def __repr__(self) -> str:
        timed = (
            "" if self.saved_s is None else f" and {_change(self.saved_s, microseconds(abs(self.saved_s)))}, predicted"
        )
        words = (
            f"{len(self.variants)} normalizations replaced, compiled: "
            f"{_change(self.saved_bytes, megabytes(abs(self.saved_bytes)))}{timed}"
        )
        return words + "".join(f"; #{index} is left: {reason}" for index, reason in self.left.items())


def _change(saved: float, amount: str) -> str:
    return f"{amount} {'less' if saved >= 0 else 'more'}"


def advised(sites: Sequence[Site]) -> dict[int, str]:
    """The sites where a Pallas kernel is what to do first, and the variant that `replacement()` names, where it is
    worthwhile.

    Raises:
      UserError: where there is none.
    """
    worth = [site for site in sites if site.advice[0].action == "a Pallas kernel"]
    calls = {site.index: site.replacement() for site in worth}
    found = {index: call.variant for index, call in calls.items() if call.is_worthwhile}
    if not found:
        raise UserError(
            "there is no normalization that a Pallas kernel is worthwhile for; name some: "
            "replaced({index of the site: name of a variant})"
        )
    return found


def replaced(norms: Norms, variants: Mapping[int, str]) -> Replaced:
    """Compiles a program with variants of the registry in the place of some sites; see `Norms.replaced`."""
    _check(norms, variants)
    values = read_values(read_module(unoptimised_hlo(norms.module)))
    found = found_in(values)
    calls: list[Call] = []
    put, left = {}, {}
    for index, variant in variants.items():
        try:
            calls += _calls(values, found[index], norms[index], variant, len(calls))
            put[index] = variant
        except LookupError as error:
            left[index] = str(error)
    if not put:
        raise UserError(f"none of the normalizations can be replaced: {next(iter(left.values()))}")
    try:
        module = rewritten(norms.module, calls)
        compilation = compiler(norms.target).compile(module, norms.target, 0.0, _TIMEOUT_S)
    except (CompileError, LookupError) as error:
        raise UserError(f"{norms.name} does not compile with its normalizations replaced: {error}") from None
    seconds = predict(compilation.reading, norms.target).seconds
    before_s = seconds_of(norms.launch_s, range(len(norms.launch_s)))
    return Replaced(
        variants=put,
        left=left,
        launches=len(compilation.reading.launches),
        bytes=compilation.reading.bytes,
        predicted_s=seconds,
        saved_bytes=norms.bytes - compilation.reading.bytes,
        saved_s=None if seconds is None or before_s is None else before_s - seconds,
        module=module,
    )


def _check(norms: Norms, variants: Mapping[int, str]) -> None:
    if not norms.module:
        raise UserError("norms have no module: normalizations are replaced in a report that `explain` made")
    if not isinstance(variants, Mapping):
        raise UserError(f"variants is a {type(variants).__name__}; allowed: a mapping of a site's index to a variant")
    for index, variant in variants.items():
        if index not in range(len(norms)):
            raise UserError(f"variants: there is no normalization {index!r}; {norms.name} has 0 to {len(norms) - 1}")
        problem = norms[index].problem
        if problem is not None:
            reason = kernels.get(problem.operator, variant).supports(problem, norms.target)
            if reason is not None:
                raise UserError(f"variants: {variant} of {problem.operator} cannot replace #{index}: {reason}")
    if not variants:
        raise UserError("variants: none is given; a site's index and the name of a variant are wanted")


def _calls(values: Values, found: Found, site: Site, variant: str, count: int) -> list[Call]:
    """The forward call of a site, and the backward one; `count` calls stand before them."""
    problem = site.problem
    if problem is None:
        raise LookupError(site.why_no_problem)
    if values[found.match.root].in_parts:
        raise LookupError("it lies in a shard_map, which is not rewritten")
    arguments = kernels.operator(problem.operator).arguments(problem)
    sizes = {math.prod(one.shape) for one in arguments if one.role == "scale"}
    seams = seams_of(values, found, problem.context != "alone", max(sizes))
    lowered = _lowered(problem, variant, site.target)
    operands = tuple(_operand(values, seams, argument.role) for argument in arguments)
    results: dict[int, list[Place]] = {0: [_place(values, seams.y)]}
    for number, statistic in enumerate(("mean", "variance"), start=1):
        if statistic in seams.running and lowered.statistics:
            results[number] = [_place(values, seams.running[statistic][1])]
    calls = [Call(lowered.forward, operands, results)]
    if seams.dy is not None:
        residuals = (Handed(count, 1 + lowered.statistics + i) for i in range(lowered.residuals))
        gradients = {0: seams.dx[:1], 1: seams.dscale[:1], 2: seams.dshift[:1]}
        calls.append(
            Call(
                lowered.backward,
                (*residuals, _place(values, seams.dy)),
                {i: [_place(values, v) for v in places] for i, places in gradients.items() if places},
                tuple(_place(values, v) for v in (*seams.dx[1:], *seams.dscale[1:], *seams.dshift[1:], *seams.other)),
            )
        )
    return calls


_DEFAULTS = {"scale": 1.0, "shift": 0.0, "mean": 0.0, "variance": 1.0}


def _operand(values: Values, seams: Seams, role: str) -> Source:
    before = {"activation": seams.x, "scale": seams.scale, "shift": seams.shift}
    before |= {statistic: pair[0] for statistic, pair in seams.running.items()}
    value = before.get(role)
    return _DEFAULTS[role] if value is None else _place(values, value)


def _place(values: Values, value: int) -> Place:
    one = values[value]
    if one.opcode == "parameter":
        return ARGUMENT, one.instruction.parameter_number
    if not one.path:
        raise LookupError(f"{one.opcode} of it has no number")
    return one.path


@dataclass(frozen=True)
class _Lowered:
    """A variant as modules: `forward` takes the operator's arrays and gives y, the new statistics and the residuals;
    `backward` takes the residuals and dy and gives the gradients of x and of the parameters."""

    forward: bytes
    backward: bytes
    statistics: int
    residuals: int


@lru_cache(maxsize=64)
def _lowered(problem: Problem, variant: str, target: str) -> _Lowered:
    program = kernels.program(replace(problem, pass_="forward"), variant)
    statistics = kernels.operator(problem.operator).statistics
    count = len(program.arguments) - statistics

    def whole(*arrays: Any) -> Any:
        return program.function(*program.setup(*arrays))

    if problem.pass_ == "forward":
        return _Lowered(_module(whole, program.arguments, target), b"", statistics, 0)

    def differentiated(*arrays: Any) -> Any:
        def of_parameters(*parameters: Any) -> Any:
            outputs = whole(*parameters, *arrays[count:])
            return (outputs[0], outputs[1:]) if statistics else (outputs, ())

        return jax.vjp(of_parameters, *arrays[:count], has_aux=True)

    def forward(*arrays: Any) -> Any:
        y, pullback, new = differentiated(*arrays)
        return y, *new, *jax.tree.leaves(pullback)

    def backward(residuals: Any, dy: Any) -> Any:
        structure = jax.tree.structure(jax.eval_shape(lambda *a: differentiated(*a)[1], *program.arguments))
        return jax.tree.unflatten(structure, residuals)(dy)

    y, *rest = jax.eval_shape(forward, *program.arguments)
    residuals = tuple(rest[statistics:])
    return _Lowered(
        forward=_module(forward, program.arguments, target),
        backward=_module(backward, (residuals, y), target),
        statistics=statistics,
        residuals=len(residuals),
    )


def _module(function: Callable[..., Any], inputs: tuple[Any, ...], target: str) -> bytes:
    """With all of its arguments, used or not."""
    return lower_with_text(jax.jit(function, keep_unused=True), inputs, target)[0]
