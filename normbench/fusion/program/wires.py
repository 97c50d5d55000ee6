"""What a launch sends to other devices, or moves from or to the host."""

from normbench.fusion.hlo import ATTRIBUTES, Computation, Instruction, Shape
from normbench.fusion.program.kinds import COLLECTIVES
from normbench.fusion.traffic import result_shape
from normbench.fusion.wire import integers, message, number


def wire_bytes(computation: Computation, launch: Instruction) -> int | None:
    """Bytes that one device sends in a collective, or that a copy moves over the link to the host; None for neither, or
    where the size of the group is not known.

    With n devices in a group, the least that any algorithm has to send from each: (n - 1)/n of the result of an
    all-gather, of the operand of a reduce-scatter or all-to-all, twice that of an all-reduce, all of a permutation.
    """
    opcode = launch.opcode.removesuffix("-start")
    operand = sum(computation.by_id[i].shape.size_bytes for i in launch.operands)
    if opcode == "copy":
        shapes = (*(computation.by_id[i].shape for i in launch.operands), result_shape(launch))
        return operand if any(shape.on_host for shape in shapes) else None
    if opcode not in COLLECTIVES:
        return None
    if opcode in ("collective-permute", "collective-broadcast", "send", "recv"):
        return 0 if opcode == "recv" else operand
    size = _group_size(launch)
    if size is None:
        return None
    whole = {"all-gather": _bytes(result_shape(launch)), "all-reduce": 2 * operand}.get(opcode, operand)
    return whole * (size - 1) // size


def _bytes(shape: Shape) -> int:
    return shape.size_bytes


def _group_size(launch: Instruction) -> int | None:
    """Devices in a group: of `replica_groups`, or of the iota form of `collective_device_list`."""
    groups = launch.attributes.get(ATTRIBUTES["replica groups"])
    if isinstance(groups, bytes):
        return len(integers(message(groups).get(1, []))) or None
    devices = launch.attributes.get(ATTRIBUTES["device list"])
    if not isinstance(devices, bytes):
        return None
    fields = message(devices)
    if 1 in fields and isinstance(fields[1][-1], bytes):
        return len(integers(message(fields[1][-1]).get(1, []))) or None
    if 2 in fields and isinstance(fields[2][-1], bytes):  # IotaReplicaGroupListProto: groups, devices in each
        return number(message(fields[2][-1]).get(2)) or None
    return None
