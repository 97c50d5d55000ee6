"""Norms over any number of positions in Mosaic GPU, channels last: as `mosaic_columns`, which takes what chunks divide.

A program has some channels of an image; their positions lie in shared memory, all of them or piece by piece. The last
chunk may reach beyond them, and the last piece begins early enough to end with them: what does not count is masked.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from normbench.jax_compat.mosaic import (
    mosaic_await,
    mosaic_await_sent,
    mosaic_barrier,
    mosaic_call,
    mosaic_fetch,
    mosaic_program,
    mosaic_send,
    mosaic_settle,
    mosaic_shared,
    mosaic_slice,
)
from normbench.kernels.pallas.cost import cost
from normbench.kernels.pallas.mosaic.activations import activate
from normbench.kernels.pallas.mosaic.columns_config import AnyColumns
from normbench.kernels.pallas.mosaic.columns_sums import over_groups, over_positions, spread, write_out
from normbench.kernels.pallas.mosaic.exact.columns import ColumnsPlan
from normbench.kernels.pallas.mosaic.limits import LINE


def forward(
    x: jax.Array, gamma: jax.Array, beta: jax.Array, running: tuple, plan: ColumnsPlan, config: AnyColumns
) -> tuple[jax.Array, ...]:
    """As `mosaic_columns.forward`."""
    dtype = jnp.dtype(plan.output_dtype)
    statistics = jax.ShapeDtypeStruct((config.images, config.channels // config.each), jnp.float32)
    moved = tuple(jax.ShapeDtypeStruct(array.shape, array.dtype) for array in running)
    out = (jax.ShapeDtypeStruct(x.shape, dtype), statistics, statistics, *moved)
    return mosaic_call(
        partial(_kernel, plan=plan, config=config),
        grid=config.images * config.blocks,
        out=out,
        scratch=scratch_of((x.dtype,) if dtype == x.dtype else (x.dtype, dtype), 1, config),
        name="columns_forward",
        cost=cost((x, gamma, beta, *running), out, () if config.resident else (x,)),
    )(x, gamma, beta, *running)


def scratch_of(dtypes: tuple, fetched: int, config: AnyColumns) -> tuple:
    """Tensors of a program, two chunks for its sums, and a barrier for `fetched` of the tensors."""
    return (
        *(mosaic_shared((config.chunks * config.chunk, config.width), dtype) for dtype in dtypes),
        mosaic_shared((2 * config.chunk, config.width), jnp.float32),
        mosaic_barrier(fetched * -(-config.piece // LINE)),
    )


@dataclass(frozen=True, slots=True)
class Columns:
    """The positions of the running program: `brought` are pairs of an array and its place in shared memory."""

    config: AnyColumns
    brought: tuple[tuple[Any, Any], ...]
    arrived: Any

    @property
    def image(self) -> Any:
        return mosaic_program() // self.config.blocks

    @property
    def first(self) -> Any:
        """Its first channel."""
        return mosaic_program() % self.config.blocks * self.config.width

    def spread(self, ref: Any, work: Any) -> jax.Array:
        """What belongs to channels, in all positions of a chunk."""
        return spread(lambda channel: ref[self.first + channel], work, self.config)

    def spread_groups(self, ref: Any, work: Any) -> jax.Array:
        """The same of what belongs to groups of an image."""
        each = self.config.each
        return spread(lambda channel: ref[self.image, (self.first + channel) // each], work, self.config)

    def bring(self, piece: Any) -> None:
        def some(here, lines):
            for ref, target in self.brought:
                mosaic_fetch(ref.at[here], target.at[lines], self.arrived)

        mosaic_settle()
        self._lines(piece, some)
        mosaic_await(self.arrived)

    def take(self, piece: Any, source: Any, ref: Any) -> None:
        self._lines(piece, lambda here, lines: mosaic_send((source.at[lines], ref.at[here])))
        mosaic_await_sent()

    def _lines(self, piece: Any, copy: Callable) -> None:
        """As many lines at a time as a bulk copy takes: where they lie in the arrays, and in shared memory."""
        config = self.config

        def some(start, count):
            channels = mosaic_slice(self.first, config.width)
            copy((self.image, mosaic_slice(self.start(piece) + start, count), channels), (mosaic_slice(start, count),))

        def step(index, carry):
            some(index * LINE, LINE)
            return carry

        jax.lax.fori_loop(0, config.piece // LINE, step, 0)
        if config.piece % LINE:
            some(config.piece // LINE * LINE, config.piece % LINE)

    def start(self, piece: Any) -> Any:
        """The first position of a piece."""
        config = self.config
        return 0 if config.resident else jnp.minimum(piece * config.piece, config.positions - config.piece)

    def over_pieces(self, visit: Callable, carry: Any) -> Any:
        """Folds `visit(piece, carry)` over the pieces, each of which is brought before, where it is not there."""

        def step(piece, carry):
            if not self.config.resident:
                self.bring(piece)
            return visit(piece, carry)

        return jax.lax.fori_loop(0, self.config.pieces, step, carry)

    def over_chunks(self, piece: Any, step: Callable, carry: Any) -> Any:
        """Folds `step(at, keep, carry)` over the chunks of a piece; `keep` makes 0 of what does not count."""
        config = self.config

        def one(index, carry):
            at = (mosaic_slice(index * config.chunk, config.chunk),)
            return step(at, partial(self._keep, piece, index), carry)

        return jax.lax.fori_loop(0, config.chunks, one, carry)

    def _keep(self, piece: Any, index: Any, values: jax.Array) -> jax.Array:
        config = self.config
        seen = self.start(piece) + index * config.chunk + jax.lax.broadcasted_iota(jnp.int32, values.shape, 0)
        if config.resident:
            return values if config.positions % config.chunk == 0 else jnp.where(seen < config.positions, values, 0.0)
        return jnp.where(seen >= piece * config.piece, values, 0.0)

    def zeros(self) -> jax.Array:
        return jnp.zeros((self.config.chunk, self.config.width), jnp.float32)


def _kernel(x_ref, *refs: Any, plan: ColumnsPlan, config: AnyColumns) -> None:
    count = 2 if plan.momentum is None else 4
    gamma_ref, beta_ref, *running = refs[:count]
    y_ref, *found = refs[count : 2 * count + 1]
    x, *others, work, arrived = refs[2 * count + 1 :]
    y, columns = others[0] if others else x, Columns(config, ((x_ref, x),), arrived)
    if config.resident:
        columns.bring(0)
    near, offset, squares = _moments(columns, x, work)
    r = jax.lax.rsqrt(squares / config.elements + plan.epsilon)
    scale, beta = r * columns.spread(gamma_ref, work), columns.spread(beta_ref, work)

    def write(piece, carry):
        def step(at, keep, carry):
            z = (x[at].astype(jnp.float32) - near - offset) * scale + beta
            y[at] = activate(z, plan.activation).astype(y.dtype)
            return carry

        columns.over_chunks(piece, step, 0)
        columns.take(piece, y, y_ref)
        return carry

    columns.over_pieces(write, 0)
    start, mean = (columns.image, columns.first // config.each), near + offset
    for values, ref in ((mean, found[0]), (r, found[1])):
        write_out(values, work, ref, start, config.each, config)
    if plan.momentum is not None:
        for values, old, ref in zip((mean, squares / (config.elements - 1)), running, found[2:], strict=True):
            moved = (1 - plan.momentum) * columns.spread(old, work) + plan.momentum * values
            write_out(moved, work, ref, (columns.first,), 1, config)


def _moments(columns: Columns, x: Any, work: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The mean of each group in two parts, and the sum of squared distances from it, in all elements of a chunk.

    Pieces are put together by channel as in `moments.moments`, and then the channels of a group.
    """
    config = columns.config

    def total(piece, term):
        def step(at, keep, lanes):
            return lanes + keep(term(x[at].astype(jnp.float32)))

        return over_positions(columns.over_chunks(piece, step, columns.zeros()), work, config)

    if config.resident:
        near = over_groups(total(0, lambda v: v), work, config) / config.elements
        offset = over_groups(total(0, lambda v: v - near), work, config) / config.elements
        return near, offset, over_groups(total(0, lambda v: (v - near - offset) * (v - near - offset)), work, config)

    def merge(piece, carry):
        count, base, offset, squares = carry
        here = jnp.minimum(config.piece, config.positions - piece * config.piece).astype(jnp.float32)
        middle = total(piece, lambda v: v) / here
        left = total(piece, lambda v: v - middle) / here
        around = total(piece, lambda v: (v - middle - left) * (v - middle - left))
        base = jnp.where(count == 0, middle, base)
        share, distance = here / (count + here), (middle - base) + left - offset
        squares = squares + around + distance * distance * (count * share)
        return count + here, base, offset + distance * share, squares

    zeros = columns.zeros()
    _, base, offset, squares = columns.over_pieces(merge, (jnp.float32(0), zeros, zeros, zeros))
    near = over_groups(base, work, config) / config.each
    distance = (base - near) + offset  # of each channel from what stands for the group
    left = over_groups(distance, work, config) / config.each
    distance = distance - left
    return near, left, over_groups(squares + distance * distance * config.positions, work, config)
