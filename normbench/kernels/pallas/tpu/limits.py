"""What the kernels take of a TPU's VMEM, and how arrays are cut into blocks of it.

VMEM is what JAX's own description of the chips says (`jax.experimental.pallas.tpu.get_tpu_info_for_chip`): 128 MiB of a
TensorCore of v5e and v6e, 64 MiB of v5p and TPU7x, 16 MiB of v4. The last two dimensions of an array lie in tiles of
(8, 128) elements of 32 bits, those of bfloat16 two to a place.
"""

import math
from dataclasses import dataclass

import jax.numpy as jnp

DTYPES = ("float32", "bfloat16")
"""Mosaic TPU computes in float32, and loads and stores these."""
LANES, SUBLANES = 128, 8
VMEM_BYTES = 48 * 2**20
"""What a kernel may take: three quarters of the smallest VMEM, so that XLA keeps some for what is around it."""
HELD_BYTES = 24 * 2**20
"""Of it, what is kept from the first walk over an array to the second."""
BLOCK_ELEMENTS = 2**18
"""Of a block: 512 KiB of bfloat16, which a v6e moves in about as long as a step of the grid costs (0.35 us)."""
ROW_ELEMENTS = 2**20
"""Of a block of whole rows, at most: with two of each of three tensors, and some five arrays in float32, 32 MiB."""
PADDED = 1.05
"""Where tiles make x larger than by this factor of what it holds, a kernel moves the padding, too."""


def sublanes(*dtypes: str) -> int:
    """Rows of a tile as the compiler packs the narrowest of the dtypes: blocks start and end at multiples of it."""
    return max(32 // jnp.dtype(dtype).itemsize for dtype in dtypes)


def up_to(size: int, multiple: int) -> int:
    """The smallest multiple that is `size` or more."""
    return -(-size // multiple) * multiple


def padded_lanes(size: int) -> int:
    return up_to(size, LANES)


def dtype_refusal(names: tuple[str, ...], dtypes: tuple[str, ...]) -> str | None:
    for name, dtype in zip(names, dtypes, strict=True):
        if dtype not in DTYPES:
            return f"{name} is {dtype}; allowed for pallas_tpu: {', '.join(DTYPES)}"
    return None


def lanes_refusal(size: int, what: str) -> str | None:
    """Why so few elements along the last dimension are left to XLA, which lays another one along the lanes."""
    if padded_lanes(size) <= PADDED * size:
        return None
    return (
        f"{size} {what} fill {padded_lanes(size)} lanes, so the kernel would move {padded_lanes(size) / size:.2f} "
        f"times as much; allowed for pallas_tpu: {PADDED} times"
    )


@dataclass(frozen=True, slots=True)
class Pieces:
    """x as (images, places, ..., channels), cut along the channels and the places.

    Attributes:
      shape: of x; dimensions between places and channels, if any, lie whole in a block.
      channels: of a block.
      places: of a block.
      held: whether what the first walk over the places has read stays in VMEM for the second.
    """

    shape: tuple[int, ...]
    channels: int
    places: int
    held: bool

    @property
    def grid(self) -> tuple[int, int, int]:
        """Blocks along the channels, the images and the places."""
        return (-(-self.shape[-1] // self.channels), self.shape[0], self.pieces)

    @property
    def pieces(self) -> int:
        return -(-self.shape[1] // self.places)

    @property
    def within(self) -> int:
        """Positions of a place."""
        return math.prod(self.shape[2:-1])

    @property
    def positions(self) -> int:
        return self.shape[1] * self.within

    @property
    def ragged(self) -> bool:
        """Whether the last block of places reaches beyond the end."""
        return self.shape[1] % self.places != 0

    @property
    def block(self) -> tuple[int, ...]:
        return (self.places, *self.shape[2:-1], self.channels)


def positions_view(shape: tuple[int, ...], merged: bool) -> tuple[int, ...]:
    """x of (N, ..., C) as (images, places, ..., channels) without moving anything: the last two dimensions lie in
    tiles, so the one before the channels is merged into the others only where it fills its tiles.

    `merged`: all images are one, as for batch norm.
    """
    images, *between = shape[:-1] if len(shape) > 1 else (1,)
    if merged:
        images, between = 1, [images, *between]
    if not between:
        between = [1]
    if len(between) == 1 or between[-1] % SUBLANES == 0:
        return images, math.prod(between), shape[-1]
    return images, math.prod(between[:-1]), between[-1], shape[-1]


def pieces_of(shape: tuple[int, ...], each: int, dtypes: tuple[str, ...], walks: int) -> Pieces:
    """How x of (images, places, ..., channels) is cut.

    Args:
      each: channels that are normalized together: a block has a multiple of them.
      dtypes: of the arrays that are read: all of them are held.
      walks: over the places; with one there is nothing to hold.
    """
    channels, within = shape[-1], shape[2:-1]
    step = math.lcm(LANES, each)
    position_elements = math.prod(within[:-1]) * (up_to(within[-1], SUBLANES) if within else 1)
    held_bytes = shape[1] * position_elements * sum(jnp.dtype(dtype).itemsize for dtype in dtypes)
    fitting = HELD_BYTES // held_bytes // step * step
    wide = channels if step >= channels else max(step, min(fitting, BLOCK_ELEMENTS // 256 // step * step, channels))
    if wide + step > channels:
        wide = channels if held_bytes * padded_lanes(channels) <= HELD_BYTES or step >= channels else wide
    tile = 1 if within else sublanes(*dtypes)
    places = max(BLOCK_ELEMENTS // (padded_lanes(wide) * position_elements) // tile * tile, tile)
    places = min(places, shape[1])
    held = walks == 1 or places == shape[1] or held_bytes * padded_lanes(wide) <= HELD_BYTES
    return Pieces(shape, wide, places, held)
