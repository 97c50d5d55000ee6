"""How layer norm and RMS norm are cut into blocks: rows × columns, contiguous columns normalized.

A row is held in registers while it is summed and written, in chunks of a power of two of columns; where it does not
fit, it is streamed: read once for the statistics and once more for the output. None of it is tuned on a device.
"""

from dataclasses import dataclass, replace

from normbench.kernels.pallas.hardware import (
    MULTIPROCESSORS,
    WARP,
    power_of_two_from,
    power_of_two_to,
    vector_elements,
    warps_for,
    workspace_programs,
)

THREAD_BYTES = 64
"""Of x per thread: four vectors in flight, enough to cover the latency of device memory at a quarter of the threads
that a multiprocessor has room for (512 threads × 64 B = 32 KiB; 4.8 TB/s × 1 µs ÷ 132 asks for 36 KB)."""

PROGRAM_BYTES = 8192
"""Of x per program at least: 128 threads of `THREAD_BYTES`; short rows share a program."""

THREAD_ELEMENTS = 48
"""In a resident row, so that the unrolled chunks of a thread, a vector each, stay within its registers."""

FORWARD_COLUMNS = {2: 32768, 4: 32768, 8: 8192}
"""The longest row held in registers, by bytes of an element: 1024 threads have 64 registers of 4 bytes each, of which
half hold the row (in float32 also where elements have 2 bytes: the compiler unpacks them before it sums)."""

STREAM_CHUNK_BYTES = 32768
"""Of a streamed row: two vectors for each of 1024 threads, and 16 float32 registers for their statistics."""

BACKWARD_ELEMENTS = 8192
"""Of x and dy per step of a program: 16 for each of 512 threads, which have 128 registers each."""

BACKWARD_VECTORS = 2
"""Of a thread in a tile of float32: with four the compiler for the A100 spills. Of narrower elements there are no more,
and float64 has half as many registers to spare."""

BACKWARD_STATE_BYTES = 192 * 1024
"""What a program may keep of its rows: h and its cotangent, and a sum for each of two parameters or more, all in
float32 at least. The registers of a multiprocessor are 256 KiB; a quarter is for the arithmetic. Rows of up to 12288
elements fit; of 16384 the compiler spills, whatever the number of warps and the dtype."""

BACKWARD_COLUMNS = 8192
"""The longest row that a program keeps where more than an affine is differentiated: the derivative of an activation
takes registers, too."""

LONG_ROW = 16384
"""A row of 2-byte elements beyond it goes to 512 threads with 128 registers in chunks of half its length: 1024 threads
with 64 registers spill, as every load is unpacked into twice its size before it is summed."""


