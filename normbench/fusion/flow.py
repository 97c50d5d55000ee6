"""Where the bytes of each launch come from and go to: arguments, other launches, results of the program."""

from dataclasses import dataclass, field
from typing import Any

from normbench.fusion.hlo import Computation, Instruction, Module
from normbench.fusion.launches import Launch
from normbench.fusion.traffic import operand_bytes

_ALIASES = ("bitcast", "optimization-barrier", "opt-barrier", "copy-done", "async-done", "domain")
_CALLS = ("call", "async-start")


@dataclass(frozen=True)
class Flow:
    """The data of one launch.

    Attributes:
      inputs: (source, bytes) of each operand: the index of the launch that wrote it, or the name of an argument.
      results: bytes of each result of the program that the launch writes.
    """

    inputs: tuple[tuple[int | str, int], ...] = ()
    results: tuple[int, ...] = ()

    def input_lists(self) -> list[list[int | str]]:
        return [[source, size] for source, size in self.inputs]


# The launch that made it, an argument's name, a tuple of values, or None (a constant, a loop's result).
_Value = Any


@dataclass
class _Walk:
    module: Module
    index: dict[str, int]
    inputs: dict[int, list[tuple[int | str, int]]] = field(default_factory=dict)

    def values(self, computation: Computation, arguments: tuple[_Value, ...]) -> _Value:
        """Follows the values of a computation; returns what its root is."""
        found: dict[int, _Value] = {}
        for instruction in computation.instructions:
            operands = tuple(found.get(operand) for operand in instruction.operands)
            found[instruction.id] = self._value(computation, instruction, operands, arguments)
        return found.get(computation.root_id)

    def _value(
        self, computation: Computation, instruction: Instruction, operands: tuple, arguments: tuple[_Value, ...]
    ) -> _Value:
        opcode = instruction.opcode
        if opcode == "parameter":
            return arguments[instruction.parameter_number] if instruction.parameter_number < len(arguments) else None
        if opcode in _ALIASES:
            return operands[0]
        if opcode == "tuple":
            return operands
        if opcode == "get-tuple-element":
            whole = operands[0]
            return whole[instruction.tuple_index] if isinstance(whole, tuple) else whole
        if opcode in _CALLS and instruction.called:
            return self.values(self.module.computations[instruction.called[0]], operands)
        if instruction.name not in self.index:
            return None
        launch = self.index[instruction.name]
        sizes = operand_bytes(self.module, computation, instruction)
        pairs = zip(operands, sizes, strict=False)
        self.inputs[launch] = [(leaf, size) for value, size in pairs for leaf in _leaves(value)[:1] if size]
        return launch


def flows(module: Module, launches: tuple[Launch, ...]) -> tuple[Flow, ...]:
    """The flow of each launch. What is inside loops and branches is not followed: such a launch has no inputs here."""
    walk = _Walk(module, {launch.name: launch.index for launch in launches})
    root = walk.values(module.entry, tuple(_argument_names(module.entry)))
    results: dict[int, list[int]] = {}
    shape = module.entry.root.shape
    shapes = shape.leaves if shape.element == "tuple" else (shape,)
    for value, leaf in zip(root if isinstance(root, tuple) else (root,) * len(shapes), shapes, strict=False):
        if isinstance(value, int):
            results.setdefault(value, []).append(leaf.size_bytes)
    return tuple(
        Flow(tuple(walk.inputs.get(launch.index, ())), tuple(results.get(launch.index, ()))) for launch in launches
    )


def _leaves(value: _Value) -> tuple:
    return (
        tuple(leaf for part in value for leaf in _leaves(part))
        if isinstance(value, tuple)
        else (value,) * (value is not None)
    )


def _argument_names(entry: Computation) -> list[str]:
    """The name of each argument where the compiler kept one, made unique; else arg0, arg1, ..."""
    names: list[str] = []
    for parameter in entry.parameters:
        name = parameter.op_name if parameter.op_name and len(parameter.op_name) <= 24 else ""
        name = name or f"arg{parameter.parameter_number}"
        names.append(name if name not in names else f"{name} #{parameter.parameter_number}")
    return names
