"""The one small reduction behind partial sums: deterministic, and one launch for all parameters; and what shares of an
image leave for the programs of the next launch."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from normbench.jax_compat.triton import triton_call, triton_load, triton_program_id, triton_store
from normbench.kernels.pallas.cost import cost
from normbench.kernels.pallas.hardware import WARP, power_of_two_from
from normbench.kernels.pallas.triton.channel_tiles import Part
from normbench.kernels.pallas.triton.groups_config import GroupConfig
from normbench.kernels.pallas.triton.tiles import columns_from, load_tile, rows_from, span

BLOCK_COLUMNS = 32
"""Half a kilobyte of four rows for a warp, 16 bytes a thread: 4096 columns are a program for each multiprocessor."""
BLOCK_ROWS = 256
"""Partial sums in flight together: 32 KiB, all that two programs of each multiprocessor leave."""
MOST_WARPS = 8


def sum_partials(partials: Sequence[jax.Array], dtypes: Sequence[str]) -> tuple[jax.Array, ...]:
    """Sums each array of one shape (programs, columns), in float32 or float64, over the programs, always in the same
    order; `dtypes` are those of the results."""
    programs, columns = partials[0].shape
    out = tuple(jax.ShapeDtypeStruct((columns,), jnp.dtype(dtype)) for dtype in dtypes)
    return triton_call(
        partial(_kernel, programs=programs, columns=columns),
        grid=-(-columns // BLOCK_COLUMNS),
        out=out,
        warps=_warps(programs),
        name="sum_partials",
        cost=cost(partials, out, flops=sum(array.size for array in partials)),
    )(*(array.reshape(-1) for array in partials))


def _block_rows(programs: int) -> int:
    return min(BLOCK_ROWS, power_of_two_from(programs))


def _warps(programs: int) -> int:
    """16 bytes of each thread and eight times that at most."""
    return max(1, min(MOST_WARPS, _block_rows(programs) * BLOCK_COLUMNS // (4 * WARP * 2)))


def _kernel(*refs, programs, columns):
    inputs, outputs = refs[: len(refs) // 2], refs[len(refs) // 2 :]
    block_rows = _block_rows(programs)
    columns_here = columns_from(
        triton_program_id() * BLOCK_COLUMNS, BLOCK_COLUMNS, columns, columns % BLOCK_COLUMNS != 0
    )

    def step(index, sums):
        rows = rows_from(index * block_rows, block_rows, programs, programs % block_rows != 0)
        return tuple(s + load_tile(ref, rows, columns_here, columns) for s, ref in zip(sums, inputs, strict=True))

    zero = tuple(jnp.zeros((block_rows, BLOCK_COLUMNS), ref.dtype) for ref in inputs)
    sums = jax.lax.fori_loop(0, -(-programs // block_rows), step, zero)
    for ref, values in zip(outputs, sums, strict=True):
        triton_store(ref, columns_here.numbers, values.sum(0).astype(ref.dtype), columns_here.mask)


class Partials:
    """What the shares of an image have left for the channels of a program, or for their groups of `each`: (shares,
    channels), or (shares,) where all of a program are one group. In registers at once where that fits."""

    def __init__(self, refs: tuple, image: Any, channels: Part, each: int, config: GroupConfig) -> None:
        self.refs, self.first, self.config = refs, image * config.shares, config
        self.each, self.lanes, self.mask = each, channels.index // each, channels.mask
        if config.is_of_one(each):
            self.lanes, self.mask = jnp.min(self.lanes), None
        self.blocks, self.size = config.partial_blocks(each)
        self.whole = self._at(0) if self.blocks == 1 else None

    def along(self, values: jax.Array) -> jax.Array:
        """A value of each share beside what they have left."""
        return values if self.config.is_of_one(self.each) else values[:, None]

    def _at(self, block: Any) -> tuple[jax.Array, list[jax.Array]]:
        """The shares of a block, and what each reference has of them; zero where there is none."""
        config, shares = self.config, block * self.size + span(self.size)
        index = self.along((self.first + shares) * (config.view.channels // self.each)) + self.lanes
        mask = jnp.broadcast_to(self.along(shares < config.shares), index.shape)
        mask = mask if self.mask is None else mask & self.mask
        return shares, [triton_load(ref, index, mask, "evict_last") for ref in self.refs]

    def sums(self, terms: Callable[..., tuple]) -> tuple[jax.Array, ...]:
        """The sums over the shares of each of `terms(shares, *of each reference)`."""

        def of(block):
            shares, found = self.whole or self._at(block)
            return tuple(jnp.sum(term, axis=0) for term in terms(shares, *found))

        if self.whole:
            return of(0)
        totals = jax.eval_shape(of, 0)
        zeros = tuple(jnp.zeros(total.shape, total.dtype) for total in totals)
        add = partial(jax.tree.map, jnp.add)
        return jax.lax.fori_loop(0, self.blocks, lambda block, carry: add(carry, of(block)), zeros)
