"""How many bytes cross the boundaries of the launches, and how many would have to.

Bytes are counted at the boundary of each launch: every operand once and every result once, as a kernel that keeps
everything else on the chip would move them. A kernel that walks over an operand twice moves more; a hit in the cache
moves less. Two corrections to XLA's own generic count, in which a launch that is not a fusion is right or wrong as a
whole:

* an operand of which a fusion uses only slices counts with what these read, not in full, and what several of them read
  counts once;
* the operands and results of a custom call (a library call, a Pallas kernel) count, where XLA's analysis says zero.

An update in place (`dynamic-update-slice`, `scatter`) counts with what it updates; that the rest had to be copied
first shows as a launch of its own. What lies in the memory of the host, and the scratch memory of a library call, is
no traffic of device memory. The two halves of an asynchronous operation are one: it counts where it starts.

On a TPU only what lies in HBM is traffic: a copy into VMEM reads HBM once, and what then reads VMEM moves nothing.
There an array comes in tiles (8 x 128 elements of 32 bits), and what fills these up is moved with it.
"""

import math
from collections.abc import Sequence

import numpy as np

from normbench.fusion.hlo import Computation, Instruction, Module, Shape

_SLICES = ("slice", "dynamic-slice", "gather")
_ONE_TO_ONE = ("bitcast", "reshape", "transpose", "copy", "convert", "negate", "abs", "exponential", "rsqrt", "sqrt")
_STARTS = {"copy-start": 0, "all-gather-start": 1, "collective-permute-start": 1, "recv": 0, "send": 0}
_LIBRARIES = ("__cublas$", "__cudnn$")
_MOST_CELLS = 2**20
"""Between the edges of slices: where there are more, what several slices read counts with each."""


def operand_bytes(module: Module, computation: Computation, launch: Instruction) -> tuple[int, ...]:
    """Bytes read of each operand of `launch`, in order."""
    operands = [computation.by_id[operand] for operand in launch.operands]
    sizes = [operand.shape.memory_bytes for operand in operands]
    if launch.opcode == "fusion":
        fused = module.computations[launch.called[0]]
        given = zip(fused.parameters, operands, strict=True)
        return tuple(_used_bytes(module, fused, parameter, operand.shape) for parameter, operand in given)
    if launch.opcode in _SLICES:
        return (min(sizes[0], _part_bytes(operands[0].shape, launch.shape.elements)), *sizes[1:])
    if launch.opcode == "dynamic-update-slice":
        return (0, *sizes[1:])
    if _is_single_scatter(launch):
        return (_touched_bytes(operands[0].shape, operands[2].shape) * _combines(module, launch), *sizes[1:])
    return tuple(sizes)


def write_bytes(module: Module, computation: Computation, launch: Instruction) -> int:
    """Bytes that `launch` writes: its results; of an update in place, only what is updated."""
    written = sum(size for size, _ in _results(module, computation, launch))
    return written - workspace_bytes(module, computation, launch)


def padding_bytes(module: Module, computation: Computation, launch: Instruction) -> int:
    """Of what `launch` reads and writes, the bytes that fill up tiles."""
    operands = (computation.by_id[operand].shape for operand in launch.operands)
    read = zip(operand_bytes(module, computation, launch), operands, strict=False)
    return sum(_padding(size, shape) for size, shape in (*read, *_results(module, computation, launch)))


def _padding(size: int, shape: Shape) -> int:
    if shape.element == "tuple":
        return shape.memory_bytes - shape.size_bytes if size and shape.memory_bytes > shape.size_bytes else 0
    return size - size * shape.elements // shape.padded_elements if size else 0


def _results(module: Module, computation: Computation, launch: Instruction) -> tuple[tuple[int, Shape], ...]:
    """Bytes that are written of each result, with its shape."""
    if launch.opcode == "dynamic-update-slice":
        return ((_part_bytes(launch.shape, computation.by_id[launch.operands[1]].shape.elements), launch.shape),)
    if _is_single_scatter(launch):
        return ((_touched_bytes(launch.shape, computation.by_id[launch.operands[2]].shape), launch.shape),)
    if launch.opcode == "fusion":
        fused = module.computations[launch.called[0]]
        roots = [fused.by_id[i] for i in fused.root.operands] if fused.root.opcode == "tuple" else [fused.root]
        shapes = launch.shape.leaves if fused.root.opcode == "tuple" else (launch.shape,)
        return tuple((_written(fused, root, shape), shape) for root, shape in zip(roots, shapes, strict=True))
    shape = result_shape(launch)
    return tuple((leaf.memory_bytes, leaf) for leaf in (shape.leaves or (shape,)))


def result_shape(launch: Instruction) -> Shape:
    """The shape of what a launch computes; one that starts an asynchronous operation also returns its operand."""
    leaves = launch.shape.leaves
    if launch.opcode in _STARTS and len(leaves) > _STARTS[launch.opcode]:
        return leaves[_STARTS[launch.opcode]]
    return launch.shape


