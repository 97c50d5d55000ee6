"""How the kernels of batch norm cut x and walk over it: a program has some channels and a share of the batch.

None of it is tuned on a device.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from normbench.jax_compat.triton import triton_load, triton_program_id, triton_store
from normbench.kernels.common.activations import activate
from normbench.kernels.pallas.hardware import (
    MULTIPROCESSORS,
    WARP,
    power_of_two_from,
    vector_elements,
    walking_programs,
)
from normbench.kernels.pallas.triton.channel_tiles import Part, View, load_tile, load_vector, over_tiles, part, spread
from normbench.kernels.pallas.triton.tiles import span

WARPS, TOGETHER = 4, 4
"""Warps of a program, and tiles of a share that are under way before the first of them is used. More warps share what
is loaded, and each of them adds up channels."""

BUSY_WARPS = 8
"""Of a program whose activation takes tens of instructions for an element: it then has one tile after the other, as
more warps hide what they wait for, and several tiles would take the registers of some."""

CHEAP_ACTIVATIONS = ("none", "relu")

STREAM_VECTORS = 2
"""Of each thread in a tile: two loads in flight, and in a backward pass two of each tensor."""

LAST_CHANNEL_BYTES = (128, 64)
"""Of a position where channels come last: a whole cache line; half of one of narrower elements than float32, which are
twice as many channels, where few channels would leave multiprocessors idle."""

PROGRAMS = 4 * MULTIPROCESSORS
"""At most: all run at once, and each multiprocessor has as many. Four are enough warps to cover the latency of memory,
and few enough that what every program of the second launch reads, the partial sums of its channels, is a small part of
its traffic in the L2 cache."""

MOST_PARTIALS = 8192
"""Of each of two quantities, shares × channels of a block: so that they fit the registers of a program."""

LEAST_STEPS = 4
"""Tiles of a share at least: there is then a partial sum for each 128 elements, or fewer."""

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
      together: tiles of a share that are under way before the first of them is used.
    """

    view: View
    block: int
    chunk: int
    steps: int
    warps: int
    together: int = 1

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


