"""How layer norm and RMS norm are cut into blocks: rows × columns, contiguous columns normalized.

A row is held in registers while it is summed and written, in chunks of a power of two of columns; where it does not
fit, it is streamed: read once for the statistics and once more for the output. None of it is tuned on a device.
"""

from dataclasses import dataclass, replace

from normbench.kernels.pallas.hardware import (
    BACKWARD_PROGRAMS,
    FEWER_MULTIPROCESSORS,
    MULTIPROCESSORS,
    VECTOR_BYTES,
    WARP,
    power_of_two_from,
    power_of_two_to,
    vector_elements,
    walking_programs,
    warps_for,
)

THREAD_BYTES = 64
"""Of x per thread: four vectors in flight, which cover the latency of device memory at a quarter of the threads of a
multiprocessor (512 threads × 64 B = 32 KiB; 4.8 TB/s × 1 µs ÷ 132 asks for 36 KB)."""

PROGRAM_BYTES = 8192
"""Of x per program at least: 128 threads of `THREAD_BYTES`; short rows share a program."""

THREAD_ELEMENTS = 48
"""In a resident row, so that the unrolled chunks of a thread, a vector each, stay within its registers."""

FORWARD_COLUMNS = {2: 32768, 4: 32768, 8: 8192}
"""The longest row held in registers, by bytes of an element: 1024 threads have 64 registers of 4 bytes each, of which
half hold the row (in float32 also where elements have 2 bytes: the compiler unpacks them before it sums)."""

STREAM_CHUNK_BYTES = 32768
"""Of a streamed row: two vectors for each of 1024 threads, and 16 float32 registers for their statistics."""

BACKWARD_ELEMENTS, SHARED_ELEMENTS = 8192, 4096
"""Of x and dy per step of a program that has a multiprocessor to itself: 16 for each of 512 threads, which have 128
registers each; and of one that shares it, and computes while the others' loads are under way."""

ROOM, FULLER = {"whole": (96, 120), "ragged": (96, 96), "activated": (72, 96), "doubled": (48, 72)}, 1.3
"""What a thread may keep of x, dy and their sums, as words of 4 bytes, where a multiprocessor is to have room for 16 or
12 such warps, of 128 or 168 registers a thread, and not for 8 alone; programs beyond would wait for the others to end.
For rows of whole vectors, for others, where more than an affine is differentiated, and for blocks of twice as many rows
that do not fill their chunks. These have to take so much more of the room."""

BUSY_PROGRAMS = 3 * MULTIPROCESSORS // 2
"""Fewer than these share no multiprocessor: each then takes longer steps, with more of its loads in flight."""

COLUMN_BYTES, BACKWARD_VECTORS = 64, 2
"""The narrowest chunk of columns of a program that walks over all rows: half of a line of the L2 cache. Vectors of a
thread in a tile of float32: with four the compiler for the A100 spills."""

BACKWARD_STATE_BYTES = 192 * 1024
"""What a program may keep of its rows, of 256 KiB of registers: h, its cotangent, and sums for two parameters or more,
in float32 at least. Rows of 12288 elements fit; of 16384 the compiler spills, whatever the warps and the dtype."""

BACKWARD_COLUMNS = 8192
"""The longest row that a program keeps where the derivative of an activation takes registers, too."""

HALVED_CHUNK = 1024
"""Forward, a row of 2-byte elements that does not fill a chunk of this or more goes in two: a mask costs registers for
each element of its chunk, and the first of two has none."""

