"""Tiles of a tensor with a channel axis, (N, C, S) or (N, S, C), inside a Pallas Triton kernel.

A tile covers some channels of one image, along axis 0 where channels come first and along axis 1 where they come last,
and some positions. What belongs to a channel is a vector; `spread` lines it up with a tile.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from normbench.jax_compat.triton import triton_load, triton_store
from normbench.kernels.pallas.hardware import power_of_two_from
from normbench.kernels.pallas.triton.tiles import span, where
from normbench.kernels.pallas.tuning import problem_key


@dataclass(frozen=True, slots=True)
class View:
    """x as (images, channels, spatial), or as (images, spatial, channels) where channels come `last`."""

    images: int
    channels: int
    spatial: int
    last: bool

    @property
    def size(self) -> int:
        return self.images * self.channels * self.spatial

    def key(self, kernel: str, *others: str) -> str:
        """Of a problem with this x: see `normbench.kernels.pallas.tuning`."""
        place = "channels last" if self.last else "channels first"
        return problem_key(kernel, (self.images, self.channels, self.spatial), place, *others)


def view_of(shape: tuple[int, ...], channel_axis: int) -> View:
    """x of this shape where what belongs to a channel is summed over the whole batch: channels that come last have
    nothing but positions before them, and so have those of images of one position."""
    channels, size = shape[channel_axis], math.prod(shape)
    if len(shape) > 2 and channel_axis == 1 and size != shape[0] * channels:
        return View(shape[0], channels, size // (shape[0] * channels), False)
    return View(1, channels, size // channels, True)


class Part(NamedTuple):
    """Channel numbers, or positions, of a tile, and which of them exist (None: all)."""

    index: jax.Array  # type: ignore[assignment]
    mask: jax.Array | None


def part(first: Any, width: int, end: Any, masked: bool) -> Part:
    index = first + span(width)
    return Part(index, index < end if masked else None)


def tile_mask(view: View, channels: Part, positions: Part) -> jax.Array | None:
    """The mask of a tile; along the contiguous axis it changes only where that ends, so that it splits no vector."""
    rows, columns = (positions, channels) if view.last else (channels, positions)
    shape = rows.index.size, columns.index.size
    if rows.mask is None:
        return None if columns.mask is None else jnp.broadcast_to(columns.mask[None, :], shape)
    row_mask = jnp.broadcast_to(rows.mask[:, None], shape)
    return row_mask if columns.mask is None else row_mask & columns.mask[None, :]


def _index(view: View, image: Any, channels: Part, positions: Part) -> jax.Array:
    base = image * (view.channels * view.spatial)
    if view.last:
        return (base + positions.index * view.channels)[:, None] + channels.index[None, :]
    return (base + channels.index * view.spatial)[:, None] + positions.index[None, :]


def load_tile(
    ref: Any, view: View, image: Any, channels: Part, positions: Part, eviction: str | None = None
) -> jax.Array:
    """A tile of a tensor that is stored flat; zero where there is none."""
    return triton_load(ref, _index(view, image, channels, positions), tile_mask(view, channels, positions), eviction)


def store_tile(ref: Any, view: View, image: Any, channels: Part, positions: Part, value: jax.Array) -> None:
    """Stores in the dtype of the tensor."""
    index = _index(view, image, channels, positions)
    triton_store(ref, index, value.astype(ref.dtype), tile_mask(view, channels, positions))


def sum_of(terms: Sequence[jax.Array]) -> jax.Array:
    """x of a tile, or x + residual in x's dtype: what is normalized."""
    x, *others = terms
    for other in others:
        wide = jnp.promote_types(x.dtype, jnp.float32)
        x = (x.astype(wide) + other.astype(wide)).astype(x.dtype)
    return x


def load_vector(ref: Any, channels: Part, dtype: Any, first: Any = 0) -> jax.Array:
    """Values by channel; kept in the caches, as many programs need them. `first` is where channel 0 lies."""
    return triton_load(ref, first + channels.index, channels.mask, "evict_last").astype(dtype)


def spread(view: View, vector: Any) -> Any:
    """A vector of channels lined up with a tile; a scalar as it is."""
    if jnp.ndim(vector) == 0:
        return vector
    return vector[None, :] if view.last else vector[:, None]


def channel_sum(view: View, tile: jax.Array) -> jax.Array:
    """Sums over the positions of a tile."""
    return jnp.sum(tile, axis=0 if view.last else 1)


def over_groups(vectors: list, each: int, block: int) -> list:
    """What belongs to a group: the sum over its channels, for each channel, or a scalar where a program has one group.

    Args:
      vectors: by tile, zero where there is no channel.
      each: channels of a group.
      block: channels of the program, whole groups; one tile, which begins with them, has all unless they are one group.
    """
    if each == 1:
        return vectors
    if each == block:
        total = sum(jnp.sum(vector) for vector in vectors)
        return [total] * len(vectors)
    (vector,), width = vectors, vectors[0].size
    groups = power_of_two_from(-(-width // each))
    # By group and channel, which are fewer than pairs of channels.
    belongs = (span(width) // each)[None, :] == span(groups)[:, None]
    totals = jnp.sum(where(belongs, jnp.broadcast_to(vector[None, :], belongs.shape)), axis=1)
    return [jnp.sum(where(belongs, jnp.broadcast_to(totals[:, None], belongs.shape)), axis=0)]


def over_tiles(
    steps: int, together: int, place: Callable[..., Any], load: Callable[..., Any], use: Callable[..., Any], carry: Any
) -> Any:
    """`carry = use(place(step), load(place(step)), carry)` for all steps, of which `together` are loaded before the
    first of them is used; where it does not divide them, as after a search for other tiles, the rest follows."""

    def several(first, count, carry):
        places = [place(first + k) for k in range(count)]
        loaded = [load(there) for there in places]
        for there, tile in zip(places, loaded, strict=True):
            carry = use(there, tile, carry)
        return carry

    turns, left = divmod(steps, together)
    carry = jax.lax.fori_loop(0, turns, lambda turn, carry: several(turn * together, together, carry), carry)
    return several(turns * together, left, carry)
