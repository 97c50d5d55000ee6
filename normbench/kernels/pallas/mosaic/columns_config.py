"""Which channels of an image make up a program of the Mosaic kernels of groups, channels last, and which fit."""

import math
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from normbench.jax_compat.mosaic import SHARED_BYTES
from normbench.kernels.pallas.hardware import power_of_two_to
from normbench.kernels.pallas.mosaic.limits import COPY_BYTES, LINE, PER_THREAD, RESERVED_BYTES, WARPGROUP

SECTOR_BYTES = 32
"""What device memory reads at once: of narrower lines it would read more than is used."""
WIDE_BYTES = 64
"""Of a line, where that fits: two sectors. More would only make fewer programs."""
CHUNK = 1024
"""Elements in registers at a time: eight for each thread, of some ten arrays in float32."""
PIECE = 16384
"""Elements of a piece, where the positions come in pieces."""
LEAST_POSITIONS = 256
"""Two sums in float32 for each image and channel are then 1.6 % of it in bfloat16."""


class _Programs:
    """What both configurations know of their programs."""

    __slots__ = ()
    images: int
    positions: Any  # a field of one, made of two in the other
    channels: int
    each: int
    width: int

    @property
    def blocks(self) -> int:
        """Programs of an image."""
        return self.channels // self.width

    @property
    def programs(self) -> int:
        return self.images * self.blocks

    @property
    def elements(self) -> int:
        """Of a group."""
        return self.positions * self.each


@dataclass(frozen=True, slots=True)
class ColumnsConfig(_Programs):
    """x as (images, parts, lines, channels): a program has the positions of an image, `width` of its channels.

    Attributes:
      images, parts, lines, channels: the shape; parts times lines are the positions, as a bulk copy takes them.
      each: channels of a group.
      width: channels of a program, whole groups.
      chunk: positions in registers at a time, a power of two.
    """

    images: int
    parts: int
    lines: int
    channels: int
    each: int
    width: int
    chunk: int

    @property
    def resident(self) -> bool:
        return True

    @property
    def positions(self) -> int:
        return self.parts * self.lines

    @property
    def chunks(self) -> int:
        return self.positions // self.chunk


def columns_config(
    images: int, positions: int, channels: int, each: int, dtypes: tuple[str, ...]
) -> ColumnsConfig | str:
    """The configuration, or the reason why there is none.

    Args:
      dtypes: of the tensors that lie in shared memory together.
    """
    sizes = [jnp.dtype(dtype).itemsize for dtype in dtypes]
    if positions < LEAST_POSITIONS:
        return f"{positions} positions; allowed for pallas_mosaic where channels come last: {LEAST_POSITIONS} or more"
    lines = max(n for n in range(1, LINE + 1) if positions % n == 0)
    if positions // lines > LINE:
        return f"{positions} positions; allowed for pallas_mosaic: what one bulk copy moves, {LINE} lines of {LINE}"
    widths = _widths(channels, each, min(sizes), SECTOR_BYTES)
    if not widths:
        return _width_refusal(channels, each, SECTOR_BYTES)
    least = widths[0]
    fitting = [width for width in widths if shared_bytes(positions, width, sizes) <= SHARED_BYTES]
    if not fitting:
        needed = shared_bytes(positions, least, sizes)
        return f"{needed} bytes of shared memory a program; allowed for pallas_mosaic: {SHARED_BYTES}"
    width = next((width for width in fitting if width * min(sizes) >= WIDE_BYTES), fitting[-1])
    chunk = min(positions & -positions, power_of_two_to(CHUNK // width))
    if chunk * width % WARPGROUP:
        return (
            f"{positions} positions of {width} channels; allowed for pallas_mosaic: "
            f"multiples of {WARPGROUP // math.gcd(width, WARPGROUP)} positions"
        )
    return ColumnsConfig(images, positions // lines, lines, channels, each, width, chunk)


@dataclass(frozen=True, slots=True)
class AnyColumns(_Programs):
    """x as (images, positions, channels): a program has positions of an image, `width` of its channels.

    Attributes:
      each: channels of a group.
      width: channels of a program, whole groups.
      chunk: positions in registers at a time, a power of two.
      piece: positions in shared memory at a time; all, or fewer in whole chunks.
    """

    images: int
    positions: int
    channels: int
    each: int
    width: int
    chunk: int
    piece: int

    @property
    def resident(self) -> bool:
        return self.piece == self.positions

    @property
    def pieces(self) -> int:
        return -(-self.positions // self.piece)

    @property
    def chunks(self) -> int:
        """Of a piece."""
        return -(-self.piece // self.chunk)


def any_columns(images: int, positions: int, channels: int, each: int, dtypes: tuple[str, ...]) -> AnyColumns | str:
    """The configuration for any number of positions, or the reason why there is none; arguments as `columns_config`."""
    sizes = [jnp.dtype(dtype).itemsize for dtype in dtypes]
    found = []
    for width in _widths(channels, each, min(sizes), COPY_BYTES):
        chunk = max(power_of_two_to(CHUNK // width), WARPGROUP // math.gcd(width, WARPGROUP))
        room = SHARED_BYTES - RESERVED_BYTES - 2 * 4 * chunk * width
        most = room // (width * sum(sizes)) // chunk * chunk
        if chunk * width <= PER_THREAD * WARPGROUP and most:
            piece = positions if positions <= most else min(most, PIECE // width // chunk * chunk or chunk)
            found.append(AnyColumns(images, positions, channels, each, width, chunk, piece))
    if not found:
        return _width_refusal(channels, each, COPY_BYTES)
    resident = [config for config in found if config.resident]
    return next((c for c in resident or found if c.width * min(sizes) >= WIDE_BYTES), (resident or found)[-1])


def columns_of(
    images: int, positions: int, channels: int, each: int, dtypes: tuple[str, ...]
) -> ColumnsConfig | AnyColumns | str:
    """The first of the two configurations that there is, or the reason why there is none."""
    config = columns_config(images, positions, channels, each, dtypes)
    return any_columns(images, positions, channels, each, dtypes) if isinstance(config, str) else config


def _width_refusal(channels: int, each: int, least_bytes: int) -> str:
    return (
        f"{channels} channels in groups of {each}; allowed for pallas_mosaic: whole groups, up to "
        f"{LINE} channels that divide all, of {least_bytes} bytes or more in multiples of {COPY_BYTES}"
    )


def _widths(channels: int, each: int, item_bytes: int, least_bytes: int) -> list[int]:
    """Channels that a program may have, the fewest first."""
    step = math.lcm(each, COPY_BYTES // item_bytes)
    return [
        width
        for width in range(step, min(channels, LINE) + 1, step)
        if channels % width == 0 and width * item_bytes >= least_bytes
    ]


def shared_bytes(positions: int, width: int, sizes: list[int]) -> int:
    """Shared memory of a program: its tensors, and two chunks in float32."""
    return positions * width * sum(sizes) + 2 * 4 * CHUNK + RESERVED_BYTES