@dataclass(frozen=True, slots=True)
class RowConfig:
    """rows × columns in blocks.

    Attributes:
      rows, columns: the view.
      block_rows: rows of a tile, a power of two.
      chunk: columns of a tile, a power of two.
      unroll: groups of `block_rows` rows that a backward step has in flight together.
      warps: per program.
      resident: True where a program holds its rows in registers, False where it streams them.
      programs: size of the grid.
    """

    rows: int
    columns: int
    block_rows: int
    chunk: int
    unroll: int
    warps: int
    resident: bool
    programs: int

    @property
    def chunks(self) -> int:
        return -(-self.columns // self.chunk)

    @property
    def step_rows(self) -> int:
        return self.block_rows * self.unroll

    @property
    def steps(self) -> int:
        """How many steps each program takes over the rows."""
        return -(-self.rows // (self.step_rows * self.programs))

    @property
    def masks_rows(self) -> bool:
        return self.steps * self.step_rows * self.programs != self.rows


def forward_config(rows: int, columns: int, dtype: str) -> RowConfig:
    """One program for a block of whole rows."""
    vector, item = vector_elements(dtype), 16 // vector_elements(dtype)
    if columns > FORWARD_COLUMNS[item]:
        return _streamed(rows, columns, item, STREAM_CHUNK_BYTES)
    if item == 2 and columns > LONG_ROW:
        return RowConfig(rows, columns, 1, LONG_ROW // 2, 1, 16, True, rows)
    chunk = _chunk(columns, vector)
    padded = -(-columns // chunk) * chunk
    block_rows = min(power_of_two_to(PROGRAM_BYTES // item // padded), power_of_two_from(rows))
    warps = _warps(block_rows * padded, block_rows * chunk, vector, THREAD_BYTES // item)
    return RowConfig(rows, columns, block_rows, chunk, 1, warps, True, -(-rows // block_rows))


def backward_config(rows: int, columns: int, dtype: str, vectors: int, affine: bool) -> RowConfig:
    """Programs that walk over the rows, each with sums of its own for the gradients of `vectors` parameters; `affine`
    says that nothing but an affine follows the norm."""
    vector, item = vector_elements(dtype), 16 // vector_elements(dtype)
    wide = max(item, 4)
    fits = columns * (2 + max(vectors, 2)) * wide <= BACKWARD_STATE_BYTES
    if not fits or not (affine or columns <= BACKWARD_COLUMNS):
        return _streamed(rows, columns, item, STREAM_CHUNK_BYTES // 4)
    chunk = _chunk(columns, vector)
    padded = -(-columns // chunk) * chunk
    block_rows = min(power_of_two_to(BACKWARD_ELEMENTS // padded), power_of_two_from(rows))
    unroll = 2 if item == 2 and padded <= BACKWARD_ELEMENTS and rows > block_rows else 1
    warps = _warps(block_rows * padded, block_rows * chunk, vector, 16 if item < 8 else 8)
    warps = min(warps, 16 if padded <= BACKWARD_ELEMENTS else 8)
    if item == 4:
        chunk = min(chunk, max(1, BACKWARD_VECTORS * vector * WARP * warps // block_rows))
    config = RowConfig(rows, columns, block_rows, chunk, unroll, warps, True, 1)
    allowed = workspace_programs(rows * columns * item, vectors * columns * wide)
    return replace(config, programs=_levelled(-(-rows // config.step_rows), min(MULTIPROCESSORS, allowed)))


def column_config(rows: int, columns: int, dtype: str) -> RowConfig:
    """The second launch of a streamed backward pass: a program has a chunk of the columns, and walks over all rows."""
    vector = vector_elements(dtype)
    chunk = WARP * vector
    block_rows = min(BACKWARD_ELEMENTS // chunk, power_of_two_from(rows))
    warps = _warps(block_rows * chunk, block_rows * chunk, vector, 16)
    return RowConfig(rows, columns, block_rows, chunk, 1, warps, False, 1)


def _streamed(rows: int, columns: int, item: int, chunk_bytes: int) -> RowConfig:
    chunk = chunk_bytes // item
    return RowConfig(rows, columns, 1, chunk, 1, _warps(chunk, chunk, 16 // item, 16 // item), False, rows)


def _levelled(groups: int, most: int) -> int:
    """As many programs as give all of them the same number of groups, or nearly so."""
    steps = -(-groups // max(most, 1))
    return max(1, -(-groups // max(steps, 1)))


def _chunk(columns: int, vector: int) -> int:
    """The largest power of two of which a few make a row with at most an eighth of it wasted; where there is none, the
    one that wastes least. A warp with whole vectors is the least that a chunk should give work to, where rows allow."""
    most = max(THREAD_ELEMENTS // vector, 1)
    candidates = []
    size = power_of_two_from(columns)
    while size >= min(32, power_of_two_from(columns)) and -(-columns // size) <= most:
        candidates.append(size)
        size //= 2
    good = [size for size in candidates if -(-columns // size) * size <= 1.125 * columns]
    return good[0] if good else min(candidates, key=lambda size: -(-columns // size) * size)


def _warps(elements: int, tile: int, vector: int, per_thread: int) -> int:
    """No more threads than a tile has vectors: further ones would load the same again."""
    return max(1, min(warps_for(elements, per_thread), tile // (WARP * vector)))
