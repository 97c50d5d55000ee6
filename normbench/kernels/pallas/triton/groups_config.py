"""How group norm and instance norm are cut into blocks: a program has whole groups of channels of one image.

The groups are held in registers while they are summed and written; where they do not fit, they are streamed: read once
for the statistics and once more for the output. None of it is tuned on a device.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp

from normbench.kernels.pallas.hardware import (
    MULTIPROCESSORS,
    VECTOR_BYTES,
    WARP,
    power_of_two_from,
    power_of_two_to,
    vector_elements,
    walking_programs,
)
from normbench.kernels.pallas.triton.channel_tiles import Part, View, part

WARPS = (1, 2, 4, 8, 16)
"""512 threads at most, of 128 registers each: with 1024 of 64 the compiler spills before the block fills them."""

FORWARD_ELEMENTS = 80
"""Of x per thread, in float32, whatever the dtype of x: the compiler unpacks elements before it sums. The rest of 128
registers is for indices and arithmetic."""

BEFORE_EXPONENTIALS = 72
"""Of these, where x has two bytes an element and y takes an exponential: with more the compiler spills. The rest is
read again where y is written."""

BACKWARD_ELEMENTS = 40
"""Of x and of dy, each, per thread: the derivative of an activation and the recomputed h take registers, too."""

USUAL_ELEMENTS = 32
"""Of x per thread where there is a choice: four vectors in flight of two bytes an element."""

MOST_TILES = 48
"""Unrolled in a program: the compiler's time grows with them."""

PROGRAM_ELEMENTS = 2048
"""Of x per program at least, where smaller groups can share one."""

CONTIGUOUS_BYTES = (64, 32, 16)
"""That a program reads of each position where channels come last, the preferred first: two sectors of 32 bytes, one, or
half of one, whose other half a neighbouring program reads at about the same time from the L2 cache."""

STREAM_VECTORS = 2
"""Of each thread in a streamed tile."""

LINE_BYTES = 128
"""Of the L2 cache."""

SHARED_BYTES = (64, 256)
"""The least and the most of each position where the positions of a group are shared out among programs, of which there
are enough whatever the number of blocks: as many groups as leave fewest lanes of a tile without a channel."""

SHARED_WARPS = 4
"""Of a program that has a share of a group's positions; several such programs fill a multiprocessor. More warps share
what is loaded, and each of them adds up channels."""

TOGETHER = 4
"""Tiles of a share that are under way before the first of them is used."""

SHARED_PROGRAMS = 4 * MULTIPROCESSORS
"""At most, where there are fewer without shares: all run at once, and each multiprocessor has as many."""

LEAST_STEPS = 2
LEAST_STEPS_OF_SUMS = 6
"""Tiles of a share at least, so that what it leaves is a small part of what it reads: two values for each group in the
forward pass, and for each channel in the backward pass."""

PARTIALS = 4096
"""Of each of two quantities that a program of the second launch reads, at most: 32 for each of its threads; twice as
many where these are all."""
MORE_PARTIALS, MORE_PARTIALS_OF_SUMS = 8, 32
"""Times as many, read one part after the other, forward and backward, where multiprocessors were idle otherwise."""

WIDEST = 8192
"""Channels of a group beyond which a tile of one position would not fit."""


