"""The least that a program moves between its barriers.

Matrix products, convolutions, collectives and calls are barriers: what they read and write has to be in memory. What
lies between two of them could at best be one launch. So launches that are no barrier are grouped by the number of
barriers before them (on the longest way from the inputs) within their loop; each group reads every value that comes
from elsewhere once, and writes once what is used elsewhere. Barriers count as they are, with what was fused into them.
Each repetition of a loop counts.
"""

from collections import defaultdict

from normbench.fusion.launches import Launch
from normbench.fusion.program.graph import Program

_BARRIERS = frozenset(["collective", "host copy"])
_Group = tuple[str | None, int]


def is_barrier(launch: Launch) -> bool:
    """Whether a launch holds a matrix product or convolution, or is a call, a collective or a copy from the host."""
    is_call = launch.instruction.opcode == "custom-call"
    return is_call or launch.kind in _BARRIERS or launch.flops is None or launch.flops > 0


def least_between_barriers_bytes(program: Program) -> int:
    """See the module's docstring."""
    group_of = _groups(program)
    members: dict[_Group, list[Launch]] = defaultdict(list)
    total = 0
    for launch in program.launches:
        if is_barrier(launch):
            total += launch.read_bytes + launch.write_bytes
        else:
            members[group_of[launch.index]].append(launch)
    leaving = _leaving(program, group_of)
    return total + sum(_group_bytes(program, group, leaving) for group in members.values())


def _groups(program: Program) -> dict[int, _Group]:
    """Loop and number of barriers before, by launch."""
    level: dict[int, int] = {}
    for launch in program.launches:
        before = [0]
        for value, _ in launch.reads:
            producer = program.nodes[program.started_from(value)].launch
            if producer is not None:
                before.append(level[producer] + is_barrier(program.launches[producer]))
        level[launch.index] = max(before)
    return {launch.index: (launch.loop, level[launch.index]) for launch in program.launches}


def _leaving(program: Program, group_of: dict[int, _Group]) -> set[int]:
    """Values that a group has to write: a barrier, another group or another repetition reads them, or the caller."""
    leaving = {value for value in program.outputs if value is not None} | set(program.carried_from)
    for launch in program.launches:
        for value, _ in launch.reads:
            producer = program.nodes[value].launch
            if producer is not None and (is_barrier(launch) or group_of[producer] != group_of[launch.index]):
                leaving.add(value)
    return leaving


def _group_bytes(program: Program, group: list[Launch], leaving: set[int]) -> int:
    own = {launch.index for launch in group}
    read: dict[int, int] = defaultdict(int)
    for launch in group:
        for value, size in launch.reads:
            if program.nodes[value].launch not in own:
                read[value] += size
    entering = sum(min(size, program.nodes[value].shape.size_bytes) for value, size in read.items())
    left = {value for launch in group for value in launch.results if value in leaving}
    written = sum(_left_bytes(program, value, own) for value in left)
    return (entering + written) * group[0].repetitions


def _left_bytes(program: Program, value: int, own: set[int]) -> int:
    """What a group writes of a value: only what is updated, where the array was there before; nothing of what stays on
    a TPU's chip."""
    node = program.nodes[value]
    if not node.shape.memory_bytes:
        return 0
    if node.operands and program.nodes[node.operands[0]].launch in own:
        return node.shape.size_bytes
    return written_bytes(program, value)


def written_bytes(program: Program, value: int) -> int:
    """Bytes of a value; of an update, which is in place or of a copy, what is updated."""
    node = program.nodes[value]
    if node.opcode == "dynamic-update-slice":
        return program.nodes[node.operands[1]].shape.size_bytes
    if node.opcode == "scatter" and len(node.operands) == 3:
        updates = program.nodes[node.operands[2]].shape
        return min(node.shape.size_bytes, (updates.elements * node.shape.bits + 7) // 8)
    return node.shape.size_bytes
