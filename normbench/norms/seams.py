"""Where a normalization touches the rest of its program: what a call in its place takes, and what it gives."""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace

from normbench.norms.kinds import varying_axes
from normbench.norms.members import OWN_TASK, Found, activation_end
from normbench.norms.recognise import Match, is_backward
from normbench.norms.scalars import scalar
from normbench.norms.statistics import MOVES, below_moves, is_broadcast, origin
from normbench.norms.values import Values


@dataclass(frozen=True)
class Seams:
    """Ids of values.

    Attributes:
      x, scale, shift: what is normalised, scaled and shifted by; None where there is no scale or shift.
      y: the result, activated where the call is to activate it.
      running: (before, after) of the running mean and variance, where the program returns them.
      dy: the cotangent of y; None without a gradient.
      dx: the parts of the cotangent of x, which the program adds up.
      dscale, dshift: the gradients of scale and shift.
      other: further values of the backward pass that something else reads.
    """

    x: int
    scale: int | None
    shift: int | None
    y: int
    running: dict[str, tuple[int | None, int]]
    dy: int | None = None
    dx: tuple[int, ...] = ()
    dscale: tuple[int, ...] = ()
    dshift: tuple[int, ...] = ()
    other: tuple[int, ...] = ()


def seams_of(values: Values, found: Found, activated: bool, parameter_elements: int) -> Seams:
    """The seams of a normalization.

    Args:
      activated: whether the activation belongs to the call.
      parameter_elements: of scale and shift.

    Raises:
      LookupError: where no operator computes the same, its gradient has not one cotangent, or it is computed again in
        the backward pass.
    """
    match = found.match
    if match.statistic.x is None:
        raise LookupError("its statistics are given")
    if found.repeated:
        raise LookupError("it is computed again in the backward pass")
    _require_the_same(values, match)
    scale = _parameter(values, found, match.scale, parameter_elements)
    forward = Seams(
        x=match.x,
        scale=scale,
        shift=_parameter(values, found, match.shift, parameter_elements, scale),
        y=activation_end(values, match) if activated else match.y,
        running=_running(values, found, parameter_elements),
    )
    return _with_gradient(values, found, activated, forward, parameter_elements) if found.backward else forward


def _require_the_same(values: Values, match: Match) -> None:
    """Raises LookupError where an operator that takes x, a scale and a shift computes something else."""
    if match.beyond:
        raise LookupError(f"{match.beyond}, and an operator scales, then shifts")
    if match.statistic.unbiased:
        raise LookupError("its variance is divided by n - 1, an operator's by n")
    if _is_moved_after_root(values, match.root):
        raise LookupError("its epsilon is added to the root or bounds it, an operator's is added to the variance")
    quotient = (operand for operand in values[match.applied].operands if origin(values, operand) == match.x)
    for value in (*quotient, *_squared(values, match)):
        if not _is_plain(values, match, value):
            raise LookupError("what is normalised is scaled, shifted, masked or transposed first, on the way from x")


def _is_moved_after_root(values: Values, root: int) -> bool:
    """Whether a number is added to the root, or bounds it, before anything is multiplied by it."""
    todo = [root]
    while todo:
        for user in values.users[todo.pop()]:
            one = values[user]
            if one.opcode in ("add", "maximum") and any(scalar(values, operand) for operand in one.operands):
                return True
            todo += [user] * (one.opcode in MOVES)
    return False


def _squared(values: Values, match: Match) -> Iterator[int]:
    """What is squared for the variance."""
    value = match.statistic.reduced
    while values[value].opcode in ("convert", "reshape"):
        value = values[value].operands[0]
    yield from values[value].operands[:1] if values[value].opcode in ("multiply", "power") else (value,)


def _is_plain(values: Values, match: Match, value: int) -> bool:
    """Whether a value is x but for conversions, changes of shape, and what is the same for a whole row, as its mean."""
    while value != match.x:
        one = values[value]
        is_moved = one.opcode == "subtract" and _is_of_rows(values, match, one.operands[1])
        if not is_moved and one.opcode not in ("convert", "reshape", "bitcast"):
            return False
        value = one.operands[0]
    return True


def _is_of_rows(values: Values, match: Match, value: int) -> bool:
    """Whether a value does not vary along the axes of the statistics."""
    statistic = match.statistic
    same = values[value].shape.dimensions == values[statistic.reduced].shape.dimensions
    return statistic.centred and (not same or not set(varying_axes(values, value)) & set(statistic.axes))


def _parameter(values: Values, found: Found, value: int | None, elements: int, scale: int | None = None) -> int | None:
    """The array of a scale or shift as it was before it met the statistics, and the scale."""
    if value is None:
        return None
    base = below_moves(values, value)
    if base not in found.forward:
        if values[base].elements != elements:
            raise LookupError("its scale or shift has another shape than the operator's")
        return base
    stored = set(_stored(values, base, elements, found.match.statistic.inside)) - {scale}
    if len(stored) > 1 or values[base].elements not in (elements, values[found.match.root].elements):
        raise LookupError("its scale or shift cannot be told from what it is worked out with")
    return next(iter(stored), None)