def workspace_bytes(module: Module, computation: Computation, launch: Instruction) -> int:
    """Scratch memory that a library call is given: its last result, in bytes, which nothing reads."""
    call, holder = launch, computation
    if launch.opcode == "fusion":
        holder = module.computations[launch.called[0]]
        call = next((i for i in holder.instructions if i.custom_call_target.startswith(_LIBRARIES)), launch)
    if not call.custom_call_target.startswith(_LIBRARIES) or len(call.shape.leaves) < 2:
        return 0
    last = len(call.shape.leaves) - 1
    shape = call.shape.leaves[last]
    users = [user for user in holder.users[call.id] if user.opcode == "get-tuple-element" and user.tuple_index == last]
    is_read = any(reader.opcode != "tuple" for user in users for reader in holder.users[user.id])
    return shape.size_bytes if shape.element in ("s8", "u8") and len(shape.dimensions) == 1 and not is_read else 0


def _part_bytes(whole: Shape, elements: int) -> int:
    """Bytes in device memory of so many elements of an array, with their share of what fills up its tiles."""
    if not whole.memory_bytes or not whole.elements:
        return 0
    return (elements * whole.bits * whole.padded_elements // whole.elements + 7) // 8


def _is_single_scatter(instruction: Instruction) -> bool:
    return instruction.opcode == "scatter" and len(instruction.operands) == 3


def _touched_bytes(array: Shape, updates: Shape) -> int:
    return min(array.memory_bytes, _part_bytes(array, updates.elements))


def _combines(module: Module, scatter: Instruction) -> bool:
    """Whether what a scatter finds is combined with the update (an addition, say), and so read; else it is replaced."""
    applied = module.computations[scatter.called[0]]
    return applied.root.opcode != "parameter"


def _written(fused: Computation, root: Instruction, result: Shape) -> int:
    """Bytes written of a result of a fusion, which only outside of it says where it lies."""
    while root.opcode == "bitcast":
        root = fused.by_id[root.operands[0]]
    if root.opcode == "dynamic-update-slice" and _is_in_place(fused, root):
        return _part_bytes(result, fused.by_id[root.operands[1]].shape.elements)
    if _is_single_scatter(root) and _is_in_place(fused, root):
        return _touched_bytes(result, fused.by_id[root.operands[2]].shape)
    return result.memory_bytes


def _used_bytes(module: Module, fused: Computation, parameter: Instruction, operand: Shape) -> int:
    """Bytes read of an operand of a fusion, which only outside of it says where it lies."""
    if operand.element == "tuple" or not operand.memory_bytes:
        return operand.memory_bytes
    return _part_bytes(operand, _used_elements(module, fused, parameter))


def _used_elements(module: Module, fused: Computation, value: Instruction) -> int:
    """How many elements of `value` are read; all of them unless every use is a slice of it."""
    users = fused.users[value.id]
    if value.id == fused.root_id or not users:
        return value.shape.elements
    used, boxes = 0, []
    for user in users:
        read = _elements_read_by(module, fused, user, value)
        if user.slices and read == user.shape.elements and all(step == 1 for _, _, step in user.slices):
            boxes.append(tuple((first, end) for first, end, _ in user.slices))
        else:
            used += read
    return min(value.shape.elements, used + elements_within(boxes))


def elements_within(boxes: Sequence[Sequence[tuple[int, int]]]) -> int:
    """How many elements lie in any of the boxes, each given as first and end by dimension."""
    edges = [sorted({edge for box in boxes for edge in box[axis]}) for axis in range(len(boxes[0]) if boxes else 0)]
    if math.prod(len(each) for each in edges) > _MOST_CELLS:
        return sum(math.prod(end - first for first, end in box) for box in boxes)
    cells = np.zeros([len(each) - 1 for each in edges], bool)
    for box in boxes:
        within = zip(edges, box, strict=True)
        cells[tuple(slice(each.index(first), each.index(end)) for each, (first, end) in within)] = True
    for each in reversed(edges):
        cells = cells @ np.diff(each)
    return int(cells) if boxes else 0


def _elements_read_by(module: Module, fused: Computation, user: Instruction, value: Instruction) -> int:
    if user.opcode in _SLICES and user.operands[0] == value.id and value.id not in user.operands[1:]:
        return _used_elements(module, fused, user)  # which may itself be used in slices: those of an unrolled loop
    if user.opcode == "dynamic-update-slice" and user.operands[0] == value.id and _is_in_place(fused, user):
        return 0
    if _is_single_scatter(user) and user.operands[0] == value.id and _is_in_place(fused, user):
        touched = min(value.shape.elements, fused.by_id[user.operands[2]].shape.elements)
        return touched * _combines(module, user)
    if user.opcode in _ONE_TO_ONE and user.shape.elements == value.shape.elements:
        return _used_elements(module, fused, user)
    return value.shape.elements


def _is_in_place(fused: Computation, update: Instruction) -> bool:
    """True where an operand is updated and is a result of the fusion, so that the rest of it stays where it is."""
    if source(fused, fused.by_id[update.operands[0]]).opcode != "parameter":
        return False
    return _is_only_a_result(fused, update)


def _is_only_a_result(fused: Computation, value: Instruction) -> bool:
    if value.id == fused.root_id:
        return True
    users = fused.users[value.id]
    through = ("tuple", "bitcast")
    return bool(users) and all(user.opcode in through and _is_only_a_result(fused, user) for user in users)


def source(computation: Computation, value: Instruction) -> Instruction:
    """Follows a bitcast to the value whose memory it shares."""
    while value.opcode == "bitcast":
        value = computation.by_id[value.operands[0]]
    return value
