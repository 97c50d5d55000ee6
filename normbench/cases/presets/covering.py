"""A covering design: of many problems those few in which every pair of values occurs together that does in any.

A product of all axes has every combination; what a compiler does with a program changes with one value or with two
together far more often than with three. How many problems that takes grows with the two axes of the most values, not
with all of them.
"""

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any

from normbench.kernels.problem import Problem

Value = tuple[str, Any]
Pair = tuple[Value, Value]


def axes(problem: Problem, options: Iterable[str]) -> tuple[Value, ...]:
    """The value of a problem on each axis, in the order of the axes' names.

    A shape is three axes, whatever its layout: how many samples (None where the layout has none), how many channels,
    and the other extents. Each of `options` is an axis, on which what a problem leaves out is None.
    """
    extents = dict(zip(problem.layout, problem.shape, strict=True))
    values = {
        "samples": extents.pop("n", None),
        "channels": extents.pop("c", None),
        "positions": tuple(extents.values()),
        "layout": problem.layout,
        "dtype": problem.dtype,
        "param_dtype": problem.param_dtype,
        "pass": problem.pass_,
        "context": problem.context,
        "epsilon": problem.epsilon,
        **{f"option {name}": problem.option(name) for name in options},
    }
    return tuple(sorted(values.items(), key=lambda value: value[0]))


def pairs(problem: Problem, options: Iterable[str]) -> frozenset[Pair]:
    """Every two values of different axes that occur together in a problem."""
    return frozenset(combinations(axes(problem, options), 2))


def covering(problems: Sequence[Problem]) -> list[Problem]:
    """Problems of one operator in which every pair occurs that occurs in any of `problems`, in their order.

    Greedily: the problem with the most pairs that no other had, the first of equal ones; then none that the others do
    without. The same for the same problems.
    """
    options = sorted({name for problem in problems for name, _ in problem.options})
    own = [pairs(problem, options) for problem in problems]
    left = set[Pair]().union(*own)
    waiting = [(-len(found), index) for index, found in enumerate(own)]
    heapq.heapify(waiting)
    chosen: list[int] = []
    while left:
        _, index = heapq.heappop(waiting)
        new = len(own[index] & left)
        if waiting and (-new, index) > waiting[0]:  # the pairs that it had when it was counted were others' meanwhile
            heapq.heappush(waiting, (-new, index))
            continue
        chosen.append(index)
        left -= own[index]
    return [problems[index] for index in sorted(_needed(chosen, own))]


def _needed(chosen: Sequence[int], own: Sequence[frozenset[Pair]]) -> list[int]:
    """Those that have a pair which no other has, tried from the last one chosen on."""
    times = Counter(pair for index in chosen for pair in own[index])
    needed = list(chosen)
    for index in reversed(chosen):
        if all(times[pair] > 1 for pair in own[index]):
            needed.remove(index)
            times.subtract(own[index])
    return needed