def _stored(values: Values, value: int, elements: int, stops: Collection[int]) -> Iterator[int]:
    """The arguments of the program of which a small value is worked out."""
    todo, seen = [value], set[int]()
    while todo:
        one = values[todo.pop()]
        if one.id in seen or one.elements != elements or one.id in stops:
            continue
        seen.add(one.id)
        if one.opcode == "parameter":
            yield one.id
        todo += one.operands


def _running(values: Values, found: Found, elements: int) -> dict[str, tuple[int | None, int]]:
    statistic = found.match.statistic
    variance = below_moves(values, values[found.match.root].operands[0])
    if values[variance].opcode == "add":
        variance = next(o for o in values[variance].operands if scalar(values, o) is None)
    running: dict[str, tuple[int | None, int]] = {}
    for value in sorted(found.forward & values.outputs):
        if values[value].elements == elements:
            name = "variance" if _reaches(values, value, below_moves(values, variance), found.forward) else "mean"
            running[name] = next(_stored(values, value, elements, statistic.inside), None), value
    return running


def _reaches(values: Values, value: int, wanted: int, within: Collection[int]) -> bool:
    todo, seen = [value], set[int]()
    while todo:
        one = todo.pop()
        if one == wanted:
            return True
        if one not in seen and one in within:
            seen.add(one)
            todo += values[one].operands
    return False


# --- the backward pass


def _with_gradient(values: Values, found: Found, activated: bool, forward: Seams, elements: int) -> Seams:
    size = values[found.match.x].elements
    region = _region(values, found, activated, size)
    dy = _cotangent(values, found, region, size)
    after = _dependent(values, region, dy)
    ends = [v for v in sorted(after) if v in values.outputs or any(u not in region for u in values.users[v])]
    large = tuple(v for v in ends if values[v].elements == size)
    small = [v for v in ends if values[v].elements != size]
    parameters = [v for v in small if values[v].elements == elements and forward.scale is not None]
    scales = tuple(v for v in parameters if _is_of_scale(values, v, size))
    return replace(
        forward,
        dy=dy,
        dx=large,
        dscale=scales,
        dshift=tuple(v for v in parameters if v not in scales),
        other=tuple(v for v in small if v not in parameters),
    )


def _region(values: Values, found: Found, activated: bool, size: int) -> set[int]:
    """The values of the backward pass without those additions in which its cotangents meet others': of x, and of a
    scale that several normalizations have."""
    region = set(found.backward)
    if activated:
        region |= {value for value in found.around if is_backward(values[value].name)}
    region |= _between(values, region)
    for value in sorted(one for one in region if values[one].opcode == "add"):
        if any(_is_foreign(values, operand, region, values[value].elements) for operand in values[value].operands):
            region.discard(value)
    return region


def _between(values: Values, region: Collection[int]) -> set[int]:
    """What lies on a way from a region back into it, but for products."""

    def along(steps: Callable[[int], Iterable[int]]) -> set[int]:
        found, todo = set[int](), list(region)
        while todo:
            for one in steps(todo.pop()):
                if one not in found and is_backward(values[one].name) and values[one].opcode not in OWN_TASK:
                    found.add(one)
                    todo.append(one)
        return found

    return along(lambda one: values.users[one]) & along(lambda one: values[one].operands)


def _is_foreign(values: Values, value: int, region: Collection[int], size: int) -> bool:
    """Whether a large value of the backward pass comes from outside a region."""
    one = values[value]
    return (
        value not in region
        and one.elements == size
        and is_backward(one.name)
        and not is_broadcast(values, value)
    )  # fmt: skip


def _cotangent(values: Values, found: Found, region: Collection[int], size: int) -> int:
    """What enters a region from outside and meets the normalization's own values there; what else was written in the
    same line may be in the region, too."""
    own = {found.match.x, *found.forward}
    entering: dict[int, int] = {}
    for value in sorted(o for one in region for o in values[one].operands if _is_foreign(values, o, region, size)):
        after = _dependent(values, region, value)
        if any(operand in own and scalar(values, operand) is None for one in after for operand in values[one].operands):
            entering.setdefault(below_moves(values, value), value)
    if len(entering) != 1:
        raise LookupError(f"{len(entering)} cotangents enter its gradient, not one")
    return next(iter(entering.values()))


def _dependent(values: Values, region: Collection[int], start: int) -> set[int]:
    found, todo = set[int](), [start]
    while todo:
        for user in values.users[todo.pop()]:
            if user in region and user not in found:
                found.add(user)
                todo.append(user)
    return found


def _is_of_scale(values: Values, value: int, size: int) -> bool:
    """Whether a gradient sums products of cotangents with values of the forward pass."""
    todo, seen = [value], set[int]()
    while todo:
        one = values[todo.pop()]
        if one.id in seen:
            continue
        seen.add(one.id)
        if one.opcode == "multiply" and one.elements == size:
            return any(not is_broadcast(values, o) and not is_backward(values[o].name) for o in one.operands)
        if one.elements < size or one.opcode in ("convert", "reshape"):
            todo += one.operands
    return False
