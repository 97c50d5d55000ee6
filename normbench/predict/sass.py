"""What ptxas made of a kernel: how many instructions, how many bytes a thread loads before it waits for one, and how
long a warp takes that waits for nothing from device memory.

Each instruction is 16 bytes. Of its 128 bits, the low 12 are the opcode, 9 of them without the form of its operands;
from bit 105 on stands what the scheduler needs: stall (4 bits), yield (1), the barrier that a load sets when it has
written (3 bits, 7 for none), the one for its sources (3), and the six barriers that the instruction waits for (6 bits).
Checked against kernels of known loads and shuffles in the tests.
"""

from dataclasses import dataclass
from functools import lru_cache

_OPCODE = 0x1FF
_LOAD = 0x181
"""LDG: a load from device memory; its width stands in bits 73 to 75."""
SHUFFLE_CYCLES, SHARED_CYCLES, SPECIAL_CYCLES = 24.0, 30.0, 22.0
"""Until the result of a shuffle, of a load from shared memory, of a reciprocal root or its like may be used; shaped."""
_CYCLES = {0x189: SHUFFLE_CYCLES, 0x184: SHARED_CYCLES, 0x108: SPECIAL_CYCLES}
"""Of SHFL, LDS and MUFU."""
_WIDTH_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 8, 6: 16}
_END = 0x947
"""BRA: the code ends in a branch to itself, and padding."""
_NO_OPERATION = 0x918
_NO_BARRIER = 7


@dataclass(frozen=True)
class MachineCode:
    """Of one kernel.

    Attributes:
      instructions: without the padding at the end.
      bytes_under_way: the most that a thread has asked of device memory before it waits for a load, in the order of
        the code.
      cycles: of one warp by itself, once through the code from its top to its end, where loads from device memory and
        barriers of the block cost nothing.
    """

    instructions: int
    bytes_under_way: int
    cycles: float


@lru_cache(maxsize=4096)
def machine_code(sass: bytes) -> MachineCode:
    """Reads the instructions of a kernel."""
    words = [int.from_bytes(sass[at : at + 16], "little") for at in range(0, len(sass) - 15, 16)]
    while words and words[-1] & 0xFFF == _NO_OPERATION:
        words.pop()
    if words and words[-1] & 0xFFF == _END:
        words.pop()
    return MachineCode(len(words), _under_way(words), _cycles(words))


def _under_way(words: list[int]) -> int:
    most = 0
    by_barrier: dict[int, int] = {}
    for word in words:
        waits = (word >> 116) & 0x3F
        for barrier in [barrier for barrier in by_barrier if waits >> barrier & 1]:
            del by_barrier[barrier]
        if word & _OPCODE == _LOAD and (barrier := (word >> 110) & 7) != _NO_BARRIER:
            by_barrier[barrier] = by_barrier.get(barrier, 0) + _WIDTH_BYTES.get((word >> 73) & 7, 0)
            most = max(most, sum(by_barrier.values()))
    return most


def _cycles(words: list[int]) -> float:
    """Each instruction with its stall, after the barriers that it waits for."""
    clock = 0.0
    ready = [0.0] * 8
    for word in words:
        waits = (word >> 116) & 0x3F
        if waits:
            clock = max(clock, *(ready[barrier] for barrier in range(6) if waits >> barrier & 1))
        clock += max(1, (word >> 105) & 0xF)
        ready[(word >> 110) & 7] = clock + _CYCLES.get(word & _OPCODE, 0.0)
    return clock
