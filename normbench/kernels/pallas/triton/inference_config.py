"""How the Pallas Triton kernel cuts its work into blocks. The thresholds are reasoned from the hardware and from the
PTX that they yield; none is tuned on a device yet."""

import math
from dataclasses import dataclass

VECTOR_BYTES = 16
"""The widest load of one thread on every NVIDIA GPU up to Hopper."""

WARPS = 4
"""128 threads: 16 programs fill the 2048 thread slots of a multiprocessor, so that a short tail costs little."""

VECTORS_PER_THREAD = {"row": 2, "column": 4, "flat": 1}
"""row: two loads in flight per thread, enough to cover HBM latency at full occupancy (2048 threads × 32 B = 64 KiB per
multiprocessor, above the 36 KB that 4.8 TB/s × 1 µs ÷ 132 asks for). column: four, because each thread also loads the
parameters of its channels, which the rows of its block share. flat: one, because the look-up of the parameters already
keeps 4 loads per element in flight."""


@dataclass(frozen=True, slots=True)
class BlockConfig:
    """The array seen as rows × columns, and the block of it that one program computes.

    Attributes:
      rows, columns: the view; rows * columns is the size of x.
      channels, inner: C, and the number of elements behind the channel axis.
      channel_of: where the channel comes from: "row" (row % C), "column" (the column), "flat" (column // inner % C).
      block_rows, block_columns: powers of two.
      vector: elements in one load of `VECTOR_BYTES`.
      warps: per program.
    """

    rows: int
    columns: int
    channels: int
    inner: int
    channel_of: str
    block_rows: int
    block_columns: int
    vector: int
    warps: int

    @property
    def column_blocks(self) -> int:
        return -(-self.columns // self.block_columns)

    @property
    def ragged(self) -> bool:
        """True where the last vector of the view is not whole, so that a mask over it would split every load."""
        return self.columns % self.vector != 0

    @property
    def grid(self) -> int:
        return -(-self.rows // self.block_rows) * self.column_blocks


def choose(shape: tuple[int, ...], channel_axis: int, itemsize_bytes: int) -> BlockConfig:
    """Picks the view in which every thread moves whole vectors, and a block of a fixed number of bytes.

    A view by row or column needs a row length of whole vectors, else the rows start unaligned and loads fall back to
    single elements. The flat view is always aligned, but has to look up the parameters for each element (in L1), so it
    is kept for the sizes that need it.
    """
    channels = shape[channel_axis]
    inner = math.prod(shape[channel_axis + 1 :])
    outer = math.prod(shape[:channel_axis])
    vector = VECTOR_BYTES // itemsize_bytes
    if inner == 1 and channels % vector == 0:
        rows, columns, channel_of = outer, channels, "column"
    elif inner > 1 and inner % vector == 0:
        rows, columns, channel_of = outer * channels, inner, "row"
    else:
        rows, columns, channel_of = 1, outer * channels * inner, "flat"
    elements = WARPS * 32 * vector * VECTORS_PER_THREAD[channel_of]
    block_columns = min(_power_of_two_from(columns), elements)
    block_rows = min(_power_of_two_from(rows), elements // block_columns)
    return BlockConfig(rows, columns, channels, inner, channel_of, block_rows, block_columns, vector, WARPS)


def _power_of_two_from(size: int) -> int:
    return 1 << max(size - 1, 0).bit_length()