LONG_ROW, LONG_CHUNK = 16384, 8192
"""A row of 2-byte elements longer than a chunk goes to 512 threads in chunks: with 64 registers each up to `LONG_ROW`,
so that two programs share a multiprocessor, and with 128 beyond. 1024 threads with 64 registers spill there, as every
load is unpacked into twice its size before it is summed."""


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
        return self.rows_each(self.programs) // self.step_rows

    def rows_each(self, programs: int) -> int:
        """Of so many programs."""
        return self.step_rows * -(-self.rows // (self.step_rows * programs))

    @property
    def masks_rows(self) -> bool:
        return self.rows_each(self.programs) * self.programs != self.rows


def forward_config(rows: int, columns: int, dtype: str) -> RowConfig:
    """One program for a block of whole rows."""
    vector, item = vector_elements(dtype), 16 // vector_elements(dtype)
    if columns > FORWARD_COLUMNS[item]:
        return _streamed(rows, columns, item, STREAM_CHUNK_BYTES)
    if item == 2 and columns > LONG_CHUNK:
        chunk = LONG_CHUNK if columns > LONG_ROW else min(_chunk(columns, vector), LONG_CHUNK)
        return RowConfig(rows, columns, 1, chunk, 1, 16, True, rows)
    chunk = _chunk(columns, vector)
    if item == 2 and chunk >= HALVED_CHUNK and columns < chunk:
        chunk //= 2
    padded = -(-columns // chunk) * chunk
    block_rows = min(power_of_two_to(PROGRAM_BYTES // item // padded), power_of_two_from(rows))
    warps = _warps(block_rows * padded, block_rows * chunk, vector, THREAD_BYTES // item)
    return RowConfig(rows, columns, block_rows, chunk, 1, warps, True, -(-rows // block_rows))


def backward_config(rows: int, columns: int, dtype: str, vectors: int, affine: bool) -> RowConfig:
    """Programs that walk over the rows, each with sums of its own for the gradients of `vectors` parameters; `affine`
    says that nothing but an affine follows the norm."""
    item = VECTOR_BYTES // vector_elements(dtype)
    wide = max(item, 4)
    fits = columns * (2 + max(vectors, 2)) * wide <= BACKWARD_STATE_BYTES
    if not fits or not (affine or columns <= BACKWARD_COLUMNS):
        return _streamed(rows, columns, item, STREAM_CHUNK_BYTES // 4)
    allowed = walking_programs(rows * columns * item, vectors * columns * wide)
    shared, each = _shared_tile(rows, columns, item, allowed, vectors, affine)
    if columns <= SHARED_ELEMENTS and min(allowed, rows // shared.step_rows) >= BUSY_PROGRAMS:
        programs = each * (MULTIPROCESSORS if allowed >= each * MULTIPROCESSORS else FEWER_MULTIPROCESSORS)
        return replace(shared, programs=_levelled(-(-rows // shared.step_rows), min(programs, allowed)))
    config, most = _backward_tile(rows, columns, item, BACKWARD_ELEMENTS), min(MULTIPROCESSORS, allowed)
    if item == 2 and config.block_rows * columns <= BACKWARD_ELEMENTS and rows > config.block_rows:
        # Three chunks as one, though a quarter of it is empty: there are fewer sums to add up across warps at the end.
        config = replace(config, unroll=2, chunk=power_of_two_from(columns) if config.chunks == 3 else config.chunk)
        three = replace(config, unroll=3)  # in flight, where the last step of two would leave many programs idle
        if config.chunks == 1 and three.rows_each(most) < 0.9 * config.rows_each(most):
            config = three
    return replace(config, programs=_levelled(-(-rows // config.step_rows), most))


def _shared_tile(rows: int, columns: int, item: int, allowed: int, vectors: int, affine: bool) -> tuple[RowConfig, int]:
    """Blocks of programs that share a multiprocessor, and how many of those have room on one: twice as many rows where
    the `allowed` programs would leave much of it empty, and two in flight where threads have all registers anyway."""
    whole = affine and columns % (VECTOR_BYTES // item) == 0
    case = "whole" if whole else "ragged" if affine else "activated"
    found: list[tuple[int, RowConfig, int]] = []
    for elements in (SHARED_ELEMENTS, BACKWARD_ELEMENTS):
        tile = _backward_tile(rows, columns, item, elements)
        if found and (not affine or columns % tile.chunk):
            case = "doubled"
        each = tile.block_rows * tile.chunks * tile.chunk // (tile.warps * WARP)
        kept = each * (2 + vectors) * max(item, 4) // 4
        warps = 16 - 4 * sum(kept > most for most in ROOM[case])
        if whole and item == 2 and kept > 120:
            tile = replace(tile, unroll=2)
        programs = max(1, warps // tile.warps)
        there = min(allowed, programs * MULTIPROCESSORS, rows // tile.step_rows)
        found.append((there * tile.warps, tile, programs))
    few, many = found
    return (many if many[0] > FULLER * few[0] else few)[1:]


def _backward_tile(rows: int, columns: int, item: int, elements: int) -> RowConfig:
    """Blocks of whole rows, of about `elements` where rows are short; one row of those that are longer."""
    vector = VECTOR_BYTES // item
    chunk = _chunk(columns, vector)
    padded = -(-columns // chunk) * chunk
    block_rows = min(power_of_two_to(elements // padded), power_of_two_from(rows))
    warps = _warps(block_rows * padded, block_rows * chunk, vector, 16 if item < 8 else 8)
    warps = min(warps, 16 if padded <= BACKWARD_ELEMENTS else 8)
    if item == 4:
        chunk = min(chunk, max(1, BACKWARD_VECTORS * vector * WARP * warps // block_rows))
    return RowConfig(rows, columns, block_rows, chunk, 1, warps, True, 1)


def column_config(rows: int, columns: int, dtype: str) -> RowConfig:
    """The second launch of a streamed backward pass: a program has a chunk of the columns, and walks over all rows.

    Chunks are as narrow as it takes to give multiprocessors two programs each, down to `COLUMN_BYTES`.
    """
    vector = vector_elements(dtype)
    chunk = WARP * vector
    while chunk * VECTOR_BYTES // vector > COLUMN_BYTES and columns // chunk < BACKWARD_PROGRAMS:
        chunk //= 2
    block_rows = min(SHARED_ELEMENTS // chunk, power_of_two_from(rows))
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
