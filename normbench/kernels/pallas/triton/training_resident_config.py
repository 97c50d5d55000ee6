"""How batch norm in training is cut where a channel fits on the chip: a program holds whole channels in registers.

None of it is tuned on a device.
"""

import math
from dataclasses import dataclass

from normbench.kernels.pallas.hardware import (
    MULTIPROCESSORS,
    WARP,
    power_of_two_from,
    power_of_two_to,
    vector_elements,
)
from normbench.kernels.pallas.triton.channel_tiles import View

THREAD_REGISTERS = {1: 235, 2: 235, 4: 235, 8: 235, 16: 100}
"""By warps of a program, what the terms of a thread and their offsets may take, of 255 registers up to 256 threads and
of 128 with 512: the rest is for arithmetic. Beyond it the compiler spills."""

THREAD_ELEMENTS = {1: 200, 2: 200, 4: 200, 8: 200, 16: 84}
"""The same for terms alone."""

LAST_REGISTERS = {1: 0, 2: 16}
"""Fewer terms, by tensors, where channels come last: a thread has the sums and parameters of several beside them."""

OFFSET_REGISTERS = {1: 1, 2: 3}
"""Of the offset of terms that are loaded together, by tensors: the addresses in x and y, or in x, dy and dx."""

USUAL_ELEMENTS = 32
"""Of a thread where there is a choice: four vectors in flight of two bytes an element."""

MOST_TILES = 56
"""Unrolled in a program: the compiler's time grows with them."""

PROGRAM_ELEMENTS = 2048
"""Of x per program at least, where several channels that come first can share one."""

CONTIGUOUS_BYTES = (64, 32, 16)
"""That a program reads of each position where channels come last, the preferred first: two sectors of 32 bytes, one, or
half of one, whose other half a neighbouring program reads at about the same time from the L2 cache."""


@dataclass(frozen=True, slots=True)
class ResidentConfig:
    """Blocks of channels that are held whole.

    Attributes:
      view: of x.
      width: channels of a program, a power of two.
      chunk: terms of a channel in a tile, a power of two; the last tile may be smaller.
      warps: per program.
    """

    view: View
    width: int
    chunk: int
    warps: int

    @property
    def terms(self) -> int:
        """Of a channel."""
        return self.view.images * self.view.spatial

    @property
    def blocks(self) -> int:
        return -(-self.view.channels // self.width)

    @property
    def masks_channels(self) -> bool:
        return self.view.channels % self.width != 0

    @property
    def elements(self) -> int:
        """Of x in a thread."""
        return -(-self.width * sum(size for _, size in self.tiles) // (self.warps * WARP))

    def offsets(self, vector: int) -> int:
        """How many runs of neighbours a thread loads, each at an offset that is no constant beside another's."""
        if self.view.images == 1:
            return 0
        return self.elements // math.gcd(self.view.spatial, vector)

    @property
    def tiles(self) -> list[tuple[int, int]]:
        """(first term, terms) of each."""
        whole = self.terms // self.chunk
        found = [(index * self.chunk, self.chunk) for index in range(whole)]
        rest = self.terms - whole * self.chunk
        return [*found, (whole * self.chunk, power_of_two_from(rest))] if rest else found


def resident_config(view: View, dtype: str, wide: str, tensors: int) -> ResidentConfig | None:
    """None where a channel does not fit.

    Args:
      view: of x.
      dtype: of x.
      wide: of the arithmetic.
      tensors: of x's size that are held together: x, or x and dy.
    """
    vector, words = vector_elements(dtype), 1 if vector_elements(wide) > 2 else 2
    found = [found for width in _widths(view, vector) if (found := _cut(view, width, vector, tensors, words))]
    busy = [config for config in found if config.blocks >= MULTIPROCESSORS]
    return (busy or found[-1:])[0] if found else None


def _widths(view: View, vector: int) -> list[int]:
    """Channels of a program, the preferred first."""
    if view.last:
        return [min(size * vector // 16, power_of_two_from(view.channels)) for size in CONTIGUOUS_BYTES]
    wanted = max(1, PROGRAM_ELEMENTS // (view.images * view.spatial))
    return [min(power_of_two_to(wanted), power_of_two_from(view.channels))]


def _cut(view: View, width: int, vector: int, tensors: int, words: int) -> ResidentConfig | None:
    """With the chunk and the warps that waste least."""
    found = []
    for warps in THREAD_REGISTERS:
        chunk = min(max(1, warps * WARP * vector // width), power_of_two_from(view.images * view.spatial))
        # No more threads than a tile has vectors: further ones would load the same again.
        fitting = min(warps, max(1, power_of_two_to(width * chunk // (WARP * vector))))
        config = ResidentConfig(view, width, chunk, fitting)
        own = config.elements * tensors * words
        most = THREAD_ELEMENTS[fitting] - LAST_REGISTERS[tensors] * view.last
        if own > most or len(config.tiles) > MOST_TILES:
            continue
        if own + config.offsets(vector) * OFFSET_REGISTERS[tensors] <= THREAD_REGISTERS[fitting]:
            waste = config.elements * fitting
            found.append((waste, abs(math.log2(config.elements / USUAL_ELEMENTS)), warps, config))
    return min(found, key=lambda one: one[:3])[3] if found else None
