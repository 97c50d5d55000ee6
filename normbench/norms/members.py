"""What belongs to each normalization: of the forward pass by the flow of its values, of the backward pass and of what
is repeated for it by the names and lines that JAX gives to what it differentiates, and by who is next to whom.

JAX names the gradient of an operation after it: "transpose(jvp(net))/norm/mul", with the same lines of Python. Where
several normalizations have one name and line (layers called in a Python loop), each operation goes to the nearest one.
"""

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from normbench.fusion.program.graph import CARRIED
from normbench.fusion.program.origins import scope
from normbench.norms.recognise import Match, is_backward, is_repeated, recognised
from normbench.norms.scalars import scalar
from normbench.norms.statistics import MOVES, below_moves
from normbench.norms.values import Frames, Value, Values

Key: TypeAlias = tuple[str, Frames]
FORWARD, BACKWARD, REPEATED = "forward", "backward", "rematerialised"

OWN_TASK = frozenset(
    ["dot", "convolution", "custom-call", "gather", "scatter", "sort", "while", "fft", "select-and-scatter"]
)
_ENDS = OWN_TASK | {"parameter", "constant", "dynamic-slice", CARRIED}
_ELEMENTWISE = frozenset(["add", "subtract", "multiply", "divide", "negate", "maximum", "sqrt", "select", *MOVES])
_FAR = 400


@dataclass(frozen=True)
class Found:
    """A normalization and its values.

    Attributes:
      match: of the forward pass.
      forward, backward, repeated: ids of values.
      around: ids of the activation and additions next to it, which are not its own but could be one launch with it.
      activation: "relu", "silu", "gelu" or "none".
      residual: whether the sum of two tensors is normalised, or the result is added to one.
    """

    match: Match
    forward: frozenset[int]
    backward: frozenset[int]
    repeated: frozenset[int]
    around: frozenset[int]
    activation: str
    residual: bool

    @property
    def members(self) -> frozenset[int]:
        return self.forward | self.backward | self.repeated


def found_in(values: Values) -> tuple[Found, ...]:
    """The normalizations of a program with what belongs to each."""
    matches = recognised(values)
    first = [match for match in matches if not is_repeated(values[match.root].name)] or list(matches)
    again = [match for match in matches if match not in first]
    forward = [_forward(values, match) for match in first]
    repeated = _repetitions(values, first, again)
    seeds = [own | again for own, again in zip(forward, repeated, strict=True)]
    rest = _named_alike(values, seeds)
    return tuple(
        _found(values, match, own, seed | more)
        for match, own, seed, more in zip(first, forward, seeds, rest, strict=True)
    )


def _found(values: Values, match: Match, own: frozenset[int], every: frozenset[int]) -> Found:
    around, activation, residual = _surroundings(values, match)
    passes: dict[str, set[int]] = {FORWARD: set(own), BACKWARD: set(), REPEATED: set()}
    for value in every - own:
        passes[pass_of(values[value].name)].add(value)
    keys = _keys(values, around)
    context = around | {
        value.id for value in values.all if is_backward(value.name) and value.path and _key(value) in keys
        and value.opcode not in OWN_TASK
    }  # fmt: skip
    return Found(
        match=match,
        forward=frozenset(passes[FORWARD]),
        backward=frozenset(passes[BACKWARD]),
        repeated=frozenset(passes[REPEATED]),
        around=context - every,
        activation=activation,
        residual=residual,
    )


def pass_of(name: str) -> str:
    """The pass that an operation belongs to, by JAX's names."""
    return REPEATED if is_repeated(name) else BACKWARD if is_backward(name) else FORWARD


def _key(value: Value) -> Key:
    return scope(value.name), value.frames


def _keys(values: Values, ids: Iterable[int]) -> set[Key]:
    """Of what computes or converts: a parameter may come reshaped from a line far away."""
    telling = (values[one] for one in ids if values[one].opcode not in ("reshape", "broadcast", "transpose"))
    return {key for one in telling if one.path and any(key := _key(one))}


