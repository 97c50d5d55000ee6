"""Lower bounds on traffic that hold for any function: what must be read and written, and read again.

Two bounds are stated, and the traffic ratio is taken against the first:

* minimum: each used input once (constants that are arrays are inputs) and each output once, an output in no wider a
  dtype than the tensors that it is made of element by element (mixed-dtype arithmetic that promotes is a choice of the
  program, not a need of the mathematics), unless the program declares that its width is meant
  (`normbench.declared.WIDE_OUTPUTS`); of an output that takes the memory of a donated input, what is updated in it;
* streaming minimum: a normalization needs the statistics before it can use them. Where what one statistic reduces
  does not fit the registers and shared memory of one multiprocessor, and the tensor does not fit the last-level cache
  either, the tensor has to be read a second time.
"""

import math
from dataclasses import dataclass

from normbench.declared import WIDE_OUTPUTS
from normbench.fusion.hlo import Computation, Instruction, Module, Shape, inlined_entry
from normbench.fusion.program.barriers import written_bytes
from normbench.fusion.program.graph import CARRIED, Node, Program
from normbench.fusion.program.made_of import FLOATS, PRODUCTS, float_sources

_FLOATS = ("f16", "bf16", "f32", "f64")
_MOVES = ("convert", "copy", "transpose", "reshape")
_UPDATES = ("dynamic-update-slice", "scatter", "copy", CARRIED)
_REDUCTIONS = ("reduce", "reduce-window")
_SECTOR_BYTES = 32  # the smallest read from device memory on NVIDIA GPUs


def outputs(module: Module) -> tuple[Shape, ...]:
    """Shapes of the results, flat."""
    return _leaves(module.entry.root.shape)


def _leaves(shape: Shape) -> tuple[Shape, ...]:
    if shape.element != "tuple":
        return (shape,)
    return tuple(leaf for member in shape.leaves for leaf in _leaves(member))


@dataclass(frozen=True)
class Promotion:
    """A result that is wider than what it is made of."""

    output: int
    wide: Shape
    narrow: Shape

    @property
    def excess_bytes(self) -> int:
        return self.wide.elements * (self.wide.bits - self.narrow.bits) // 8


def promotions(program: Program) -> tuple[Promotion, ...]:
    """Results in a wider floating-point dtype than every array that they are made of element by element, where these
    are arguments, or products that arithmetic then widens, and where the width is not declared."""
    if _width_is_declared(program.module):
        return ()
    found = []
    for place, value in enumerate(program.outputs):
        narrow = None if value is None else _widest_source(program, value)
        if value is not None and narrow is not None:
            found.append(Promotion(place, program.nodes[value].shape, narrow))
    return tuple(found)


def _widest_source(program: Program, value: int) -> Shape | None:
    """The widest array that a result is made of, where that is narrower; None where it is not."""
    shape = program.nodes[value].shape
    if shape.element not in FLOATS or shape.elements <= 1:
        return None
    made_of = [program.nodes[one] for one in float_sources(program, value)]
    if not made_of or any(node.shape.bits >= shape.bits or not _is_given(program, node, value) for node in made_of):
        return None
    return max((node.shape for node in made_of), key=lambda one: one.bits)


def _is_given(program: Program, node: Node, value: int) -> bool:
    """An argument; or a product, unless the result is nothing but that product in another dtype."""
    if node.opcode in PRODUCTS:
        return not _is_only_converted(program, value)
    return node.opcode == "parameter"


def _is_only_converted(program: Program, value: int) -> bool:
    while program.nodes[value].opcode in _MOVES:
        value = program.nodes[value].operands[0]
    return program.nodes[value].opcode in PRODUCTS


def _width_is_declared(module: Module) -> bool:
    """Whether any instruction was made under the declaration."""
    return any(WIDE_OUTPUTS in one.op_name for part in module.computations.values() for one in part.instructions)


def minimum_bytes(program: Program) -> int:
    """Bytes that any program with these inputs and outputs has to move; see the module's docstring."""
    excess = sum(promotion.excess_bytes for promotion in promotions(program))
    return _input_bytes(program) + _output_bytes(program) - excess


