"""What to do about a normalization, with the figure that says what it is worth at most."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from normbench import kernels
from normbench.fusion.program.graph import Program
from normbench.fusion.program.made_of import FLOATS
from normbench.fusion.program.words import megabytes
from normbench.kernels.problem import Problem
from normbench.norms.attribution import bytes_of
from normbench.norms.members import OWN_TASK
from normbench.norms.recognise import Match, is_backward
from normbench.norms.site import Advice
from normbench.norms.statistics import below_moves
from normbench.norms.values import Values

_WORTH = 0.05
"""Of the site's own bytes: less is no reason to change a program."""
_MOVING = frozenset(["copy", "transpose", "bitcast", "reshape"])


def advice_for(
    facts: Mapping[str, Any],
    problem: Problem | None,
    values: Values,
    match: Match,
    program: Program,
    own: Sequence[int],
    target: str,
) -> tuple[Advice, ...]:
    """What is worth doing, the most worthwhile first; "nothing" where nothing is."""
    found = [
        *_fold(facts, values, match),
        *_cast_back(facts, values, match),
        *_channels_last(facts, program, own),
        *_pallas(facts, problem, program, own, target),
        *_one_pass(facts, values, match),
    ]
    least = _WORTH * facts["own_bytes"]
    worthwhile = sorted((one for one in found if one.saved_bytes > least), key=lambda one: -one.saved_bytes)
    return tuple(worthwhile) or (_nothing(facts),)


def _nothing(facts: Mapping[str, Any]) -> Advice:
    own, shared = facts["own_bytes"], facts["shared_bytes"]
    if not own:
        words = f"it has no launch of its own: it is computed in {len(facts['shared'])} launches with something else"
    else:
        words = (
            f"its own launches move {megabytes(own)}, which leaves nothing that a change here would save by more than "
            f"{100 * _WORTH:.0f} %"
        )
    return Advice("nothing", words + (f", {megabytes(shared)}" if not own else ""), 0)


def _fold(facts: Mapping[str, Any], values: Values, match: Match) -> list[Advice]:
    if facts["statistics"] != "given":
        return []
    before = values[below_moves(values, match.x)]
    if before.opcode != "convolution" and "convolution" not in before.instruction.custom_call_target.lower():
        return []
    reason = (
        f"statistics that are given fold into the weights and bias of the convolution before "
        f"(normbench.kernels.conv_bn.fold_conv_bn): {megabytes(facts['own_bytes'])} in its own launches go away"
    )
    return [Advice("fold into the convolution", reason, facts["own_bytes"])]


def _cast_back(facts: Mapping[str, Any], values: Values, match: Match) -> list[Advice]:
    x, y = values[match.x].shape, values[match.y].shape
    passes = _wide_passes(values, match, x.bits)
    if x.element not in FLOATS or y.bits <= x.bits or not passes:  # integers would lose what was normalised
        return []
    wider = (y.size_bytes - x.size_bytes) * len(passes) * facts["repetitions"]
    reason = (
        f"x is {facts['dtype']} and the result {facts['output_dtype']}: cast it back, and {' and '.join(passes)} it "
        f"moves {megabytes(wider)} less"
    )
    return [Advice("cast back", reason, wider)]


def _wide_passes(values: Values, match: Match, bits: int) -> tuple[str, ...]:
    """What the program does in memory with a result as wide as it is: "writing" where it is returned, "reading" too
    where something that is not fused with it takes it. What is cast back after an activation or an addition is neither.
    """
    todo, seen = [match.y], set[int]()
    written = False
    while todo:
        one = values[todo.pop()]
        if one.id in seen or one.shape.bits <= bits:
            continue
        seen.add(one.id)
        users = [values[user] for user in values.users[one.id] if not is_backward(values[user].name)]
        if any(user.opcode in OWN_TASK for user in users):
            return "writing", "reading"
        written |= one.id in values.outputs
        todo += [user.id for user in users if user.elements == one.elements]
    return ("writing",) if written else ()


def _channels_last(facts: Mapping[str, Any], program: Program, own: Sequence[int]) -> list[Advice]:
    if facts["layout"] != "channels first":
        return []
    moving = [i for i in own if set(program.launches[i].ops) <= _MOVING]
    moved = bytes_of(program, moving)
    if not moved:
        return []
    reason = f"{megabytes(moved)} in its own launches only change the layout: keep the channels last"
    return [Advice("channels last", reason, moved)]


def _one_pass(facts: Mapping[str, Any], values: Values, match: Match) -> list[Advice]:
    statistic = match.statistic
    if statistic.x is None or not statistic.centred or statistic.one_pass or facts["kind"] not in ("batch", "group"):
        return []
    size = values[match.x].shape.size_bytes * facts["repetitions"]
    reason = (
        f"mean and variance take a pass over x each: one-pass or pivoted statistics read it once less, "
        f"{megabytes(size)}"
    )
    return [Advice("one-pass or pivoted statistics", reason, size)]


def _pallas(
    facts: Mapping[str, Any], problem: Problem | None, program: Program, own: Sequence[int], target: str
) -> list[Advice]:
    if problem is None or len(own) < 2:
        return []
    fitting = [
        name
        for name in kernels.variants(problem.operator)
        if name.startswith("pallas") and kernels.get(problem.operator, name).supports(problem, target) is None
    ]
    least = _least_of(problem, facts["repetitions"])
    saved = facts["own_bytes"] - least
    if not fitting:
        return []
    reason = (
        f"its {len(own)} own launches move {megabytes(facts['own_bytes'])}; one kernel for each pass moves "
        f"{megabytes(least)}; {' and '.join(fitting)} of {problem.operator} fit this shape: variants() compiles them"
    )
    return [Advice("a Pallas kernel", reason, saved)]


def _least_of(problem: Problem, repetitions: int) -> int:
    """What one kernel for each pass moves: x and y, and of a gradient also x, dy and dx. The statistics of a batch need
    all of x before any of y can be written: it is read once more, and in the gradient x and dy are."""
    size = math.prod(problem.shape) * _WIDTHS[problem.dtype]
    again = problem.operator == "batch_norm_training"
    tensors = 2 + again if problem.pass_ == "forward" else 5 + 3 * again
    return size * tensors * repetitions


_WIDTHS = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