def _forward(values: Values, match: Match) -> frozenset[int]:
    """From the result back to x, to the parameters and to given statistics; and the running statistics."""
    inside = _between(values, match)
    every = inside | _running_statistics(values, match, inside)
    return frozenset(every | _parameters(values, every))


def _between(values: Values, match: Match) -> set[int]:
    stops = {match.x} | ({match.statistic.reduced} if match.statistic.x is None else set())
    x_size = values[match.x].elements
    reaches: dict[int, bool] = {}
    todo = [(match.y, False)]
    while todo:
        value, is_done = todo.pop()
        one = values[value]
        if is_done:
            reaches[value] = any(reaches.get(operand, operand in stops) for operand in one.operands)
            continue
        if value in reaches:
            continue
        if value in stops or (one.opcode in _ENDS and value not in match.statistic.inside) or len(reaches) > _FAR:
            reaches[value] = value in stops
            continue
        reaches[value] = False
        todo.append((value, True))
        todo += [(operand, False) for operand in one.operands if values[operand].elements <= x_size]
    found = {value for value, does in reaches.items() if does and value not in stops}
    found |= set(match.statistic.inside) - stops
    return {value for value in found if values[value].opcode not in ("parameter", CARRIED)}


def _parameters(values: Values, found: set[int]) -> set[int]:
    """The conversions and broadcasts of scale and shift; constants are everybody's."""
    more: set[int] = set()
    for value in found:
        for operand in values[value].operands:
            if scalar(values, operand) is not None:
                continue
            while values[operand].opcode in MOVES and operand not in found:
                more.add(operand)
                operand = values[operand].operands[0]
    return more


def _running_statistics(values: Values, match: Match, inside: set[int]) -> set[int]:
    """Small values that are worked out of the statistics and returned."""
    small = values[match.root].elements
    found: set[int] = set()
    ways: list[list[int]] = [
        [value] for value in inside if values[value].elements <= small and scalar(values, value) is None
    ]
    while ways and len(found) < _FAR:
        way = ways.pop()
        for user in values.users[way[-1]]:
            one = values[user]
            if user in inside or user in found or one.elements > small or one.opcode not in _ELEMENTWISE:
                continue
            if is_backward(one.name) or len(way) > 8:
                continue
            ways.append([*way, user])
            if user in values.outputs:
                found |= {*way[1:], user}
    return found


def _repetitions(values: Values, first: Sequence[Match], again: Sequence[Match]) -> list[frozenset[int]]:
    """The repeated normalizations, each with the one that it repeats: the same name and lines, and the same scale."""
    found: list[set[int]] = [set() for _ in first]
    for match in again:
        key = _key(values[match.root])
        claims: dict[Key, set[int]] = defaultdict(set)
        for place, one in enumerate(first):
            other = _key(values[one.root])
            if _innermost(other) == _innermost(key):
                claims[other].add(place)
        alike = sorted(_claimed(key, claims))
        same = [i for i in alike if _source(values, first[i]) == _source(values, match)]
        for place in (same or alike[-1:])[:1]:
            found[place] |= _forward(values, match)
    return [frozenset(one) for one in found]


def _source(values: Values, match: Match) -> int | None:
    return None if match.scale is None else below_moves(values, match.scale)


def _named_alike(values: Values, seeds: Sequence[frozenset[int]]) -> list[frozenset[int]]:
    """What JAX made of the members for the backward pass: by name and line, else by distance."""
    claims: dict[tuple, dict[Key, set[int]]] = defaultdict(lambda: defaultdict(set))
    for place, seed in enumerate(seeds):
        for key in _keys(values, seed):
            claims[_innermost(key)][key].add(place)
    taken = set().union(*seeds)
    candidates: dict[int, set[int]] = {}
    for value in values.all:
        if value.path and value.id not in taken and value.opcode not in OWN_TASK and pass_of(value.name) != FORWARD:
            key = _key(value)
            if places := _claimed(key, claims.get(_innermost(key), {})):
                candidates[value.id] = places
    found: list[set[int]] = [set() for _ in seeds]
    for one, among in candidates.items():
        if len(among) == 1:
            found[next(iter(among))].add(one)
    for one, place in _nearest(values, seeds, {v: p for v, p in candidates.items() if len(p) > 1}).items():
        found[place].add(one)
    return [frozenset(one) for one in found]


