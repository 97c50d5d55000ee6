"""How many bytes cross the boundaries of the launches, and how many would have to.

Bytes are counted at the boundary of each launch: every operand once and every result once, as a kernel that keeps
everything else on the chip would move them. A kernel that walks over an operand twice moves more; a hit in the cache
moves less. Two corrections to XLA's own generic count, in which a launch that is not a fusion is right or wrong as a
whole:

* an operand of which a fusion uses only a slice counts with what the slice reads, not in full;
* the operands and results of a custom call (a library call, a Pallas kernel) count, where XLA's analysis says zero.
"""

from normbench.fusion.hlo import Computation, Instruction, Module

_SLICES = ("slice", "dynamic-slice", "gather")
_ONE_TO_ONE = ("bitcast", "reshape", "transpose", "copy", "convert", "negate", "abs", "exponential", "rsqrt", "sqrt")
_ALIASES = ("bitcast", "get-tuple-element", "tuple", "optimization-barrier")


def operand_bytes(module: Module, computation: Computation, launch: Instruction) -> tuple[int, ...]:
    """Bytes read of each operand of `launch`, in order."""
    operands = [computation.by_id[operand] for operand in launch.operands]
    if launch.opcode == "fusion":
        fused = module.computations[launch.called[0]]
        return tuple(_used_bytes(fused, parameter) for parameter in fused.parameters)
    if launch.opcode in _SLICES:
        return (min(operands[0].shape.size_bytes, launch.shape.size_bytes), *(o.shape.size_bytes for o in operands[1:]))
    if launch.opcode == "dynamic-update-slice":
        return (0, *(operand.shape.size_bytes for operand in operands[1:]))
    return tuple(operand.shape.size_bytes for operand in operands)


def write_bytes(module: Module, computation: Computation, launch: Instruction) -> int:
    """Bytes that `launch` writes: its results; of an update in place, only what is updated."""
    if launch.opcode == "dynamic-update-slice":
        return computation.by_id[launch.operands[1]].shape.size_bytes
    if launch.opcode == "fusion":
        fused = module.computations[launch.called[0]]
        roots = [fused.by_id[i] for i in fused.root.operands] if fused.root.opcode == "tuple" else [fused.root]
        return sum(_written(fused, root) for root in roots)
    return launch.shape.size_bytes


def _written(fused: Computation, root: Instruction) -> int:
    while root.opcode == "bitcast":
        root = fused.by_id[root.operands[0]]
    if root.opcode == "dynamic-update-slice":
        return fused.by_id[root.operands[1]].shape.size_bytes
    return root.shape.size_bytes


def _used_bytes(fused: Computation, parameter: Instruction) -> int:
    used = _used_elements(fused, parameter)
    return (used * parameter.shape.bits + 7) // 8 if parameter.shape.element != "tuple" else parameter.shape.size_bytes


def _used_elements(fused: Computation, value: Instruction) -> int:
    """How many elements of `value` are read; all of them unless every use is a slice of it."""
    users = fused.users[value.id]
    if value.id == fused.root_id or not users:
        return value.shape.elements
    used = 0
    for user in users:
        used += _elements_read_by(fused, user, value)
        if used >= value.shape.elements:
            return value.shape.elements
    return used


def _elements_read_by(fused: Computation, user: Instruction, value: Instruction) -> int:
    if user.opcode in _SLICES and user.operands[0] == value.id and value.id not in user.operands[1:]:
        return user.shape.elements
    if user.opcode == "dynamic-update-slice" and user.operands[0] == value.id and _is_in_place(fused, user):
        return 0
    if user.opcode in _ONE_TO_ONE and user.shape.elements == value.shape.elements:
        return _used_elements(fused, user)
    return value.shape.elements


def _is_in_place(fused: Computation, update: Instruction) -> bool:
    """True where the updated array is a result of the fusion, so that the rest of it stays where it is."""
    if update.id == fused.root_id:
        return True
    users = fused.users[update.id]
    return all(user.id == fused.root_id and user.opcode in ("tuple", "bitcast") for user in users)


def source(computation: Computation, value: Instruction) -> Instruction:
    """Follows a bitcast to the value whose memory it shares."""
    while value.opcode == "bitcast":
        value = computation.by_id[value.operands[0]]
    return value
