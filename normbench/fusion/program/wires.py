"""What a launch sends to other devices, or moves from or to the host.

Bytes that each of n devices sends in a collective of S bytes (the whole array, of which each has a part or all):

| kind                               | ring, as NCCL's       | one shot    | two shots          |
|------------------------------------|-----------------------|-------------|--------------------|
| all-reduce                         | 2 (n - 1)/n S         | (n - 1) S   | 2 (n - 1)/n S      |
| all-gather, reduce-scatter         | (n - 1)/n S           |             |                    |
| all-to-all                         | (n - 1)/n S           |             |                    |
| collective-permute, -broadcast     | S                     |             |                    |

A ring sends the least that any algorithm has to. In one shot each device fetches what all the others have, which takes
one round trip in place of 2 (n - 1): XLA makes such a kernel of its own for a small all-reduce within a machine.
"""

import json
from dataclasses import dataclass

from normbench.fusion.hlo import Computation, Instruction
from normbench.fusion.program.groups import Groups, device_groups
from normbench.fusion.program.kinds import COLLECTIVES
from normbench.fusion.traffic import result_shape

RING, ONE_SHOT, TWO_SHOT = "ring", "one shot", "two shots"
_BY_STRATEGY = {"ONE_SHOT": ONE_SHOT, "TWO_SHOT": TWO_SHOT}
_WHOLE = ("collective-permute", "collective-broadcast", "send")


@dataclass(frozen=True)
class Collective:
    """What a collective sends.

    Attributes:
      kind: all-reduce, all-gather, ...
      groups: of devices that exchange with each other; empty where they are all devices, or not told.
      whole_bytes: of the whole array: the larger of operand and result.
      wire_bytes: that each device sends by a ring; None where the size of a group is not known.
      algorithm: RING for the library's own choice, ONE_SHOT or TWO_SHOT where the compiler makes a kernel.
      asynchronous: whether the device goes on with the launches behind it.
    """

    kind: str
    groups: Groups
    whole_bytes: int
    wire_bytes: int | None
    algorithm: str
    asynchronous: bool

    @property
    def group_size(self) -> int | None:
        return len(self.groups[0]) if self.groups else None

    @property
    def sent_bytes(self) -> int | None:
        """That each device sends by the algorithm that is taken."""
        if self.algorithm == ONE_SHOT and self.group_size is not None:
            return (self.group_size - 1) * self.whole_bytes
        return self.wire_bytes


def collective_of(computation: Computation, launch: Instruction, start: Instruction | None) -> Collective | None:
    """What a launch sends if it is a collective, for one repetition.

    Args:
      start: the operation that starts it, where `launch` is inside of an `async-start`.
    """
    kind = launch.opcode.removesuffix("-start")
    if kind not in COLLECTIVES:
        return None
    operand = sum(computation.by_id[i].shape.size_bytes for i in launch.operands)
    whole = max(operand, result_shape(launch).size_bytes) if kind == "all-gather" else operand
    groups = device_groups(launch)
    settings = _settings((start or launch).backend_config) or _settings(launch.backend_config)
    strategy = str(settings.get("kernel_strategy", ""))
    return Collective(
        kind=kind,
        groups=groups,
        whole_bytes=whole,
        wire_bytes=_by_ring(kind, whole, len(groups[0]) if groups else None),
        algorithm=next((name for words, name in _BY_STRATEGY.items() if strategy.endswith(words)), RING),
        asynchronous=(start is not None or launch.opcode.endswith("-start")) and not settings.get("is_sync", False),
    )


def host_bytes(computation: Computation, launch: Instruction) -> int | None:
    """Bytes that a copy moves over the link to the host; None for what is none."""
    if launch.opcode.removesuffix("-start") != "copy":
        return None
    operands = [computation.by_id[i].shape for i in launch.operands]
    if not any(shape.on_host for shape in (*operands, result_shape(launch))):
        return None
    return sum(shape.size_bytes for shape in operands)


def _by_ring(kind: str, whole: int, size: int | None) -> int | None:
    if kind in _WHOLE or kind == "recv":
        return 0 if kind == "recv" else whole
    if size is None:
        return None
    return (2 * whole if kind == "all-reduce" else whole) * (size - 1) // size


def _settings(backend_config: str) -> dict:
    try:
        found = json.loads(backend_config or "{}").get("collective_backend_config", {})
    except (ValueError, AttributeError):
        return {}
    return found if isinstance(found, dict) else {}