def _input_bytes(program: Program) -> int:
    """Of arguments, and of constants that are arrays (what a function closes over), what is read, at most once."""
    read: dict[int, int] = {}
    for launch in program.launches:
        for value, size in launch.reads:
            first = program.started_from(value)  # what a loop changes is read from the argument in the first repetition
            repetitions = launch.repetitions if first == value else 1
            read[first] = read.get(first, 0) + size * repetitions
    inputs = {value for value in program.parameters if value >= 0}
    inputs |= {node.id for node in program.nodes if node.opcode == "constant" and node.shape.elements > 1}
    return sum(min(program.nodes[value].shape.size_bytes, read.get(value, 0)) for value in inputs)


def _output_bytes(program: Program) -> int:
    total = 0
    for place, value in enumerate(program.outputs):
        if value is not None:
            total += _needed_bytes(program, place, value)
    return total


def _needed_bytes(program: Program, place: int, value: int) -> int:
    """What has to be written of a result: all of it, unless it takes the memory of an argument of which only parts are
    updated."""
    size = program.nodes[value].shape.size_bytes
    parameter = program.module.aliases.get(place)
    touched = 0
    while (node := program.nodes[value]).opcode in _UPDATES:
        if node.opcode in ("dynamic-update-slice", "scatter"):
            repetitions = program.launches[node.launch].repetitions if node.launch is not None else 1
            touched += written_bytes(program, value) * repetitions
        value = node.operands[0]
    if node.opcode != "parameter":
        return size
    is_same = parameter is not None and program.parameters[parameter] == value
    return min(size, touched) if is_same else size


def streaming_minimum_bytes(minimum: int, unoptimised: Module, cache_bytes: int, core_memory_bytes: int) -> int:
    """The minimum, and one more read of every input that has to be read twice on a device with this memory.

    Args:
      minimum: the first bound.
      unoptimised: the module before optimisation, in which the mathematics is still to be seen.
      cache_bytes: last-level cache.
      core_memory_bytes: registers and shared memory of one multiprocessor.
    """
    entry = inlined_entry(unoptimised)
    again = 0
    for parameter in entry.parameters:
        size = parameter.shape.size_bytes
        if size > cache_bytes and _reduced_bytes(entry, parameter) > core_memory_bytes:
            again += size
    return minimum + again


def _reduced_bytes(entry: Computation, parameter: Instruction) -> int:
    """Bytes of `parameter` behind one statistic that is combined with it again; 0 where there is none."""
    derived = _derived(entry, parameter)
    found = 0
    for instruction in entry.instructions:
        if instruction.id in derived and instruction.opcode in _REDUCTIONS:
            operand = entry.by_id[instruction.operands[0]]
            if operand.shape.elements >= parameter.shape.elements and meets_again(entry, instruction, parameter):
                found = max(found, _bytes_per_result(operand, instruction, parameter.shape.bits))
    return found


def _bytes_per_result(operand: Instruction, reduction: Instruction, bits: int) -> int:
    """Bytes that have to be on the chip to finish one result, memory being read in sectors.

    Where the minor-most dimension is not reduced, neighbouring results share their sectors and come together.
    """
    per_result = operand.shape.elements // max(1, _result_elements(reduction))
    rank = len(operand.shape.dimensions)
    together = 1 if rank - 1 in reduction.dimensions else min(_SECTOR_BYTES * 8 // bits, operand.shape.dimensions[-1])
    return math.ceil(per_result * together * bits / 8)


def _result_elements(reduction: Instruction) -> int:
    return max((leaf.elements for leaf in _leaves(reduction.shape)), default=1)


def _derived(entry: Computation, start: Instruction) -> set[int]:
    """Ids of everything that depends on `start`."""
    found = {start.id}
    for instruction in entry.instructions:
        if found.intersection(instruction.operands):
            found.add(instruction.id)
    return found


def meets_again(entry: Computation, reduction: Instruction, parameter: Instruction) -> bool:
    """Whether a tensor as large as `parameter` depends on the statistic."""
    after = _derived(entry, reduction)
    return any(
        entry.by_id[i].shape.element in _FLOATS and entry.by_id[i].shape.elements >= parameter.shape.elements
        for i in after - {reduction.id}
        if entry.by_id[i].opcode not in ("broadcast", "tuple")
    )
