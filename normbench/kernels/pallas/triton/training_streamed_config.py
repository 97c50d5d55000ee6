"""How batch norm in training is cut: blocks of channels, and shares of the batch. None of it is tuned on a device."""

from dataclasses import dataclass

from normbench.kernels.pallas.hardware import (
    MULTIPROCESSORS,
    WARP,
    power_of_two_from,
    vector_elements,
    workspace_programs,
)
from normbench.kernels.pallas.triton.channel_tiles import View

WARPS = 8
"""256 threads with two vectors in flight each: eight programs fill a multiprocessor."""

STREAM_VECTORS = 2
"""Of each thread in a tile: two loads in flight, and in a backward pass two of each tensor."""

LAST_CHANNEL_BYTES = (128, 64)
"""Of a position where channels come last: a whole cache line; half of one of narrower elements than float32, which are
twice as many channels, where few channels would leave multiprocessors idle."""

PROGRAMS = 4 * MULTIPROCESSORS
"""Four for each multiprocessor are enough warps to cover the latency of memory, and few enough that what every program
of the second launch reads, the partial sums of its channels, is a small part of its traffic in the L2 cache."""

MOST_PARTIALS = 8192
"""Of each of two quantities, shares × channels of a block: so that they fit the registers of a program."""

LEAST_STEPS = 4
"""Tiles of a share at least: partial sums of float32 are then 1/256 of x in bfloat16, or less."""

LEAST_STEPS_OF_SUMS = 6
"""The same for gradients in training of narrower elements than float32 where channels come last: XLA leaves as few
partial sums."""


@dataclass(frozen=True, slots=True)
class BatchConfig:
    """Blocks of channels, tiles of positions, shares of tiles.

    Attributes:
      view: of x.
      block: channels of a tile, a power of two.
      chunk: positions of a tile, a power of two.
      steps: tiles in a share.
      warps: per program.
    """

    view: View
    block: int
    chunk: int
    steps: int
    warps: int

    @property
    def chunks(self) -> int:
        """Of one image."""
        return -(-self.view.spatial // self.chunk)

    @property
    def tiles(self) -> int:
        return self.view.images * self.chunks

    @property
    def splits(self) -> int:
        """How many shares there are."""
        return -(-self.tiles // self.steps)

    @property
    def padded_splits(self) -> int:
        return power_of_two_from(self.splits)

    @property
    def blocks(self) -> int:
        return -(-self.view.channels // self.block)

    @property
    def masks_channels(self) -> bool:
        return self.view.channels % self.block != 0

    @property
    def masks_positions(self) -> bool:
        return self.view.spatial % self.chunk != 0

    @property
    def masks_tiles(self) -> bool:
        return self.tiles % self.steps != 0


def batch_config(view: View, dtype: str, least_steps: int = LEAST_STEPS) -> BatchConfig:
    """The same for both launches of a pass, with shares of `least_steps` tiles or more."""
    vector = vector_elements(dtype)
    item, elements = 16 // vector, WARPS * WARP * vector * STREAM_VECTORS
    if view.last:
        sizes = LAST_CHANNEL_BYTES if item < 4 else LAST_CHANNEL_BYTES[:1]
        blocks = [min(power_of_two_from(view.channels), size // item) for size in sizes]
        busy = [n for n in blocks if -(-view.channels // n) * (MOST_PARTIALS // n) >= PROGRAMS]
        block = (busy or blocks[-1:])[0]
        chunk = min(elements // block, power_of_two_from(view.spatial))
    else:
        chunk = min(elements, power_of_two_from(view.spatial))
        block = min(elements // chunk, power_of_two_from(view.channels))
    warps = max(1, min(WARPS, block * chunk // (WARP * vector)))
    one = BatchConfig(view, block, chunk, 1, warps)
    wanted = min(MOST_PARTIALS // block, -(-PROGRAMS // one.blocks), max(1, one.tiles // least_steps))
    # Partial sums of two quantities in float32 or wider; counted at their widest.
    wanted = min(wanted, workspace_programs(view.size * item, 2 * max(item, 4) * view.channels))
    return BatchConfig(view, block, chunk, -(-one.tiles // wanted), warps)
