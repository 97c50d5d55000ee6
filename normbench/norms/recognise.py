"""Normalizations in a program, by their structure alone.

One stands where a tensor x is multiplied by 1/sqrt(v) (or divided by sqrt(v)), broadcast, and v is

* the mean over some axes of (x - mean)² or of x², or E[x²] - E[x]², of this same x; or
* given: an argument, a slice of one or a constant, and what is normalised has a given mean subtracted.

A sum that is not divided by its number of terms n is a length, not a variance (cosine similarity, weight norm, spectral
norm, clipping by a global norm), unless x over its root is multiplied by sqrt(n); a root of something as large as x
scales elementwise (Adam, RMSProp); and where the result is scaled back by the same statistics (batch renormalization),
no normalization can take its place.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from normbench.fusion.program.graph import CARRIED
from normbench.norms.scalars import scalar
from normbench.norms.statistics import (
    MOVES,
    STEPS,
    STORED,
    Statistic,
    before_broadcast,
    is_broadcast,
    is_mean_of,
    is_number,
    origin,
    statistic_of,
    stored,
    subtracted,
)
from normbench.norms.values import Values

_ROOTS = ("rsqrt", "sqrt", "power")
_SUMS = frozenset(["reduce", "reduce-window", "all-reduce", "dot", "convolution", "custom-call", CARRIED])
"""Opcodes that can make a mean."""
_ROUNDING = 5e-3  # of sqrt(n) in bfloat16
_CENTRED = "centred"
"""What subtracting mean / std from x / std does."""


@dataclass(frozen=True)
class Match:
    """One normalization.

    Attributes:
      root: the square root.
      statistic: what it is taken of.
      x: what is normalised.
      applied: the multiplication or division that normalises it.
      y: the result: scaled, shifted and cast back, where that is done.
      scale, shift: what is multiplied and added after the broadcast, before it; None where there is none.
      factors: everything that was multiplied with the root on the way.
      beyond: what no operator of the registry does in its scale and shift; "" where one does all of it.
    """

    root: int
    statistic: Statistic
    x: int
    applied: int
    y: int
    scale: int | None
    shift: int | None
    factors: tuple[int, ...]
    beyond: str = ""


def recognised(values: Values) -> tuple[Match, ...]:
    """Every normalization of a program, in the order of its operations."""
    found = (_match(values, value.id) for value in values.all if value.opcode in _ROOTS)
    return tuple(one for one in found if one is not None)


def _match(values: Values, root: int) -> Match | None:
    one = values[root]
    exponent = _exponent(values, root)
    if abs(exponent) != 0.5:
        return None
    statistic = statistic_of(values, one.operands[0])
    if statistic is None:
        return None
    for applied, numerator, factors, number in _applications(values, root, statistic, exponent < 0):
        match = _completed(values, root, statistic, applied, numerator, factors, number)
        if match is not None:
            return match
    return None


def _exponent(values: Values, root: int) -> float:
    """That of the variance in a root."""
    one = values[root]
    if one.opcode == "power":
        return scalar(values, one.operands[1]) or 0.0
    return -0.5 if one.opcode == "rsqrt" else 0.5


# --- from the root to what is normalised


def _applications(
    values: Values, root: int, statistic: Statistic, inverted: bool
) -> Iterator[tuple[int, int, tuple[int, ...], float]]:
    """Where a large tensor is divided by the root, broadcast: (multiplication or division, the tensor, factors met
    before, and by what number they multiply it). `inverted` says whether it is 1/sqrt, and not sqrt."""
    large = values[statistic.reduced].elements if statistic.x is not None else 2 * values[root].elements
    todo: list[tuple[int, tuple[int, ...], bool, float]] = [(root, (), inverted, 1.0)]
    seen = {root}
    while todo and len(seen) < 10 * STEPS:
        value, factors, inverse, number = todo.pop(0)
        for user in values.users[value]:
            one = values[user]
            if user in seen:
                continue
            seen.add(user)
            if one.opcode in MOVES or (
                one.opcode in ("add", "maximum")
                and any(scalar(values, o) is not None for o in one.operands if o != value)
            ):
                todo.append((user, factors, inverse, number))
            elif one.opcode in ("multiply", "divide"):
                others = [operand for operand in one.operands if operand != value]
                if len(others) != 1:
                    continue
                divides = one.opcode == "divide" and one.operands[1] == value
                spread = bool(factors) or is_broadcast(values, value) or values[root].elements >= large
                if one.elements >= large and spread and not is_broadcast(values, others[0]):
                    normalises = divides != inverse and (divides or one.opcode == "multiply")
                    is_x = statistic.x is None or origin(values, others[0]) == origin(values, statistic.x)
                    if normalises and is_x:
                        yield user, others[0], factors, number
                elif one.elements <= max(values[root].elements, large // 2) or is_broadcast(values, others[0]):
                    by = scalar(values, others[0]) or 1.0
                    multiplied = number * by if inverse == (one.opcode == "multiply") else number / by
                    todo.append((user, (*factors, others[0]), inverse != divides, multiplied))


def _completed(
    values: Values,
    root: int,
    statistic: Statistic,
    applied: int,
    numerator: int,
    factors: tuple[int, ...],
    number: float,
) -> Match | None:
    y, scale, shift = _made_whole(values, applied, statistic, number), None, None
    if y is None:
        return None
    chain, steps = [y], _scalings(values, applied, factors)
    steps += ["multiplied by a number"] * (y != applied)
    if scales := _varying(values, factors):
        scale = scales[-1]
    all_factors = list(factors)
    for _ in range(STEPS):
        step = _next(values, y)
        if step is None:
            break
        y, other = step
        chain.append(y)
        opcode = values[y].opcode
        if other is None:
            continue
        if opcode in ("multiply", "divide"):
            all_factors.append(other)
            scale = other if scalar(values, other) is None else scale
            steps.append("scaled")
        else:
            shift = other
            added = "shifted" if opcode == "add" else "shifted by a negative"
            steps.append(_CENTRED if _depends_on(values, other, {root}) else added)
    if any(_depends_on(values, factor, {root, *statistic.inside}) for factor in all_factors):
        return None
    if statistic.x is None and not _subtracts_stored_mean(values, applied, root, shift):
        return None
    if statistic.x is not None and not _is_centred_alike(values, statistic, numerator, root, chain):
        return None
    if statistic.x is not None and statistic.centred and subtracted(values, numerator) is None:
        steps += [] if _CENTRED in steps else ["centred together with its shift"]
    return Match(
        root, statistic, origin(values, numerator), applied, y, scale, shift, tuple(all_factors), _beyond(steps)
    )


def _made_whole(values: Values, applied: int, statistic: Statistic, number: float) -> int | None:
    """The quotient; of a sum, that is no mean, after the number by which it has to be multiplied; None without one."""
    value, missing = applied, math.sqrt(statistic.share) / number
    for _ in range(STEPS):
        if statistic.share == 1 or abs(missing - 1) < _ROUNDING:
            return value
        after = next((user for user in values.users[value] if _multiplies(values, user, value)), None)
        if after is None:
            return None
        missing, value = missing / _multiplies(values, after, value), after
    return None


def _multiplies(values: Values, user: int, value: int) -> float:
    """By what number an operation multiplies a value: 1 where it changes its dtype or shape alone, else 0."""
    one, others = values[user], [operand for operand in values[user].operands if operand != value]
    if is_backward(one.name):
        return 0.0
    if one.opcode in ("convert", "reshape"):
        return 1.0
    number = (scalar(values, others[0]) or 0.0) if len(others) == 1 else 0.0
    if one.opcode == "multiply":
        return number
    return 1 / number if number and one.opcode == "divide" and one.operands[0] == value else 0.0


def _varying(values: Values, factors: Sequence[int]) -> list[int]:
    return [one for one in factors if scalar(values, one) is None]


def _scalings(values: Values, applied: int, factors: Sequence[int]) -> list[str]:
    """What the factors of the root do to the quotient, but for the 1 in 1/sqrt."""
    found = []
    for factor in factors:
        number = scalar(values, factor)
        divides = any(values[u].opcode == "divide" and values[u].operands[1] == factor for u in values.users[factor])
        if number is None:
            found.append("divided" if divides or values[applied].opcode == "divide" else "scaled")
        elif number != 1:
            found.append("multiplied by a number")
    return found


def _beyond(steps: Sequence[str]) -> str:
    """What the steps from the quotient to y do that a scale and then a shift do not; "" where it is nothing."""
    known = [step for step in steps if step != _CENTRED]
    if known in ([], ["scaled"], ["shifted"], ["scaled", "shifted"]) and "shifted" not in steps[:-1]:
        return ""
    return f"it is {', then '.join(steps)}"


def _next(values: Values, value: int) -> tuple[int, int | None] | None:
    """The next value of a chain that scales, shifts, casts or reshapes, and what it is scaled or shifted by.

    A change of shape belongs to it where one of the others follows. JAX names what it differentiates "transpose(...)":
    the gradient's use of a value is no part of it.
    """
    backward = is_backward(values[value].name)
    users = [user for user in values.users[value] if backward or not is_backward(values[user].name)]
    for user in users:
        one = values[user]
        if one.opcode in ("multiply", "add", "subtract") and len(set(one.operands)) == 2:
            other = next(operand for operand in one.operands if operand != value)
            ordered = one.opcode != "subtract" or one.operands[0] == value
            if one.elements == values[value].elements and ordered and is_broadcast(values, other):
                return (user, other) if scalar(values, other) is None else None
    for user in users:
        one = values[user]
        if one.opcode == "convert" or (one.opcode in ("reshape", "transpose") and _next(values, user) is not None):
            return user, None
    return None


def is_backward(name: str) -> bool:
    """Whether JAX made an operation while it differentiated backwards."""
    return "transpose(" in name


def is_repeated(name: str) -> bool:
    """Whether JAX repeats an operation of the forward pass in the backward one (`jax.checkpoint`)."""
    return "rematted_computation" in name


def _depends_on(values: Values, value: int, statistics: set[int]) -> bool:
    """Whether a small value is worked out of the statistics; what comes through a product or another sum does not."""
    todo, seen = [value], set[int]()
    while todo and len(seen) < 4 * STEPS:
        one = values[todo.pop()]
        if one.id in seen:
            continue
        seen.add(one.id)
        if one.id in statistics and one.opcode not in ("constant", "parameter") and scalar(values, one.id) is None:
            return True
        if one.opcode in ("dot", "convolution", "custom-call", "reduce", "gather", *STORED):
            continue
        todo += one.operands
    return False


def _is_centred_alike(values: Values, statistic: Statistic, numerator: int, root: int, results: Sequence[int]) -> bool:
    """Whether a mean is subtracted from x where its deviations were squared, and none where x itself was.

    x / std without a mean, or with a maximum or median subtracted, is scaled and not normalised. `results` are those
    from which mean / std may be subtracted afterwards.
    """
    mean = subtracted(values, numerator)
    if not statistic.centred:
        return mean is None or not is_mean_of(values, mean, numerator)
    if mean is not None:
        return _holds_a_sum(values, mean)
    return any(_shifts_by_root(values, user, result, root) for result in results for user in values.users[result])


def _shifts_by_root(values: Values, addition: int, result: int, root: int) -> bool:
    """Whether something worked out of the root is added to the result, or subtracted, by an operation."""
    one = values[addition]
    others = [operand for operand in one.operands if operand != result]
    return one.opcode in ("add", "subtract") and any(
        _depends_on(values, other, {root}) and not _depends_on(values, other, {result}) for other in others
    )


def _holds_a_sum(values: Values, value: int) -> bool:
    """Whether a small value is worked out of a sum, as a mean is."""
    small = before_broadcast(values, value)
    todo, seen = [] if small is None else [small], set[int]()
    while todo and len(seen) < 4 * STEPS:
        one = values[todo.pop()]
        if one.id in seen or one.elements >= values[value].elements:
            continue
        seen.add(one.id)
        if one.opcode in _SUMS:
            if one.combiner in ("", "add"):
                return True
            continue
        todo += one.operands
    return False


def _subtracts_stored_mean(values: Values, applied: int, root: int, shift: int | None) -> bool:
    """Of given statistics: x - mean before, or a shift that holds -mean / sqrt(variance) after."""
    if shift is not None and _depends_on(values, shift, {root}):
        return True
    todo = list(values[applied].operands)
    for _ in range(STEPS):
        if not todo:
            return False
        one = values[todo.pop()]
        if one.opcode == "subtract" and is_broadcast(values, one.operands[1]):
            small = before_broadcast(values, one.operands[1])
            return small is not None and stored(values, small, set()) is not None
        if one.opcode in MOVES and not is_broadcast(values, one.id):
            todo.append(one.operands[0])
    return False


def epsilon_of(values: Values, match: Match) -> float | None:
    """What is added to the variance, or to the root; 0 where nothing is, None where it is an argument. What is added to
    a sum is as much less in the mean."""
    value = values[match.root].operands[0]
    for _ in range(STEPS):
        one = values[value]
        if one.opcode == "add":
            numbers = [number for operand in one.operands if (number := scalar(values, operand)) is not None]
            if numbers:
                return float(str(np.float32(numbers[0] / match.statistic.share)))  # 1e-06, not 9.99999997e-07
            return None if any(is_number(values, operand) for operand in one.operands) else 0.0
        if one.opcode not in MOVES:
            break
        value = one.operands[0]
    return 0.0
