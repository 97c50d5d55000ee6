"""How a tensor whose channels lie along the lanes is seen, and cut into blocks of VMEM."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from normbench.kernels.pallas.tpu.limits import (
    BLOCK_ELEMENTS,
    HELD_BYTES,
    LANES,
    SUBLANES,
    lying,
    padded_lanes,
    sublanes,
    up_to,
)


@dataclass(frozen=True, slots=True)
class View:
    """A tensor as (images, places, ..., channels): what lies there seen otherwise, and nothing is moved.

    Attributes:
      shape: of the view, of rank 3 or 4.
      order: in which the dimensions of the tensor lie.
      apart: whether the dimension before the channels are images, each with statistics of its own.
    """

    shape: tuple[int, ...]
    order: tuple[int, ...]
    apart: bool = False

    def of(self, tensor: jax.Array) -> jax.Array:
        return tensor.transpose(self.order).reshape(self.shape)

    def back(self, seen: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """`seen` in the shape of the tensor."""
        inverse = tuple(self.order.index(axis) for axis in range(len(shape)))
        return seen.reshape([shape[axis] for axis in self.order]).transpose(inverse)


def view_of(shape: tuple[int, ...], channel_axis: int, dtype: str, whole: bool) -> View:
    """x with channels along `channel_axis`, images along the first; `whole`: all images are normalized together."""
    order = _order(shape, channel_axis, dtype, whole)
    *others, channels = (shape[axis] for axis in order)
    others = others or [1]
    if whole or order[0] == 0 or shape[0] == 1:
        images, between = (1, others) if whole or order[0] != 0 else (others[0], others[1:] or [1])
        if len(between) == 1 or between[-1] % SUBLANES == 0:
            return View((images, math.prod(between), channels), order)
        return View((images, math.prod(between[:-1]), between[-1], channels), order)
    return View((1, math.prod(others[:-1]), others[-1], channels), order, apart=True)


def _order(shape: tuple[int, ...], channel_axis: int, dtype: str, whole: bool) -> tuple[int, ...]:
    """As x lies, where its channels then are last, and its images, if they are told apart, first or next to them;
    else another order, into which XLA has to bring it."""
    order = lying(shape, dtype)
    if order[-1] == channel_axis and (whole or order[0] == 0 or shape[0] == 1 or order[-2] == 0):
        return order
    return (*(axis for axis in range(len(shape)) if axis != channel_axis), channel_axis)


def copied(shape: tuple[int, ...], channel_axis: int, dtype: str, whole: bool) -> str | None:
    """Why x would have to be brought into another order first, or None."""
    order = lying(shape, dtype)
    if _order(shape, channel_axis, dtype, whole) == order:
        return None
    return (
        f"{dtype}{list(shape)} lies with dimension {order[-1]} along the lanes, as that pads least, and the kernel "
        f"needs dimension {channel_axis} there: XLA would copy it; take custom_vjp"
    )


@dataclass(frozen=True, slots=True)
class Pieces:
    """A view cut along the channels and the places.

    Attributes:
      shape, apart: as of the `View`; dimensions between places and channels lie whole in a block.
      channels: of a block.
      places: of a block.
      held: whether what the first walk over the places has read stays in VMEM for the second.
    """

    shape: tuple[int, ...]
    apart: bool
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
    def rows(self) -> int:
        """Images of a block, each with statistics of its own."""
        return self.shape[2] if self.apart else 1

    @property
    def within(self) -> int:
        """Positions of a place that are summed."""
        return 1 if self.apart else math.prod(self.shape[2:-1])

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


def pieces_of(view: View, each: int, dtypes: tuple[str, ...], walks: int) -> Pieces:
    """How a view is cut.

    Args:
      each: channels that are normalized together: a block has a multiple of them.
      dtypes: of the tensors that are read, all of which are held.
      walks: over the places; with one there is nothing to hold.
    """
    shape = view.shape
    within = up_to(shape[2], SUBLANES) if len(shape) == 4 else 1
    tile = 1 if len(shape) == 4 else sublanes(*dtypes)
    column_bytes = up_to(shape[1], tile) * within * sum(jnp.dtype(dtype).itemsize for dtype in dtypes)
    channels = _block_channels(shape[-1], math.lcm(LANES, each), within * tile, HELD_BYTES // column_bytes)
    places = max(BLOCK_ELEMENTS // (padded_lanes(channels) * within) // tile * tile, tile)
    places = min(places, shape[1])
    held = walks == 1 or places == shape[1] or column_bytes * padded_lanes(channels) <= HELD_BYTES
    return Pieces(shape, view.apart, channels, places, held)


def _block_channels(channels: int, step: int, least_places: int, held: int) -> int:
    """Channels of a block: all of them where they can be held, else as many steps as can, and at least one."""
    most = min(held, BLOCK_ELEMENTS // least_places)
    if step >= channels or padded_lanes(channels) <= most:
        return channels
    return max(most // step * step, step)
