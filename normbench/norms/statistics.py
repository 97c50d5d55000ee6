"""What a square root is taken of: the mean of the squares of a tensor, of its deviations, or a stored variance."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from normbench.fusion.hlo import ATTRIBUTES
from normbench.fusion.program.graph import CARRIED
from normbench.fusion.program.groups import device_groups
from normbench.fusion.wire import integers, message
from normbench.norms.scalars import scalar
from normbench.norms.values import PART, Value, Values

MOVES = frozenset(["broadcast", "reshape", "convert", "bitcast", "transpose", "copy", "reverse"])
"""Opcodes that leave the numbers as they are."""
STORED = frozenset(["parameter", "constant", "slice", "dynamic-slice", "gather", CARRIED, PART])
STEPS = 60
"""How far a chain of operations is followed."""
_ROUNDING = 5e-3  # of 1/n in bfloat16


@dataclass(frozen=True)
class Statistic:
    """The variance, or the mean of squares, of which the root is taken.

    Attributes:
      x: what was reduced, before conversions; None where the statistics are given.
      reduced: the operand of the reduction; its shape and `axes` say over what.
      axes: reduced ones of that shape.
      centred: whether the mean is subtracted.
      inside: values between x, or the stored statistic, and the root.
      one_pass: whether it is E[x²] - E[x]².
      unbiased: whether it is divided by n - 1.
      masked: whether a mask says which terms count.
      devices: whose sums it is the sum of.
      share: 1 of a mean; of a sum the number of its terms, so that x over its root, times sqrt(share), is normalised.
    """

    x: int | None
    reduced: int
    axes: tuple[int, ...]
    centred: bool
    inside: frozenset[int]
    one_pass: bool = False
    unbiased: bool = False
    masked: bool = False
    devices: int = 1
    share: float = 1.0


@dataclass(frozen=True)
class _Count:
    """Terms that a mask leaves: `factor` times the sum of `mask` over `cells` elements, with `fewer` subtracted."""

    mask: int
    cells: int
    devices: int
    factor: float
    fewer: float


@dataclass
class _Sum:
    """A reduction by addition, followed back to what is added.

    Attributes:
      operand: what the first of several reductions adds.
      axes: reduced ones of the operand's shape.
      factor: by which the sum was multiplied.
      inside: values met.
      of_squares: whether it is a product of the operand with itself, which adds its squares.
      count: by which the sum was divided, where it is none of a known number.
      devices: that each have a part of the terms.
    """

    operand: int
    axes: tuple[int, ...]
    factor: float
    inside: set[int]
    of_squares: bool = False
    count: _Count | None = None
    devices: int = 1

    @property
    def mask(self) -> int | None:
        return self.count.mask if self.count else None

    def is_mean(self, values: Values) -> bool:
        """Whether the sum was divided by its number of terms, or one less."""
        count = self.terms(values)
        if not count:
            return False
        if self.count is not None:
            all_cells = abs(self.count.cells * self.count.factor * self.count.devices / count - 1) < _ROUNDING
            fewer = min(abs(self.count.fewer), abs(self.count.fewer - 1))
            return abs(self.factor - 1) < _ROUNDING > fewer and all_cells and _is_masked(values, self)
        return any(abs(self.factor * terms - 1) < _ROUNDING for terms in (count, *([count - 1] if count > 2 else [])))

    def is_unbiased(self, values: Values) -> bool:
        """Whether a mean was rather divided by one less than its number of terms."""
        if self.count is not None:
            return self.count.fewer > 0.5
        count = self.terms(values)
        return abs(self.factor * (count - 1) - 1) < abs(self.factor * count - 1)

    def terms(self, values: Values) -> int:
        shape = values[self.operand].shape.dimensions
        return math.prod(shape[axis] for axis in self.axes) * self.devices


def statistic_of(values: Values, value: int) -> Statistic | None:
    inside: set[int] = set()
    start = _without_epsilon(values, value, inside)
    difference = _difference_of_means(values, start)
    if difference is not None:
        return difference
    total = _sum(values, start)
    if total is not None:
        return _of_sum(values, total, inside)
    array = stored(values, start, inside)
    return None if array is None else Statistic(None, array, (), True, frozenset(inside))


def _of_sum(values: Values, total: _Sum, inside: set[int]) -> Statistic | None:
    """The statistic where the terms of a mean, or of a sum, are squares."""
    squared = total.operand if total.of_squares else _squared(values, total.operand, total.inside, total.mask)
    share = 1.0 if total.is_mean(values) else 0.0 if total.count else total.factor * total.terms(values)
    if squared is None or share <= 0:
        return None
    x, centred = _centred(values, squared, total.inside, total.mask)
    return Statistic(
        x=x,
        reduced=total.operand,
        axes=total.axes,
        centred=centred,
        inside=frozenset(inside | total.inside),
        unbiased=total.is_unbiased(values),
        masked=total.count is not None,
        devices=total.devices,
        share=share,
    )


def _without_epsilon(values: Values, value: int, inside: set[int]) -> int:
    """Below the addition of a number, a bound from below, and the choice of a number where the variance is none."""
    for _ in range(STEPS):
        one = values[value]
        inside.add(value)
        if one.opcode in MOVES or one.opcode == "abs":
            value = one.operands[0]
        elif one.opcode in ("add", "maximum"):
            rest = [operand for operand in one.operands if not is_number(values, operand)]
            if len(rest) != 1:
                return value
            value = rest[0]
        elif one.opcode == "clamp":
            value = one.operands[1]
        elif one.opcode == "select":
            rest = [operand for operand in one.operands[1:] if scalar(values, operand) is None]
            if len(rest) != 1:
                return value
            value = rest[0]
        else:
            return value
    return value


def is_number(values: Values, value: int) -> bool:
    """Whether a value is one number in all places: a constant, or one that the program is given."""
    below = values[below_moves(values, value)]
    return scalar(values, value) is not None or (below.opcode in STORED and below.elements == 1)


def _difference_of_means(values: Values, value: int) -> Statistic | None:
    """E[x²] - E[x]²."""
    one = values[value]
    if one.opcode != "subtract":
        return None
    inside = {value}
    squares = _sum(values, one.operands[0])
    square_of_mean = _squared(values, one.operands[1], inside)
    mean = None if square_of_mean is None else _sum(values, square_of_mean)
    if squares is None or mean is None or mean.of_squares or not (squares.is_mean(values) and mean.is_mean(values)):
        return None
    terms = squares.operand if squares.of_squares else _squared(values, squares.operand, squares.inside, squares.mask)
    if terms is None or (squares.mask, squares.devices) != (mean.mask, mean.devices):
        return None
    x, _ = _centred(values, terms, squares.inside, squares.mask)
    if origin(values, _unmasked(values, mean.operand, mean.mask)) != origin(values, x):
        return None
    return Statistic(
        x=x,
        reduced=squares.operand,
        axes=squares.axes,
        centred=True,
        inside=frozenset(inside | squares.inside | mean.inside),
        one_pass=True,
        masked=mean.count is not None,
        devices=mean.devices,
    )


def _sum(values: Values, value: int) -> _Sum | None:
    """The sum that a value is, up to constant factors and a division by what a mask counts; of sums over several axes
    one after the other, or of several devices, the whole."""
    inside: set[int] = set()
    factor, devices = 1.0, 1
    found: _Sum | None = None
    count: _Count | None = None
    piece: int | None = None
    for _ in range(STEPS):
        one = values[value]
        if one.opcode == "reduce" and one.combiner == "add" and len(one.operands) == 2 and piece is None:
            inside.add(value)
            axes = one.instruction.dimensions
            found = _Sum(one.operands[0], axes if found is None else _merged(values, one.operands[0], axes, found),
                         factor, inside, count=count, devices=devices)  # fmt: skip
            value = one.operands[0]
        elif found is None and (axes_of_squares := _contracted_with_itself(values, value)) is not None:
            operand = one.operands[0]
            return _Sum(operand, axes_of_squares, factor, inside | {value}, True, count=count, devices=devices)
        elif one.opcode in MOVES or one.opcode in ("all-reduce", "opt-barrier"):
            if found is None:
                inside.add(value)
                devices *= _together(one)
            value = one.operands[0]
            if found is not None and not _leads_to_sum(values, value):
                return found
        elif found is None and one.opcode == "slice" and piece is None:
            piece, value = value, one.operands[0]
        elif piece is not None and one.opcode == "concatenate":
            taken = _piece(values, value, piece)
            if taken is None:
                return None
            piece, value = None, taken
        elif found is None and one.opcode in ("multiply", "divide"):
            numbers = [scalar(values, operand) for operand in one.operands]
            if one.opcode == "divide" and numbers[1]:
                factor, value = factor / numbers[1], one.operands[0]
            elif one.opcode == "divide" and not count and (count := _count(values, one.operands[1])) is not None:
                value = one.operands[0]
            elif one.opcode == "multiply" and (numbers[0] is None) != (numbers[1] is None):
                place = 0 if numbers[0] is None else 1
                factor, value = factor * (numbers[1 - place] or 0.0), one.operands[place]
            else:
                return None
            inside.add(one.id)
        else:
            return found
    return found


def _together(one: Value) -> int:
    """Of how many devices a value adds up the parts; 0 where that is not told, 1 where it is no such sum."""
    if one.opcode != "all-reduce":
        return 1
    return max(map(len, device_groups(one.instruction)), default=0) if one.combiner == "add" else 0


def _piece(values: Values, whole: int, piece: int) -> int | None:
    """The operand of a concatenation that a slice takes out again, after what was done to all of them."""
    one, (axis, *_) = values[whole], values[whole].instruction.dimensions
    begin, end, _ = values[piece].instruction.slices[axis]
    place = 0
    for operand in one.operands:
        size = values[operand].shape.dimensions[axis]
        if (place, place + size) == (begin, end):
            return operand
        place += size
    return None


def _count(values: Values, value: int) -> _Count | None:
    """What a divisor counts: the sum of a mask up to constants, and bounds from below."""
    factor, fewer, devices = 1.0, 0.0, 1
    for _ in range(STEPS):
        one = values[value]
        operands = one.operands[1:] if one.opcode == "select" else one.operands
        if one.opcode == "reduce" and one.combiner == "add" and len(operands) == 2:
            sizes = values[operands[0]].shape.dimensions
            cells = math.prod(sizes[axis] for axis in one.instruction.dimensions)
            return _Count(below_moves(values, operands[0]), cells, devices, factor, fewer)
        if one.opcode in MOVES or one.opcode == "all-reduce":
            devices *= _together(one)
            value = operands[0]
            continue
        numbers = [scalar(values, operand) for operand in operands]
        if one.opcode not in ("multiply", "add", "subtract", "maximum", "select") or numbers.count(None) != 1:
            return None
        place = numbers.index(None)
        number, value = numbers[1 - place] or 0.0, operands[place]
        if one.opcode == "multiply":
            factor *= number
        elif one.opcode == "add" or (one.opcode == "subtract" and place == 0):
            fewer += factor * (number if one.opcode == "subtract" else -number)
        elif one.opcode == "subtract":
            return None
    return None


def _unmasked(values: Values, value: int, mask: int | None) -> int:
    """What a value is where the mask is not 0; the value itself, where it is not masked."""
    one = values[value]
    if mask is not None and one.opcode in ("select", "multiply"):
        others = [operand for operand in one.operands if below_moves(values, operand) != mask]
        kept = _apart_from_zeros(values, tuple(others)) if one.opcode == "select" else others
        if len(others) < len(one.operands) and len(kept) == 1:
            return kept[0]
    return value


def _is_masked(values: Values, total: _Sum) -> bool:
    """Whether the terms of a sum, or what they are squares of, are masked by what it was divided by."""
    value = total.operand
    for _ in range(STEPS):
        one = values[value]
        if _unmasked(values, value, total.mask) != value:
            return True
        if one.opcode not in MOVES and not (one.opcode in ("multiply", "power") and _is_square(values, value)):
            return False
        value = one.operands[0]
    return False


def below_moves(values: Values, value: int) -> int:
    """What a value is up to conversions, changes of shape and repetition."""
    while values[value].opcode in MOVES:
        value = values[value].operands[0]
    return value


def _contracted_with_itself(values: Values, value: int) -> tuple[int, ...] | None:
    """The axes over which a product adds the squares of its operand: einsum("...d,...d->...", x, x)."""
    one = values[value]
    data = one.instruction.attributes.get(ATTRIBUTES["dot dimensions"]) if one.opcode == "dot" else None
    if not isinstance(data, bytes) or not _same(values, *one.operands):
        return None
    fields = message(data)
    left, right, left_batch, right_batch = (integers(fields.get(place, [])) for place in (1, 2, 3, 4))
    whole = len(left) + len(left_batch) == len(values[one.operands[0]].shape.dimensions)
    return left if left == right and left_batch == right_batch and whole else None


def _leads_to_sum(values: Values, value: int) -> bool:
    while values[value].opcode in MOVES:
        value = values[value].operands[0]
    return values[value].opcode == "reduce"


def _merged(values: Values, operand: int, axes: tuple[int, ...], later: _Sum) -> tuple[int, ...]:
    """Axes of the operand of an earlier sum over which both sums go, where the shapes between them agree."""
    shape = values[operand].shape.dimensions
    kept = [axis for axis in range(len(shape)) if axis not in axes]
    after = values[later.operand].shape.dimensions
    left = [size for axis, size in enumerate(after) if axis not in later.axes]
    gone = [axis for axis in kept if shape[axis] not in left]
    return tuple(sorted((*axes, *gone)))


def _squared(values: Values, value: int, inside: set[int], mask: int | None = None) -> int | None:
    """z of a value that is z² or |z|², perhaps masked, with zeros or by `mask`, and converted."""
    for _ in range(STEPS):
        one = values[value]
        inside.add(value)
        if one.opcode in MOVES:
            value = one.operands[0]
        elif one.opcode == "select":
            rest = [operand for operand in one.operands[1:] if scalar(values, operand) != 0.0]
            if len(rest) != 1:
                return None
            value = rest[0]
        elif _is_square(values, value):
            return one.operands[0]
        elif (below := _unmasked(values, value, mask)) != value:
            value = below
        else:
            return None
    return None


def _is_square(values: Values, value: int) -> bool:
    one = values[value]
    if one.opcode == "power":
        return scalar(values, one.operands[1]) == 2.0
    return one.opcode == "multiply" and _same(values, *one.operands)


def _same(values: Values, a: int, b: int) -> bool:
    def below(value: int) -> int:
        while values[value].opcode in ("convert", "abs", "reshape"):
            value = values[value].operands[0]
        return value

    return below(a) == below(b)


def _centred(values: Values, value: int, inside: set[int], mask: int | None = None) -> tuple[int, bool]:
    """x of x - mean or of x, below conversions and changes of shape; and whether something broadcast is subtracted."""
    centred = False
    for _ in range(STEPS):
        one = values[value]
        if one.opcode in ("convert", "reshape", "abs", "bitcast"):
            inside.add(value)
            value = one.operands[0]
        elif one.opcode == "subtract" and not centred and is_broadcast(values, one.operands[1]):
            inside.add(value)
            centred = is_mean_of(values, one.operands[1], one.operands[0])
            value = one.operands[0]
        elif one.opcode == "select" and len(_apart_from_zeros(values, one.operands[1:])) == 1:
            inside.add(value)
            value = _apart_from_zeros(values, one.operands[1:])[0]
        elif not centred and (below := _unmasked(values, value, mask)) != value:
            inside.add(value)
            value = below
        else:
            return value, centred
    return value, centred


def _apart_from_zeros(values: Values, operands: tuple[int, ...]) -> list[int]:
    return [operand for operand in operands if scalar(values, operand) != 0.0]


def is_mean_of(values: Values, mean: int, x: int) -> bool:
    total = _sum(values, mean)
    return (
        total is not None
        and not total.of_squares
        and total.is_mean(values)
        and origin(values, x)
        in (origin(values, total.operand), origin(values, _unmasked(values, total.operand, total.mask)))
    )


def stored(values: Values, value: int, inside: set[int]) -> int | None:
    """The stored array that a value is up to conversions, where it is more than one number."""
    for _ in range(STEPS):
        one = values[value]
        inside.add(value)
        if one.opcode in STORED:
            return value if one.elements > 1 and scalar(values, value) is None else None
        if one.opcode not in MOVES:
            return None
        value = one.operands[0]
    return None


def is_broadcast(values: Values, value: int) -> bool:
    """Whether a value repeats a smaller one."""
    return before_broadcast(values, value) is not None


def before_broadcast(values: Values, value: int) -> int | None:
    """The smaller array that a value repeats."""
    elements = values[value].elements
    for _ in range(STEPS):
        one = values[value]
        if one.elements < elements or one.opcode == "constant":
            return value
        if one.opcode not in MOVES:
            return None
        value = one.operands[0]
    return None


def origin(values: Values, value: int) -> int:
    """x of a value that is x converted, in another shape, or with something broadcast subtracted or multiplied."""
    *_, last = _way_to_origin(values, value)
    return last


def subtracted(values: Values, value: int) -> int | None:
    """What is subtracted last, broadcast, on the way from the origin to a value; None where nothing is."""
    for one in map(values.__getitem__, _way_to_origin(values, value)):
        if one.opcode == "subtract" and is_broadcast(values, one.operands[1]):
            return one.operands[1]
    return None


def _way_to_origin(values: Values, value: int) -> Iterator[int]:
    before: int | None = value
    for _ in range(STEPS + 1):
        if before is None:
            return
        yield before
        before = _towards_origin(values, before)


def _towards_origin(values: Values, value: int) -> int | None:
    one = values[value]
    if one.opcode in ("convert", "reshape", "bitcast", "transpose"):
        return one.operands[0]
    if one.opcode == "select" and len(_apart_from_zeros(values, one.operands[1:])) == 1:
        return _apart_from_zeros(values, one.operands[1:])[0]
    if one.opcode in ("subtract", "multiply", "divide") and is_broadcast(values, one.operands[1]):
        return one.operands[0]
    if one.opcode == "multiply" and is_broadcast(values, one.operands[0]):
        return one.operands[1]
    return None
