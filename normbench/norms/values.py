"""The program before optimisation as one graph of values: calls, loops and branches entered.

Here stand the shapes and axes that were written; the compiler's bitcasts, tree reductions and merged products come
later. Each value knows the numbered operation that it is (`normbench.jax_compat.provenance`), by which the optimised
launches are found that compute it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeAlias

from normbench.fusion.hlo import Computation, Instruction, Module, Shape
from normbench.fusion.program.graph import CARRIED

Path: TypeAlias = tuple[int, ...]
"""Numbers of the calls that lead to an operation, and its own."""
Frames: TypeAlias = tuple[tuple[str, int], ...]
_Tree: TypeAlias = "int | tuple[_Tree, ...] | None"

_HANDED_ON = ("opt-barrier", "optimization-barrier", "domain", "copy")
_ANNOTATIONS = ("Sharding", "SPMDFullToShardShape", "SPMDShardToFullShape", "xla.sdy.", "annotate_")
_IN_PARTS = "xla.sdy.manual_computation_body"
BRANCH = "branch"
PART = "part"
"""Of an array, on one device; or the array of such parts."""


@dataclass
class Value:
    """One array of the program.

    Attributes:
      id: place in `Values.all`.
      opcode: of HLO; CARRIED for what a loop takes from the repetition before, BRANCH for the result of a conditional,
        PART for what a device has of an array.
      operands: ids; of a carried value the one before the loop and, last, the one that the next repetition takes.
      path: of its operation; empty where it has no number.
      name: the names of the calls that lead to it and its own, by "/".
      frames: (file, line) of the Python that made it, innermost first; those of the call where it has none itself.
      combiner: opcode by which a reduction combines; "" for anything else.
      in_parts: whether it stands in a `shard_map`, where each device computes with its part.
    """

    id: int
    opcode: str
    shape: Shape
    operands: tuple[int, ...]
    instruction: Instruction
    path: Path
    name: str
    frames: Frames
    combiner: str = ""
    in_parts: bool = False

    @property
    def elements(self) -> int:
        return self.shape.elements


@dataclass(frozen=True)
class Values:
    """The values of a program, operands first.

    Attributes:
      outputs: those that the program returns.
    """

    all: tuple[Value, ...]
    outputs: frozenset[int]

    def __getitem__(self, value: int) -> Value:
        return self.all[value]

    @cached_property
    def users(self) -> tuple[tuple[int, ...], ...]:
        found: list[list[int]] = [[] for _ in self.all]
        for value in self.all:
            for operand in dict.fromkeys(value.operands):
                found[operand].append(value.id)
        return tuple(tuple(users) for users in found)


def read_values(module: Module) -> Values:
    """Follows the values of an unoptimised module from its arguments to its results."""
    walk = _Walk(module)
    arguments = tuple(walk.results(i, i.shape, (), _Context()) for i in module.entry.parameters)
    root = walk.computation(module.entry, arguments, _Context())
    return Values(tuple(walk.values), frozenset(_leaves(root)))


@dataclass(frozen=True)
class _Context:
    """Where a computation is called from."""

    path: Path = ()
    name: str = ""
    frames: Frames = ()
    in_parts: bool = False


@dataclass
class _Walk:
    module: Module
    values: list[Value] = field(default_factory=list)

    def computation(self, computation: Computation, arguments: tuple[_Tree, ...], context: _Context) -> _Tree:
        found: dict[int, _Tree] = {}
        for instruction in computation.instructions:
            operands = tuple(found[operand] for operand in instruction.operands)
            found[instruction.id] = self._step(instruction, operands, arguments, context)
        return found[computation.root_id]

    def _step(
        self, instruction: Instruction, operands: tuple[_Tree, ...], arguments: tuple[_Tree, ...], context: _Context
    ) -> _Tree:
        opcode = instruction.opcode
        if opcode == "parameter":
            return arguments[instruction.parameter_number]
        if opcode == "tuple":
            return operands
        if opcode == "get-tuple-element":
            whole = operands[0]
            return whole[instruction.tuple_index] if isinstance(whole, tuple) else whole
        if opcode in _HANDED_ON:
            return operands[0]
        if instruction.custom_call_target.startswith(_ANNOTATIONS):
            return self._annotated(instruction, operands, context)
        if opcode == "call":
            return self.computation(self._called(instruction, 0), operands, self._inside(instruction, context))
        if opcode == "while":
            return self._loop(instruction, operands[0], context)
        if opcode == "conditional":
            return self._conditional(instruction, operands, context)
        flat = tuple(leaf for operand in operands for leaf in _leaves(operand))
        return self.results(instruction, instruction.shape, flat, context)

    def _annotated(self, instruction: Instruction, operands: tuple[_Tree, ...], context: _Context) -> _Tree:
        """What a sharding is told of is handed on; of what is cut for the devices, or put together, there is a part."""
        if len(operands) == 1 and isinstance(operands[0], tuple):
            operands = operands[0]
        shapes = instruction.shape.leaves or (instruction.shape,)
        if len(shapes) != len(operands):
            return operands[0]
        parts = tuple(self._part(instruction, *pair, context) for pair in zip(shapes, operands, strict=True))
        return parts if instruction.shape.leaves else parts[0]

    def _part(self, instruction: Instruction, shape: Shape, whole: _Tree, context: _Context) -> _Tree:
        if not isinstance(whole, int) or self.values[whole].shape.dimensions == shape.dimensions:
            return whole
        return self._value(PART, shape, (whole,), instruction, context)

    def _called(self, instruction: Instruction, place: int) -> Computation:
        return self.module.computations[instruction.called[place]]

    def _inside(self, instruction: Instruction, context: _Context) -> _Context:
        own = instruction.origins[0] if instruction.origins else ()
        return _Context(
            (*context.path, *own),
            _joined(context.name, instruction.op_name),
            self._frames(instruction, context),
            context.in_parts or self._called(instruction, 0).name.startswith(_IN_PARTS),
        )

    def _frames(self, instruction: Instruction, context: _Context) -> Frames:
        return self.module.frames.get(instruction.frame, ()) or context.frames

    def _loop(self, loop: Instruction, start: _Tree, context: _Context) -> _Tree:
        """The body stands first among the computations that a loop calls."""
        entering = self._carried(loop, start, context)
        end = self.computation(self._called(loop, 0), (entering,), context)
        for before, after in zip(_leaves(entering), _leaves(end), strict=False):
            if before != after:
                carried = self.values[before]
                carried.operands = (*carried.operands, after)
        return end

    def _carried(self, loop: Instruction, tree: _Tree, context: _Context) -> _Tree:
        if isinstance(tree, tuple):
            return tuple(self._carried(loop, part, context) for part in tree)
        if tree is None:
            return None
        return self._value(CARRIED, self.values[tree].shape, (tree,), loop, context)

    def _conditional(self, conditional: Instruction, operands: tuple[_Tree, ...], context: _Context) -> _Tree:
        branches = [
            self.computation(self.module.computations[called], (operand,), context)
            for called, operand in zip(conditional.called, operands[1:], strict=True)
        ]
        return self._one_of(conditional, branches, context)

    def _one_of(self, conditional: Instruction, trees: list[_Tree], context: _Context) -> _Tree:
        first = trees[0]
        if isinstance(first, tuple):
            parts = [[tree[i] for tree in trees if isinstance(tree, tuple)] for i in range(len(first))]
            return tuple(self._one_of(conditional, part, context) for part in parts)
        if first is None:
            return None
        leaves = tuple(leaf for tree in trees for leaf in _leaves(tree))
        return self._value(BRANCH, self.values[first].shape, leaves, conditional, context)

    def results(self, instruction: Instruction, shape: Shape, operands: tuple[int, ...], context: _Context) -> _Tree:
        if shape.element == "tuple":
            return tuple(self.results(instruction, leaf, operands, context) for leaf in shape.leaves)
        if shape.element == "token":
            return None
        return self._value(instruction.opcode, shape, operands, instruction, context)

    def _value(
        self, opcode: str, shape: Shape, operands: tuple[int, ...], instruction: Instruction, context: _Context
    ) -> int:
        own = instruction.origins[0] if instruction.origins else ()
        combines = opcode in ("reduce", "all-reduce") and bool(instruction.called)
        self.values.append(
            Value(
                id=len(self.values),
                opcode=opcode,
                shape=shape,
                operands=operands,
                instruction=instruction,
                path=(*context.path, *own) if own else (),
                name=_joined(context.name, instruction.op_name),
                frames=self._frames(instruction, context),
                combiner=self._called(instruction, -1).root.opcode if combines else "",
                in_parts=context.in_parts,
            )
        )
        return len(self.values) - 1


def _joined(outer: str, inner: str) -> str:
    return f"{outer}/{inner}" if outer else inner


def _leaves(tree: _Tree) -> Iterator[int]:
    if isinstance(tree, tuple):
        for part in tree:
            yield from _leaves(part)
    elif tree is not None:
        yield tree
