"""Loops that repeat themselves are not walked to their end: what one more turn does is added as often as it happens.

At each turn of a loop the walk is compared with itself one and two periods before. A period is one turn or a few (a
ring of stages repeats after as many turns as it has stages). Where every whole number has grown by the same amount
twice, and so has the clock, the loop goes on like that until one of the comparisons on its way has another outcome;
up to there it is skipped.
"""

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from normbench.predict.integers import signed

if TYPE_CHECKING:
    from normbench.predict.timeline import State

_PERIODS = (1, 2, 3, 4, 6)
_KEPT = 2 * max(_PERIODS) + 1
_STEADY = 0.01
"""By which share the cycles of two periods may differ."""

Compare = tuple[Callable[[int, int], bool], int, bool]
"""A comparison with the bits of its operands and whether they have a sign."""


@dataclass(frozen=True)
class _Turn:
    """The walk as it was at one turn of a loop; `logged` counts the comparisons until then."""

    clock: float
    values: list[int | None]
    tally: dict[str, float]
    logged: int


class Repeats:
    """Watches the loops of one walk."""

    def __init__(self) -> None:
        self._turns: dict[int, list[_Turn]] = {}
        self._log: list[tuple[Compare, int | None, int | None]] = []

    def compared(self, compares: tuple[Compare, int, int], values: list[int | None]) -> None:
        """Takes down a comparison on the way."""
        compare, a, b = compares
        self._log.append((compare, values[a], values[b]))

    def left(self, at: int) -> None:
        """A branch was not taken: the loop that it closes is over."""
        self._turns.pop(at, None)

    def turn(self, at: int, state: "State") -> bool:
        """A branch back was taken; skips what repeats. False: the loop would never end, and is left."""
        turns = self._turns.setdefault(at, [])
        turns.append(_Turn(state.clock, list(state.values), dict(state.tally), len(self._log)))
        del turns[:-_KEPT]
        for period in _PERIODS:
            if len(turns) <= 2 * period:
                return True
            first, middle, last = turns[-1 - 2 * period], turns[-1 - period], turns[-1]
            if not self._alike(first, middle, last, settled=len(turns) == _KEPT):
                continue
            until = self._until_another(first, middle, last)
            if until is None:
                return False
            if until > 1:
                _skip(state, middle, last, until - 1)
                turns.clear()
            return True
        return True

    def _alike(self, first: _Turn, middle: _Turn, last: _Turn, settled: bool) -> bool:
        if last.logged - middle.logged != middle.logged - first.logged:
            return False
        before, after = middle.clock - first.clock, last.clock - middle.clock
        if abs(after - before) > _STEADY * after and not settled:
            return False
        return all(
            z is None if y is None else (x is not None and z is not None and z - y == y - x)
            for x, y, z in zip(first.values, middle.values, last.values, strict=True)
        )

    def _until_another(self, first: _Turn, middle: _Turn, last: _Turn) -> int | None:
        """Periods until one of the comparisons has another outcome; None: never."""
        before = self._log[first.logged : middle.logged]
        after = self._log[middle.logged : last.logged]
        found = []
        for (compare, x, y), (_, then_x, then_y) in zip(after, before, strict=True):
            if x is None or y is None or then_x is None or then_y is None:
                continue
            outcome = _changes(compare, (then_x, then_y), (x, y))
            if outcome is not None:
                found.append(outcome)
        return min(found, default=None)


def _changes(compare: Compare, before: tuple[int, int], now: tuple[int, int]) -> int | None:
    """Periods until a comparison of two numbers that grow steadily has another outcome, or one of them goes round;
    None: never."""
    f, bits, sign = compare
    numbers, least = 1 << bits, -(1 << bits - 1) if sign else 0
    x, y = (signed(v, bits) if sign else v % numbers for v in now)
    steps = [signed(v - was, bits) for v, was in zip(now, before, strict=True)]
    distance, step = x - y, steps[0] - steps[1]
    if f in (operator.eq, operator.ne):
        return _until_equal(distance, step, numbers) if distance else 1 if step % numbers else None
    # Where the distance reaches zero and beyond is where the outcome can change: next to there, or at once.
    crossing = -distance // step if step else 0
    near = (1, crossing - 1, crossing, crossing + 1, crossing + 2)
    found = [n for n in near if n >= 1 and f(distance + n * step, 0) != f(distance, 0)][:1]
    ends = (least + numbers - 1 if each > 0 else least for each in steps)
    found += [(end - v) // each + 1 for v, each, end in zip((x, y), steps, ends, strict=True) if each]
    return min(found, default=None)


def _until_equal(distance: int, step: int, numbers: int) -> int | None:
    """Periods until two of so many numbers, which go round, are equal; None: never. A loop that ends where its counter
    is 0 may count up from below 0."""
    common = math.gcd(step, numbers)
    if distance % common:
        return None
    turns = numbers // common
    return -distance // common * pow(step // common, -1, turns) % turns or turns


def _skip(state: "State", middle: _Turn, last: _Turn, periods: int) -> None:
    """Adds what the last period did, some times more."""
    state.later(periods * (last.clock - middle.clock), since=middle.clock)
    for index, (before, now) in enumerate(zip(middle.values, last.values, strict=True)):
        if now is not None and before is not None and now != before:
            state.values[index] = now + periods * (now - before)
    for name, counted in last.tally.items():
        state.tally[name] += periods * (counted - middle.tally.get(name, 0.0))