def _innermost(key: Key) -> tuple:
    return key[0], key[1][:1]


def _claimed(key: Key, claims: Mapping[Key, set[int]]) -> set[int]:
    """The sites whose frames agree longest, from the innermost outwards: what is repeated is traced from elsewhere."""
    agreeing = {other: _agreement(key[1], other[1]) for other in claims}
    most = max(agreeing.values(), default=0)
    return set().union(*(claims[other] for other, length in agreeing.items() if length == most))


def _agreement(a: Frames, b: Frames) -> int:
    different = (place for place, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
    return next(different, min(len(a), len(b)))


def _nearest(values: Values, seeds: Sequence[frozenset[int]], candidates: dict[int, set[int]]) -> dict[int, int]:
    """Each candidate with the place of the seed that is nearest by operands and users."""
    found: dict[int, int] = {}
    todo = deque((value, place) for place, seed in enumerate(seeds) for value in seed)
    while todo:
        value, place = todo.popleft()
        for other in (*values.users[value], *values[value].operands):
            if place in candidates.get(other, ()) and other not in found:
                found[other] = place
                todo.append((other, place))
    return found


# --- what stands around it


def _surroundings(values: Values, match: Match) -> tuple[frozenset[int], str, bool]:
    x_size = values[match.x].elements
    users = [u for u in values.users[match.y] if not is_backward(values[u].name)]
    activation, inside = _activation(values, match.y, users)
    before = _addition(values, match.x, x_size)
    after = [u for u in users if _addition(values, u, x_size)]
    around = inside | ({match.x} if before else set()) | set(after)
    return frozenset(around), activation, bool(before or after)


def activation_end(values: Values, match: Match) -> int:
    """The activated result; y itself where nothing activates it."""
    users = [user for user in values.users[match.y] if not is_backward(values[user].name)]
    return max(_activation(values, match.y, users)[1], default=match.y)


def _addition(values: Values, value: int, elements: int) -> bool:
    """Whether a value is the sum of two tensors."""
    one = values[value]
    return one.opcode == "add" and all(
        values[operand].elements == elements and values[below_moves(values, operand)].elements == elements
        for operand in one.operands
    )


_REACH = 24


def _activation(values: Values, y: int, users: Sequence[int]) -> tuple[str, set[int]]:
    """The activation of y: its name, and the values between."""
    seen: set[int] = {y}
    todo = deque(users)
    opcodes: set[str] = set()
    for _ in range(_REACH * 4):
        if not todo:
            break
        one = values[todo.popleft()]
        if one.id in seen or one.elements != values[y].elements or is_backward(one.name):
            continue
        if one.opcode == "maximum":
            return "relu", {one.id}
        if one.opcode not in _OF_ACTIVATIONS:
            continue
        large = [operand for operand in one.operands if values[below_moves(values, operand)].elements > 1]
        if any(operand not in seen for operand in large):
            todo.append(one.id)
            continue
        seen.add(one.id)
        opcodes.add(one.opcode)
        if one.opcode == "multiply" and opcodes & _CURVES and len(large) == 2:
            return ("silu" if opcodes & {"logistic", "exponential"} else "gelu"), seen - {y}
        todo += values.users[one.id]
    return "none", set()


_CURVES = {"logistic", "exponential", "tanh", "erf", "erfc", "custom-call"}
_OF_ACTIVATIONS = {"multiply", "add", "divide", "negate", "power", "convert", "reshape", *_CURVES}
