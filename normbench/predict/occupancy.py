"""How many blocks of a kernel a multiprocessor holds at once, and in how many waves the grid passes through it."""

import math
from dataclasses import dataclass

from normbench.predict.devices import Device

_RESERVED_BYTES = 1024
"""Shared memory that the driver takes of each block (compute capability 8 and newer)."""
_UNKNOWN_REGISTERS = 32
"""Of a thread, where nothing assembled the kernel: so few that they limit nothing."""


@dataclass(frozen=True)
class Occupancy:
    """Of one launch on one device.

    Attributes:
      blocks: of the grid.
      warps: of a block.
      resident: blocks that a multiprocessor holds at once.
      busy: multiprocessors that have a block at all.
      share: of the device's warps that are resident in a full wave, 0 to 1.
      waves: grid over what the whole device holds at once.
    """

    blocks: int
    warps: int
    resident: int
    busy: int
    share: float
    waves: float


def occupancy(grid: str, block: str, registers: int | None, shared_bytes: int | None, device: Device) -> Occupancy:
    """The occupancy of a kernel.

    Args:
      grid, block: sizes joined by "x".
      registers: of a thread; None where they are not known.
      shared_bytes: of a block.
    """
    blocks, warps = _product(grid), -(-_product(block) // 32)
    # A warp's registers are handed out in steps of 256: of a thread in steps of eight.
    of_warp = 32 * 8 * -(-(registers or _UNKNOWN_REGISTERS) // 8)
    resident = min(
        device.blocks,
        device.warps // warps,
        device.registers // of_warp // warps,
        device.shared_bytes // ((shared_bytes or 0) + _RESERVED_BYTES),
    )
    resident = max(1, resident)
    most = min(resident, -(-blocks // device.multiprocessors))
    return Occupancy(
        blocks=blocks,
        warps=warps,
        resident=resident,
        busy=min(blocks, device.multiprocessors),
        share=most * warps / device.warps,
        waves=blocks / (device.multiprocessors * resident),
    )


def _product(sizes: str) -> int:
    return math.prod(int(size) for size in sizes.split("x"))
