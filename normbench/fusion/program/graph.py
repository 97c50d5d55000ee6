"""The values of a compiled program and the launches that compute them, as one graph.

Fusions, calls, loops and branches are entered: a node is one operation on one array wherever it stands, and knows the
launch that it belongs to. What a loop only hands on keeps its node; what it changes enters as a node "carried", whose
operand is the value before the loop. Of a conditional the branch that moves most bytes stands for it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeAlias

from normbench.fusion.hlo import Computation, Instruction, Module, Shape
from normbench.fusion.launches import Launch, Place, is_launch, launch_of, trip_count
from normbench.fusion.traffic import operand_bytes, result_shape

CARRIED = "carried"
"""Opcode of the node for a value that each repetition of a loop takes from the one before."""

_ALIASES = frozenset(["bitcast", "opt-barrier", "optimization-barrier", "domain", "add-dependency"])
_CALLS = ("call", "async-start")


@dataclass
class Node:
    """One operation on one array.

    Attributes:
      id: place in `Program.nodes`.
      opcode: of HLO, or CARRIED.
      operands: ids of nodes; of a carried value the one before the loop.
      launch: index of the launch that it belongs to; None for arguments and constants.
      instruction: that it was made of; for a tuple's member, of the whole.
      following: of a carried value, the node that the next repetition takes.
    """

    id: int
    opcode: str
    shape: Shape
    operands: tuple[int, ...]
    launch: int | None
    instruction: Instruction
    following: int | None = None


Value: TypeAlias = "int | tuple[Value, ...] | None"
"""A node, a tuple of values, or nothing (a token)."""


@dataclass(frozen=True)
class Program:
    """A module with its values and launches.

    Attributes:
      parameters: node of each argument.
      outputs: node of each result, flat.
      branches: which branch stands for each conditional, in the order in which they are met.
    """

    module: Module
    nodes: tuple[Node, ...]
    launches: tuple[Launch, ...]
    parameters: tuple[int, ...]
    outputs: tuple[int | None, ...]
    branches: tuple[int, ...] = ()

    @cached_property
    def readers(self) -> dict[int, tuple[int, ...]]:
        """Launches that read each value, by its node."""
        found: dict[int, dict[int, None]] = {}
        for launch in self.launches:
            for value, _ in launch.reads:
                found.setdefault(value, {})[launch.index] = None
        return {value: tuple(readers) for value, readers in found.items()}

    @cached_property
    def carried_from(self) -> dict[int, tuple[int, ...]]:
        """The carried values that a node is handed on to in the next repetition of a loop."""
        found: dict[int, list[int]] = {}
        for node in self.nodes:
            if node.following is not None:
                found.setdefault(node.following, []).append(node.id)
            if node.opcode == CARRIED:
                found.setdefault(node.operands[0], []).append(node.id)
        return {key: tuple(value) for key, value in found.items()}

    def started_from(self, value: int) -> int:
        """The value before the loop, where it is one that the loop carries on."""
        while self.nodes[value].opcode == CARRIED:
            value = self.nodes[value].operands[0]
        return value

    def users(self, value: int) -> tuple[int, ...]:
        """Launches that read a value, also in the next repetition of a loop or as what a loop starts from."""
        found: list[int] = []
        todo, seen = [value], set()
        while todo:
            one = todo.pop()
            if one in seen:
                continue
            seen.add(one)
            found += self.readers.get(one, ())
            todo += self.carried_from.get(one, ())
        return tuple(dict.fromkeys(found))

    @property
    def executed(self) -> int:
        """Launches with their repetitions."""
        return sum(launch.repetitions for launch in self.launches)


def read_graph(module: Module, branches: tuple[int, ...] = ()) -> Program:
    """Follows the values of a module from its arguments to its results.

    `branches` of the same program at another stage of compilation make the same ones stand for the conditionals.
    """
    walk = _Walk(module, branches)
    parameters = tuple(walk.parameter(instruction) for instruction in module.entry.parameters)
    root = walk.computation(module.entry, parameters, Place())
    return Program(
        module=module,
        nodes=tuple(walk.nodes),
        launches=tuple(walk.launches),
        parameters=tuple(next(iter(leaves(value)), -1) for value in parameters),
        outputs=tuple(_flat(root)),
        branches=tuple(walk.chosen),
    )


def leaves(value: Value) -> Iterator[int]:
    """The nodes of a value, flat."""
    if isinstance(value, tuple):
        for part in value:
            yield from leaves(part)
    elif value is not None:
        yield value


def _flat(value: Value) -> Iterator[int | None]:
    if isinstance(value, tuple):
        for part in value:
            yield from _flat(part)
    else:
        yield value


@dataclass
class _Walk:
    module: Module
    given: tuple[int, ...]
    chosen: list[int] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    launches: list[Launch] = field(default_factory=list)

    def parameter(self, instruction: Instruction) -> Value:
        return self._results(instruction, instruction.shape, (), None)

    def computation(self, computation: Computation, arguments: tuple[Value, ...], place: Place) -> Value:
        """Walks over what is executed at the top level of a computation; returns the value of its root."""
        values: dict[int, Value] = {}
        for instruction in self.module.scheduled(computation):
            values[instruction.id] = self._step(computation, instruction, values, arguments, place)
        return values[computation.root_id]

    def _step(
        self,
        computation: Computation,
        instruction: Instruction,
        values: dict[int, Value],
        arguments: tuple[Value, ...],
        place: Place,
    ) -> Value:
        opcode = instruction.opcode
        operands = tuple(values[operand] for operand in instruction.operands)
        if opcode == "parameter":
            return arguments[instruction.parameter_number]
        if opcode == "while":
            return self._loop(instruction, operands[0], place)
        if opcode == "conditional":
            return self._conditional(instruction, operands, place)
        if opcode in _CALLS and instruction.called:
            inner = replace(place, start=instruction) if opcode == "async-start" else place
            return self.computation(self.module.computations[instruction.called[0]], operands, inner)
        if opcode.endswith("-done") or opcode == "async-update":
            self._end(opcode, operands[0])
            return operands[0]
        if not is_launch(instruction):
            return self._alias(instruction, operands)
        return self._launch(computation, instruction, operands, place)

    def _end(self, opcode: str, value: Value) -> None:
        """Notes where the second half of a launch stands."""
        launch = next((self.nodes[leaf].launch for leaf in leaves(value)), None)
        if launch is not None and opcode != "async-update":
            self.launches[launch] = replace(self.launches[launch], ended_before=len(self.launches))

    def _alias(self, instruction: Instruction, operands: tuple[Value, ...]) -> Value:
        """The value of an instruction that moves no data."""
        opcode = instruction.opcode
        if opcode == "tuple":
            return operands
        if opcode == "get-tuple-element":
            whole = operands[0]
            return whole[instruction.tuple_index] if isinstance(whole, tuple) else whole
        if opcode in _ALIASES:
            return operands[0]
        joined = tuple(leaf for operand in operands for leaf in leaves(operand)) if opcode == "custom-call" else ()
        return self._results(instruction, instruction.shape, joined, None)

    def _launch(
        self, computation: Computation, instruction: Instruction, operands: tuple[Value, ...], place: Place
    ) -> Value:
        index = len(self.launches)
        launch = launch_of(self.module, computation, instruction, place, index)
        self.launches.append(launch)
        if instruction.opcode == "fusion":
            value = self._fused(self.module.computations[instruction.called[0]], operands, index)
        else:
            flat = tuple(leaf for operand in operands for leaf in leaves(operand))
            value = self._results(instruction, result_shape(instruction), flat, index)
        reads = tuple(self._reads(operands, operand_bytes(self.module, computation, instruction)))
        self.launches[index] = replace(launch, reads=reads, results=tuple(leaves(value)))
        return value

    def _reads(self, operands: tuple[Value, ...], sizes: tuple[int, ...]) -> Iterator[tuple[int, int]]:
        for operand, size in zip(operands, sizes, strict=False):
            if isinstance(operand, tuple):
                yield from ((leaf, self.nodes[leaf].shape.memory_bytes) for leaf in leaves(operand))
            elif operand is not None:
                yield operand, size

    def _fused(self, fused: Computation, arguments: tuple[Value, ...], index: int) -> Value:
        values: dict[int, Value] = {}
        for instruction in fused.instructions:
            operands = tuple(values[operand] for operand in instruction.operands)
            if instruction.opcode == "parameter":
                values[instruction.id] = arguments[instruction.parameter_number]
            elif instruction.opcode in ("fusion", "call"):
                inner = self.module.computations[instruction.called[0]]
                values[instruction.id] = self._fused(inner, operands, index)
            elif instruction.opcode in ("tuple", "get-tuple-element") or instruction.opcode in _ALIASES:
                values[instruction.id] = self._alias(instruction, operands)
            else:
                flat = tuple(leaf for operand in operands for leaf in leaves(operand))
                values[instruction.id] = self._results(instruction, instruction.shape, flat, index)
        return values[fused.root_id]

    def _results(self, instruction: Instruction, shape: Shape, operands: tuple[int, ...], launch: int | None) -> Value:
        if shape.element == "tuple":
            return tuple(self._results(instruction, leaf, operands, launch) for leaf in shape.leaves)
        if shape.element == "token":
            return None
        return self._node(instruction.opcode, shape, operands, launch, instruction)

    def _node(
        self, opcode: str, shape: Shape, operands: tuple[int, ...], launch: int | None, instruction: Instruction
    ) -> int:
        self.nodes.append(Node(len(self.nodes), opcode, shape, operands, launch, instruction))
        return self.nodes[-1].id

    # --- loops and branches

    def _loop(self, loop: Instruction, start: Value, place: Place) -> Value:
        """Body first in `called`, condition second. The condition runs where the compiler does not know the length."""
        body, condition = (self.module.computations[c] for c in loop.called)
        count = trip_count(loop)
        inner = replace(
            place,
            repetitions=place.repetitions * (1 if count is None else count),
            repetitions_known=place.repetitions_known and count is not None,
            loop=loop.name,
        )
        whole = start if isinstance(start, tuple) else (start,)
        entering = tuple(
            part if _is_handed_on(self.module, body, index) else self._carried(loop, part)
            for index, part in enumerate(whole)
        )
        argument: Value = entering if isinstance(start, tuple) else entering[0]
        if count is None:
            self.computation(condition, (argument,), inner)
        if count == 0:
            return start
        end = self.computation(body, (argument,), inner)
        for before, after in zip(leaves(argument), leaves(end), strict=False):
            if self.nodes[before].opcode == CARRIED and before != after:
                self.nodes[before].following = after
        return end

    def _carried(self, loop: Instruction, value: Value) -> Value:
        if isinstance(value, tuple):
            return tuple(self._carried(loop, part) for part in value)
        if value is None:
            return None
        return self._node(CARRIED, self.nodes[value].shape, (value,), None, loop)

    def _conditional(self, conditional: Instruction, operands: tuple[Value, ...], place: Place) -> Value:
        count = len(conditional.called)
        words = f"1 of {count} branches"
        inner = replace(place, branch=f"{place.branch}, {words}" if place.branch else words)

        def walk(branch: int) -> Value:
            self.chosen.append(branch)
            return self.computation(
                self.module.computations[conditional.called[branch]], (operands[branch + 1],), inner
            )

        if len(self.chosen) < len(self.given):
            return walk(min(self.given[len(self.chosen)], count - 1))
        nodes, launches, chosen = len(self.nodes), len(self.launches), len(self.chosen)
        moved = []
        for branch in range(count):
            walk(branch)
            moved.append(sum(launch.read_bytes + launch.write_bytes for launch in self.launches[launches:]))
            del self.nodes[nodes:], self.launches[launches:], self.chosen[chosen:]
        return walk(moved.index(max(moved)))


def _is_handed_on(module: Module, body: Computation, index: int) -> bool:
    """Whether a loop's body hands member `index` of what it carries on as it is."""
    root = body.root
    if root.opcode != "tuple" or index >= len(root.operands):
        return False
    return _comes_from_member(module, body, body.by_id[root.operands[index]], index)


def _comes_from_member(module: Module, body: Computation, value: Instruction, index: int) -> bool:
    if value.opcode != "get-tuple-element":
        return False
    whole = body.by_id[value.operands[0]]
    if whole.opcode == "parameter":
        return value.tuple_index == index
    if whole.opcode != "while":
        return False
    start = body.by_id[whole.operands[0]]
    inner = module.computations[whole.called[0]]
    return (
        start.opcode == "tuple"
        and _is_handed_on(module, inner, value.tuple_index)
        and _comes_from_member(module, body, body.by_id[start.operands[value.tuple_index]], index)
    )
