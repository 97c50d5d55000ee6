"""How positions and channels lie in shared memory where channels come last, for the Mosaic kernels, and which do."""

import math
from dataclasses import dataclass

import jax.numpy as jnp

from normbench.jax_compat.mosaic import SHARED_BYTES
from normbench.kernels.pallas.hardware import MULTIPROCESSORS, workspace_programs
from normbench.kernels.pallas.mosaic.limits import LINE, PER_THREAD, RESERVED_BYTES, WARPGROUP

LEAST_CHANNELS = 8
"""A line of a bulk copy is a multiple of 16 bytes: 8 elements of bfloat16."""
LINE_BYTES = 128
"""What a copy is aligned to in shared memory."""
TILE = 2048
"""Elements of a tile where channels are few: one chunk of `PER_THREAD` for each thread."""
MOST_RESIDENT = 4
"""Programs of a multiprocessor: two tiles in flight for each cover the latency of memory."""


@dataclass(frozen=True, slots=True)
class ChannelsConfig:
    """Tiles of `positions` whole positions, as `lines` lines of `line` elements, `chunk_lines` in registers at a time.

    Attributes:
      tiles: of the tensor.
      positions: of a tile; what belongs to a channel lies in shared memory as many times.
      channel_lines: lines of one position.
      programs: of one warpgroup each; a program takes each `programs`-th tile.
    """

    tiles: int
    positions: int
    channel_lines: int
    line: int
    chunk_lines: int
    programs: int

    @property
    def lines(self) -> int:
        return self.positions * self.channel_lines

    @property
    def width(self) -> int:
        """Elements of a tile."""
        return self.lines * self.line

    @property
    def chunks(self) -> int:
        return self.lines // self.chunk_lines

    @property
    def left(self) -> tuple[int, int]:
        """Lines and line of the sums that a program leaves: of as few positions as make up whole warpgroups."""
        return fewest_positions(self.channel_lines * self.line) * self.channel_lines, self.line


def fewest_positions(channels: int) -> int:
    """The fewest positions that make up whole warpgroups."""
    return WARPGROUP // math.gcd(channels, WARPGROUP)


def tile_positions(rows: int, channels: int) -> int:
    """Positions of a tile: the fewest that make up whole warpgroups, times what still fits `TILE`."""
    fewest = fewest_positions(channels)
    most = max(1, TILE // (fewest * channels))
    return fewest * max(n for n in range(1, most + 1) if rows // fewest % n == 0)


def channels_config(rows: int, channels: int, shared_bytes: int, workspace: tuple[int, int] | None) -> ChannelsConfig:
    """Programs that stay and walk over tiles, as many as there are multiprocessors and room in their shared memory.

    Args:
      rows: positions of the tensor.
      shared_bytes: of a program.
      workspace: bytes of the tensor, and those of the partial sums of a program, which are bounded by it.
    """
    positions = tile_positions(rows, channels)
    line = math.gcd(channels, LINE)
    lines, tiles = positions * channels // line, rows // positions
    chunk = chunk_lines(lines, line)
    programs = min(tiles, MULTIPROCESSORS * max(1, min(MOST_RESIDENT, SHARED_BYTES // shared_bytes)))
    if workspace:
        programs = min(programs, workspace_programs(*workspace))
    return ChannelsConfig(tiles, positions, channels // line, line, chunk, programs)


def chunk_lines(lines: int, line: int) -> int:
    """As many of the lines as registers hold at a time, in whole warpgroups."""
    whole = (n for n in range(1, lines + 1) if lines % n == 0 and n * line % WARPGROUP == 0)
    return max(n for n in whole if n * line <= PER_THREAD * WARPGROUP)


def forward_shared_bytes(width: int, dtype: str, param_dtypes: tuple[str, ...], output_dtype: str) -> int:
    """Two tiles of x, and of y in another dtype; parameters; the scale in float32."""
    of_y = 0 if output_dtype == dtype else _item(output_dtype)
    return width * (2 * (_item(dtype) + of_y) + sum(map(_item, param_dtypes)) + 4) + RESERVED_BYTES


def backward_shared_bytes(width: int, dtype: str, param_dtypes: tuple[str, ...], output_dtype: str) -> int:
    """Two tiles of x and of dy; parameters; the scale, two sums and at most as much as four of gradients in float32."""
    return width * (2 * (_item(dtype) + _item(output_dtype)) + sum(map(_item, param_dtypes)) + 28) + RESERVED_BYTES


def _item(dtype: str) -> int:
    return jnp.dtype(dtype).itemsize


def channels_refusal(rows: int, channels: int, param_dtypes: tuple[str, ...]) -> str | None:
    """Why a tensor of (rows, channels) is not one that the kernels take, or None."""
    if channels % LEAST_CHANNELS:
        return f"{channels} channels; allowed for pallas_mosaic: multiples of {LEAST_CHANNELS}, 16 bytes of bfloat16"
    fewest = fewest_positions(channels)
    if rows % fewest:
        return f"{rows} positions of {channels} channels; allowed for pallas_mosaic: multiples of {fewest} positions"
    positions = tile_positions(rows, channels)
    if positions * channels // math.gcd(channels, LINE) > LINE:
        return f"{channels} channels; allowed for pallas_mosaic: what one bulk copy moves, {LINE} lines of {LINE}"
    narrowest = min(map(_item, param_dtypes))
    if positions > 1 and channels * narrowest % LINE_BYTES:
        return (
            f"{channels} channels, whose parameters take {channels * narrowest} bytes; allowed for pallas_mosaic: "
            f"multiples of {LINE_BYTES} bytes"
        )
    return None
