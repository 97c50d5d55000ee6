"""Batch norm in training where a channel fits on the chip: one launch forward and one backward.

A program holds all terms of its channels in registers, between the sums over them and what needs the sums, so that x is
read once (and dy once), as against twice in `training_streamed`, which has the equations. None of it is tuned on a
device.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from normbench.jax_compat.triton import triton_call, triton_program_id, triton_store
from normbench.kernels.common.activations import activate
from normbench.kernels.pallas.cost import cost
from normbench.kernels.pallas.hardware import MULTIPROCESSORS, WARP, power_of_two_from, power_of_two_to, vector_elements
from normbench.kernels.pallas.triton.channel_tiles import (
    Part,
    View,
    channel_sum,
    load_tile,
    load_vector,
    part,
    spread,
    store_tile,
    sum_of,
    tile_mask,
)
from normbench.kernels.pallas.triton.tiles import where
from normbench.kernels.pallas.triton.training_shares import BatchPlan, h_and_dz, known_vectors, write_statistics

THREAD_REGISTERS = {1: 235, 2: 235, 4: 235, 8: 235, 16: 100}
"""By warps of a program, what the terms of a thread and their offsets may take, of 255 registers up to 256 threads and
of 128 with 512: the rest is for arithmetic. Beyond it the compiler spills."""

THREAD_ELEMENTS = {1: 200, 2: 200, 4: 200, 8: 200, 16: 84}
"""The same for terms alone."""

LAST_REGISTERS = {1: 0, 2: 16}
"""Fewer terms, by tensors, where channels come last: a thread has the sums and parameters of several beside them."""

ADDED_TILES = 12
"""To which a residual is added before the next ones are loaded: all of both at once take the registers of two tensors,
and one tile after the other leaves nothing in flight."""

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

UNEVEN_BYTES = 8
"""The same where channels are no whole vectors: loads are narrower, and their addresses and masks take registers. 8 x
28 x 28 x 254 in bfloat16 spills with 16: 10 us (5 to 14) are predicted for the H200, not 7 (4 to 9)."""


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
        rest = self.terms % self.chunk
        held = self.terms - rest + (power_of_two_from(rest) if rest else 0)
        return -(-self.width * held // (self.warps * WARP))

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
        sizes = CONTIGUOUS_BYTES if view.channels % vector == 0 else (*CONTIGUOUS_BYTES, UNEVEN_BYTES)
        return [min(size * vector // 16, power_of_two_from(view.channels)) for size in sizes]
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
        fits = own <= most and -(-config.terms // chunk) <= MOST_TILES
        if fits and own + config.offsets(vector) * OFFSET_REGISTERS[tensors] <= THREAD_REGISTERS[fitting]:
            unusual = abs(math.log2(config.elements / USUAL_ELEMENTS))
            found.append((config.elements * fitting, unusual, warps, config))
    return min(found, key=lambda one: one[:3])[3] if found else None


def forward(terms: tuple, gamma: jax.Array, beta: jax.Array, running: tuple, plan: BatchPlan, config: ResidentConfig):
    """As `training_streamed.forward`."""
    x, *residuals = terms
    out = (
        jax.ShapeDtypeStruct((x.size,), jnp.dtype(plan.output_dtype)),
        *(jax.ShapeDtypeStruct(x.shape, x.dtype) for _ in residuals),
        *(jax.ShapeDtypeStruct(array.shape, array.dtype) for array in running),
        *(jax.ShapeDtypeStruct((plan.view.channels,), jnp.dtype(plan.dtype)),) * 2,
    )
    return _launch(_forward_kernel, (gamma, beta, *running, *terms), out, plan, config, "batch_norm_training_forward")


def backward(saved: tuple, cotangents: tuple, plan: BatchPlan, config: ResidentConfig):
    """As `training_streamed.backward`."""
    x, *known = saved
    out = tuple(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in (x, *known[:2]))
    inputs = (*known, x, *cotangents)
    return _launch(_backward_kernel, inputs, out, plan, config, "batch_norm_training_backward")


def _launch(kernel, inputs: tuple, out: tuple, plan: BatchPlan, config: ResidentConfig, name: str):
    return triton_call(
        partial(kernel, plan=plan, config=config, streams=len(inputs) - 4),
        grid=config.blocks,
        out=out,
        warps=config.warps,
        name=name,
        cost=cost(inputs, out, flops=8 * plan.view.size),
    )(*inputs)


def _channels(config: ResidentConfig) -> Part:
    """Those of the running program."""
    first = triton_program_id() * config.width
    return part(first, config.width, config.view.channels, config.masks_channels)


def _positions(config: ResidentConfig) -> list[Part]:
    """The terms of a channel by tile, as positions after its first one.

    Where channels come first, what lies between two images are the other channels: a division by a constant, which
    leaves the compiler the knowledge of which positions are neighbours.
    """
    view, found = config.view, []
    for first, size in config.tiles:
        terms = part(first, size, config.terms, first + size > config.terms)
        if not view.last and view.images > 1:
            image = jax.lax.div(terms.index, jnp.int32(view.spatial))
            terms = Part(terms.index + image * ((view.channels - 1) * view.spatial), terms.mask)
        found.append(terms)
    return found


def _total(view: View, tiles: Iterable[jax.Array]) -> jax.Array:
    """The sum over all terms of each channel, of tiles of one size and perhaps a smaller one."""
    by_shape: dict[tuple[int, ...], jax.Array] = {}
    for tile in tiles:
        by_shape[tile.shape] = by_shape[tile.shape] + tile if tile.shape in by_shape else tile
    first, *others = (channel_sum(view, tile) for tile in by_shape.values())
    return sum(others, first)


def _forward_kernel(gamma_ref, beta_ref, *refs, plan: BatchPlan, config: ResidentConfig, streams: int) -> None:
    """`refs` are the running statistics, x and perhaps a residual, y and perhaps x + residual, new statistics."""
    running, terms, written = refs[:2], refs[2 : 2 + streams], refs[2 + streams :]
    (y_ref, *sums), statistics = written[:streams], written[streams:]
    view, dtype = plan.view, jnp.dtype(plan.dtype)
    channels, positions = _channels(config), _positions(config)
    tiles: list[jax.Array] = []
    together = ADDED_TILES if sums else MOST_TILES
    for first in range(0, len(positions), together):
        some = positions[first : first + together]
        loaded = [[load_tile(ref, view, 0, channels, p, "evict_first") for ref in terms] for p in some]
        tiles += map(sum_of, loaded)
        for ref in sums:
            for p, tile in zip(some, tiles[-len(some) :], strict=True):
                store_tile(ref, view, 0, channels, p, tile)
    near = _total(view, (tile.astype(dtype) for tile in tiles)) / config.terms
    centred = [
        where(tile_mask(view, channels, p), tile.astype(dtype) - spread(view, near))
        for tile, p in zip(tiles, positions, strict=True)
    ]
    # The sum of many terms that are large beside their differences is rounded; that of the differences is hardly.
    offset = _total(view, centred) / config.terms
    mean = near + offset
    variance = jnp.maximum(_total(view, map(jnp.square, centred)) / config.terms - jnp.square(offset), 0)
    r = write_statistics(running, statistics, mean, variance, channels, config.terms, plan)
    gamma, beta = (spread(view, load_vector(ref, channels, dtype)) for ref in (gamma_ref, beta_ref))
    near, offset, r = spread(view, near), spread(view, offset), spread(view, r)
    for tile, p in zip(tiles, positions, strict=True):
        y = activate((tile.astype(dtype) - near - offset) * (r * gamma) + beta, plan.activation)
        store_tile(y_ref, view, 0, channels, p, y)


def _backward_kernel(*refs, plan: BatchPlan, config: ResidentConfig, streams: int) -> None:
    """`refs` are gamma, beta, mean, r; x, dy and perhaps what else reaches x; and the gradients."""
    view = plan.view
    channels, positions = _channels(config), _positions(config)
    known = known_vectors(refs[:4], channels, plan)
    (x_ref, dy_ref, *others), (dx_ref, *out) = refs[4 : 4 + streams], refs[4 + streams :]
    tiles = [[load_tile(ref, view, 0, channels, p, "evict_first") for ref in (x_ref, dy_ref)] for p in positions]
    pairs = [h_and_dz(x, dy, known, plan) for x, dy in tiles]
    sums = [_total(view, (dz * h for h, dz in pairs)), _total(view, (dz for _, dz in pairs))]
    for ref, value in zip(out, sums, strict=True):
        triton_store(ref, channels.index, value.astype(ref.dtype), channels.mask)
    _, r, gamma, _ = known
    scale = r * gamma
    mean_h, mean_dz = (spread(view, value / config.terms) for value in sums)
    for (x, dy), p in zip(tiles, positions, strict=True):
        h, dz = h_and_dz(x, dy, known, plan)
        added = (load_tile(ref, view, 0, channels, p, "evict_first").astype(plan.dtype) for ref in others)
        store_tile(dx_ref, view, 0, channels, p, sum(added, scale * (dz - mean_dz - h * mean_h)))
