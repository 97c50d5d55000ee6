"""Lower bounds on traffic that hold for any function: what must be read and written, and read again.

Two bounds are stated, and the traffic ratio is taken against the first:

* minimum: each used input once and each output once, an output in no wider a dtype than the tensor that it was made
  of (mixed-dtype arithmetic that promotes is a choice of the program, not a need of the mathematics), unless the
  program declares that its width is meant (`normbench.declared.WIDE_OUTPUTS`);
* streaming minimum: a normalization needs the statistics before it can use them. Where what one statistic reduces
  does not fit the registers and shared memory of one multiprocessor, and the tensor does not fit the last-level cache
  either, the tensor has to be read a second time.
"""

import math

from normbench.declared import WIDE_OUTPUTS
from normbench.fusion.hlo import Computation, Instruction, Module, Shape, inlined_entry
from normbench.fusion.launches import Launch

_FLOATS = ("f16", "bf16", "f32", "f64")
_REDUCTIONS = ("reduce", "reduce-window")
_SECTOR_BYTES = 32  # the smallest read from device memory on NVIDIA GPUs


def outputs(module: Module) -> tuple[Shape, ...]:
    """Shapes of the results, flat."""
    return _leaves(module.entry.root.shape)


def _leaves(shape: Shape) -> tuple[Shape, ...]:
    if shape.element != "tuple":
        return (shape,)
    return tuple(leaf for member in shape.leaves for leaf in _leaves(member))


def largest_float_input(module: Module) -> Shape | None:
    """The shape of the largest floating-point parameter: the tensor that is normalized."""
    floats = [p.shape for p in module.entry.parameters if p.shape.element in _FLOATS]
    return max(floats, key=lambda shape: shape.elements, default=None)


def promoted_outputs(module: Module) -> tuple[Shape, ...]:
    """Results as large as the largest input, in a wider floating-point dtype than it, where that is not declared."""
    largest = largest_float_input(module)
    if largest is None or largest.elements <= 1 or _width_is_declared(module):
        return ()
    return tuple(
        shape
        for shape in outputs(module)
        if shape.element in _FLOATS and shape.elements == largest.elements and shape.bits > largest.bits
    )


def _width_is_declared(module: Module) -> bool:
    """Whether any instruction was made under the declaration."""
    return any(WIDE_OUTPUTS in one.op_name for part in module.computations.values() for one in part.instructions)


def minimum_bytes(module: Module, launches: tuple[Launch, ...]) -> int:
    """Bytes that any program with these inputs and outputs has to move; see the module's docstring."""
    return _input_bytes(module, launches) + _output_bytes(module)


def _input_bytes(module: Module, launches: tuple[Launch, ...]) -> int:
    read: dict[int, int] = {}
    for launch in launches:
        for value, size in launch.reads:
            read[value] = read.get(value, 0) + size
    inner_reads = any(not launch.reads for launch in launches)
    total = 0
    for parameter in module.entry.parameters:
        size = parameter.shape.size_bytes
        # A parameter that is only sliced needs no more than the slices; in a loop or a call all of it is assumed.
        used = size if inner_reads and module.entry.users[parameter.id] else read.get(parameter.id, 0)
        total += min(size, used)
    return total


def _output_bytes(module: Module) -> int:
    largest = largest_float_input(module)
    excess = sum(shape.elements * (shape.bits - largest.bits) // 8 for shape in promoted_outputs(module) if largest)
    return sum(shape.size_bytes for shape in outputs(module)) - excess


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