@dataclass(frozen=True, slots=True)
class GroupConfig:
    """Blocks of channels and chunks of positions.

    Attributes:
      view: of x.
      each: channels of a group.
      block: channels of a program, whole groups.
      width: channels of a tile, a power of two; `parts` tiles make the block.
      chunk: positions of a tile, a power of two.
      warps: per program.
      resident: True where a program holds its groups in registers, False where it streams them.
      splits: how many programs share the images of a block in the backward pass.
      steps: tiles of a share of the positions, where groups are streamed; `together` of them are under way at once.
    """

    view: View
    each: int
    block: int
    width: int
    chunk: int
    warps: int
    resident: bool
    splits: int = 1
    steps: int = 1
    together: int = 1

    @property
    def shares(self) -> int:
        """How many programs share the positions of a block of one image, where groups are streamed."""
        return -(-self.chunks // self.steps)

    def is_of_one(self, each: int) -> bool:
        """Whether all channels of a program have the same of what belongs to each `each` of them."""
        return each > 1 and each == self.block

    def partial_blocks(self, each: int) -> tuple[int, int]:
        """In how many blocks, and of how many shares, a program of the second launch reads what belongs to each `each`
        channels."""
        all_shares, fitting = power_of_two_from(self.shares), _fitting(1 if self.is_of_one(each) else self.width)
        size = all_shares if all_shares <= 2 * fitting else fitting
        return -(-self.shares // size), size

    @property
    def parts(self) -> int:
        return -(-self.block // self.width)

    @property
    def chunks(self) -> int:
        return -(-self.view.spatial // self.chunk)

    @property
    def blocks(self) -> int:
        return -(-self.view.channels // self.block)

    def again(self, dtype: str, activation: str) -> tuple[int, int]:
        """The last tiles, which a program that holds its groups reads again for y: their number, and their elements."""
        kept = BEFORE_EXPONENTIALS * self.warps * WARP // (self.width * self.chunk)
        too_many = activation in ("silu", "gelu") and jnp.dtype(dtype).itemsize == 2
        tiles = max(0, self.parts * self.chunks - kept) if too_many else 0
        whole, rest = divmod(tiles, self.chunks)
        positions = whole * self.view.spatial + (rest and self.view.spatial - (self.chunks - rest) * self.chunk)
        return tiles, self.width * positions

    @property
    def masks_channels(self) -> bool:
        return self.block % self.width != 0 or self.view.channels % self.block != 0

    @property
    def groups(self) -> int:
        return self.view.channels // self.each

    @property
    def images_each(self) -> int:
        """Images of a program in the backward pass; the last program has fewer where `splits` does not divide them."""
        return -(-self.view.images // self.splits)

    @property
    def count(self) -> int:
        """Terms of a statistic."""
        return self.each * self.view.spatial


def forward_config(view: View, groups: int, dtype: str) -> GroupConfig:
    """One program for a block of groups of one image; where they do not fit, several that share its positions."""
    return _resident_config(view, groups, dtype, FORWARD_ELEMENTS) or _shared_config(view, groups, dtype, False)


def backward_config(view: View, groups: int, dtype: str, wide_bytes: int) -> GroupConfig:
    """The same, or fewer programs that walk over images, so that their partial sums of `wide_bytes` stay small."""
    config = _resident_config(view, groups, dtype, BACKWARD_ELEMENTS)
    if config is None:
        return _shared_config(view, groups, dtype, True)
    item = VECTOR_BYTES // vector_elements(dtype)
    allowed = min(view.images, walking_programs(view.size * item, 2 * wide_bytes * view.channels, config.blocks))
    enough = min(view.images, -(-8 * MULTIPROCESSORS // config.blocks))
    images_each = -(-view.images // min(allowed, enough))
    return replace(config, splits=-(-view.images // images_each))


def _resident_config(view: View, groups: int, dtype: str, most: int) -> GroupConfig | None:
    """Whole groups in registers, `most` elements for each thread; None where they do not fit."""
    each, vector = view.channels // groups, vector_elements(dtype)
    for block, width in _blocks(view, each, groups, vector, CONTIGUOUS_BYTES):
        found = _resident(view, block, width, vector, most if vector > 2 else most // 2)
        if found:
            return GroupConfig(view, each, block, width, *found, True)
    return None


def _shared_config(view: View, groups: int, dtype: str, backward: bool) -> GroupConfig:
    """Programs that share the positions of a block of groups of one image, in tiles of all channels of the block: loops
    over several tiles in a row spill."""
    vector = vector_elements(dtype)
    block, width = _shared_block(view, groups, vector)
    chunk = max(1, min(SHARED_WARPS * WARP * vector * STREAM_VECTORS // width, power_of_two_from(view.spatial)))
    warps = min(SHARED_WARPS, _most_warps(chunk * width, vector))
    config = GroupConfig(view, view.channels // groups, block, width, chunk, warps, False)
    there = view.images * config.blocks
    fitting = _fitting(1 if not backward and config.is_of_one(config.each) else width)
    more = power_of_two_from(-(-MULTIPROCESSORS // (there * fitting)))
    fitting *= min(more, MORE_PARTIALS_OF_SUMS if backward else MORE_PARTIALS)
    least_steps = LEAST_STEPS_OF_SUMS if backward else LEAST_STEPS
    shares = max(1, min(SHARED_PROGRAMS // there, config.chunks // least_steps, fitting))
    steps = -(-config.chunks // shares)
    together = min(TOGETHER, steps)
    return replace(config, steps=-(-steps // together) * together, together=together)


def _fitting(lanes: int) -> int:
    """Shares of which a program may have what they leave for so many lanes at once."""
    return power_of_two_to(max(1, PARTIALS // lanes))


def _shared_block(view: View, groups: int, vector: int) -> tuple[int, int]:
    """(channels of a program, channels of its one tile), with the fewest lanes without a channel; of several such the
    one nearest a cache line of each position."""
    each, item = view.channels // groups, VECTOR_BYTES // vector
    if not view.last:
        (block, _), *_ = _blocks(view, each, groups, vector, SHARED_BYTES)
        return block, power_of_two_from(block)
    step = vector // math.gcd(each, vector)
    least, most = (size // (item * each) for size in SHARED_BYTES)
    counts = [min(n, groups) for n in range(step, most + 1, step) if n >= min(least, most)] or [min(step, groups)]
    blocks = [(each * n, power_of_two_from(each * n)) for n in counts]

    def lanes(blocked: tuple[int, int]) -> tuple[int, float]:
        block, width = blocked
        return -(-view.channels // block) * width, abs(math.log2(width * item / LINE_BYTES))

    return min(blocks, key=lanes)


def _blocks(view: View, each: int, groups: int, vector: int, sizes_bytes: tuple[int, ...]) -> list[tuple[int, int]]:
    """(channels of a program, channels of a tile), the preferred first."""
    if view.last:
        item, found = 16 // vector, []
        # A multiple of the vector, so that the blocks of all programs start aligned.
        step = vector // math.gcd(each, vector)
        for size in sizes_bytes:
            count = min(-(-(size // item) // (each * step)) * step, groups)
            found.append((count * each, power_of_two_from(count * each)))
        return found
    odd = each // (each & -each)
    if 1 < odd <= MOST_TILES // 2:
        return [(each, each & -each)]
    count = 1
    while count * 2 <= groups and count * each * view.spatial < PROGRAM_ELEMENTS:
        count *= 2
    return [(count * each, power_of_two_from(count * each))]


def _resident(view: View, block: int, width: int, vector: int, most: int) -> tuple[int, int] | None:
    """(positions of a tile, warps) that waste least, with at most `most` elements for each thread."""
    found = []
    for warps in WARPS:
        chunk = min(warps * WARP * vector // width, power_of_two_from(view.spatial))
        if chunk == 0:
            continue
        tiles = -(-block // width) * -(-view.spatial // chunk)
        elements = tiles * width * chunk
        fitting = min(warps, _most_warps(width * chunk, vector))
        each = elements / (fitting * WARP)
        if each <= most and tiles <= MOST_TILES:
            found.append((elements, abs(math.log2(each / USUAL_ELEMENTS)), chunk, fitting))
    return min(found)[2:] if found else None


def _most_warps(elements: int, vector: int) -> int:
    """No more threads than a tile has vectors: further ones would load the same again."""
    return max(1, power_of_two_to(elements // (WARP * vector)))


def channel_parts(block: Any, config: GroupConfig) -> list[Part]:
    """The channels of the tiles of a block."""
    first = block * config.block
    parts = []
    for j in range(config.parts):
        channels = part(first + j * config.width, config.width, config.view.channels, config.masks_channels)
        if config.block % config.width:
            channels = Part(channels.index, channels.mask & (channels.index < first + config.block))
        parts.append(channels)
    return parts


def position_part(chunk: Any, config: GroupConfig, masked: bool) -> Part:
    return part(chunk * config.chunk, config.chunk, config.view.spatial, masked)


def position_parts(config: GroupConfig) -> list[Part]:
    """All positions, for tiles that are unrolled."""
    spatial = config.view.spatial
    return [position_part(m, config, (m + 1) * config.chunk > spatial) for m in range(config.chunks)]


def share_of(program: Any, config: GroupConfig) -> tuple[Any, Any, Part]:
    """The image, the share of its positions, and the channels of a program."""
    (channels,) = channel_parts(program % config.blocks, config)
    program = program // config.blocks
    return program // config.shares, program % config.shares, channels


def terms_of(share: Any, config: GroupConfig, dtype: Any) -> Any:
    """Positions of a share."""
    size = config.steps * config.chunk
    return jnp.clip(config.view.spatial - share * size, 0, size).astype(dtype)