def batch_config(view: View, dtype: str, activation: str, least_steps: int = LEAST_STEPS) -> BatchConfig:
    """The same for both launches of a pass, with shares of `least_steps` tiles or more."""
    vector, cheap = vector_elements(dtype), activation in CHEAP_ACTIVATIONS
    most_warps = WARPS if cheap else BUSY_WARPS
    item, elements = 16 // vector, most_warps * WARP * vector * STREAM_VECTORS
    if view.last:
        sizes = LAST_CHANNEL_BYTES if item < 4 else LAST_CHANNEL_BYTES[:1]
        blocks = [min(power_of_two_from(view.channels), size // item) for size in sizes]
        busy = [n for n in blocks if -(-view.channels // n) * (MOST_PARTIALS // n) >= PROGRAMS]
        block = (busy or blocks[-1:])[0]
        chunk = min(elements // block, power_of_two_from(view.spatial))
    else:
        chunk = min(elements, power_of_two_from(view.spatial))
        block = min(elements // chunk, power_of_two_from(view.channels))
    warps = max(1, min(most_warps, block * chunk // (WARP * vector)))
    one = BatchConfig(view, block, chunk, 1, warps)
    wanted = min(MOST_PARTIALS // block, max(1, PROGRAMS // one.blocks), max(1, one.tiles // least_steps))
    # Partial sums of two quantities in float32 or wider; counted at their widest.
    wanted = min(wanted, walking_programs(view.size * item, 2 * max(item, 4) * view.channels, one.blocks))
    steps = -(-one.tiles // wanted)
    together = min(TOGETHER, steps) if cheap else 1
    return BatchConfig(view, block, chunk, -(-steps // together) * together, warps, together)


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """What is computed; `view` is x's, `dtype` that of the arithmetic, `output_dtype` that of y, `momentum` the weight
    of the batch in the new running statistics."""

    view: View
    epsilon: float
    momentum: float
    activation: str
    output_dtype: str
    dtype: str


def share(config: BatchConfig, backwards: bool) -> tuple[Any, Part]:
    """Which share of the batch the running program has, and its channels.

    The second launch starts with what the first ended with, which the L2 cache may still hold.
    """
    program = triton_program_id()
    if backwards:
        program = config.blocks * config.splits - 1 - program
    first = program % config.blocks * config.block
    return program // config.blocks, part(first, config.block, config.view.channels, config.masks_channels)


def over_share(config: BatchConfig, split: Any, load: Callable[..., Any], use: Callable[..., Any], carry: Any) -> Any:
    """`carry = use((image, positions), load((image, positions)), carry)` for every tile of a share."""

    def place(step):
        tile = split * config.steps + step
        image = tile // config.chunks
        positions = part(tile % config.chunks * config.chunk, config.chunk, config.view.spatial, config.masks_positions)
        if config.masks_tiles:
            exists = jnp.broadcast_to(image < config.view.images, positions.index.shape)
            positions = Part(positions.index, exists if positions.mask is None else exists & positions.mask)
        return image, positions

    return over_tiles(config.steps, config.together, place, load, use, carry)


def _before(tile: Any, config: BatchConfig) -> Any:
    """How many terms of a channel lie before this tile."""
    tile = jnp.minimum(tile, config.tiles)
    return tile // config.chunks * config.view.spatial + tile % config.chunks * config.chunk


def terms_of(split: Any, config: BatchConfig, dtype: Any) -> Any:
    """Terms of a channel in a share; at least 1, so that an empty share divides by something."""
    terms = _before((split + 1) * config.steps, config) - _before(split * config.steps, config)
    return jnp.maximum(terms, 1).astype(dtype), terms.astype(dtype)


def zero_tile(plan: BatchPlan, config: BatchConfig) -> jax.Array:
    shape = (config.chunk, config.block) if plan.view.last else (config.block, config.chunk)
    return jnp.zeros(shape, jnp.dtype(plan.dtype))


def found_by_shares(refs: tuple, channels: Part, config: BatchConfig) -> tuple[list[jax.Array], jax.Array]:
    """What the shares have left for the channels of a program, as (shares, channels), and which shares there are."""
    shares = span(config.padded_splits)
    mask = jnp.broadcast_to((shares < config.splits)[:, None], (config.padded_splits, config.block))
    if channels.mask is not None:
        mask = mask & channels.mask[None, :]
    index = (shares * config.view.channels)[:, None] + channels.index[None, :]
    return [triton_load(ref, index, mask, "evict_last") for ref in refs], shares


def loader(refs: Sequence[Any], view: View, channels: Part, eviction: str | None = None) -> Callable[..., Any]:
    """What loads a tile of each of the `refs` at (image, positions)."""

    def load(place):
        image, positions = place
        return tuple(load_tile(ref, view, image, channels, positions, eviction) for ref in refs)

    return load


def h_and_dz(x, dy, known, plan: BatchPlan):
    mean, r, gamma, beta = known
    h, dz = (x.astype(plan.dtype) - mean) * r, dy.astype(plan.dtype)
    if plan.activation != "none":
        (dz,) = jax.vjp(partial(activate, activation=plan.activation), h * gamma + beta)[1](dz)
    return h, dz


def write_statistics(running, out, mean, variance, channels: Part, count: int, plan: BatchPlan) -> jax.Array:
    """Writes the new running statistics, mean and r; returns r.

    Args:
      running: references to the old mean and variance.
      out: references to what is written, in this order.
      mean, variance: of the `channels` of a program over `count` terms.
    """
    r = jax.lax.rsqrt(variance + plan.epsilon)
    old = (load_vector(ref, channels, plan.dtype) for ref in running)
    found = mean, variance * (count / max(count - 1, 1))
    moved = ((1 - plan.momentum) * o + plan.momentum * value for o, value in zip(old, found, strict=True))
    for ref, value in zip(out, (*moved, mean, r), strict=True):
        triton_store(ref, channels.index, value.astype(ref.dtype), channels.mask)
    return r


def known_vectors(refs, channels: Part, plan: BatchPlan) -> tuple:
    """mean, r, gamma, beta lined up with a tile; `refs` are gamma, beta, mean, r."""
    gamma, beta, mean, r = (spread(plan.view, load_vector(ref, channels, plan.dtype)) for ref in refs)
    return mean, r, gamma, beta
