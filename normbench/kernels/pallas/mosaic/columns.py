"""Norms over the positions of an image in Mosaic GPU, channels last: a program has some channels of an image.

With h = (x - mean) r, dh = gamma dz and E the mean over the positions and the channels of a group:

    y = act(h gamma + beta),   dx = r (dh - E[dh] - h E[dh h]),   dgamma = sum(dz h),   dbeta = sum(dz)

Instance norm has groups of one channel; batch norm in training has one image of all positions, too.

The positions lie in shared memory, all of them or piece by piece. A chunk of them, (positions, channels), is in
registers at a time, where every position has what a channel knows. The last chunk may reach beyond the positions, and
the last piece begins early enough to end with them: what does not count is masked, where chunks do not divide it.
"""

import math
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
    mosaic_clear,
    mosaic_fetch,
    mosaic_fetch_stack,
    mosaic_program,
    mosaic_send,
    mosaic_send_stack,
    mosaic_settle,
    mosaic_shared,
    mosaic_slice,
    mosaic_stack_copies,
    mosaic_when,
)
from normbench.kernels.pallas.cost import cost
from normbench.kernels.pallas.hardware import power_of_two_to
from normbench.kernels.pallas.mosaic.activations import activate, pulled
from normbench.kernels.pallas.mosaic.plan import COPY_BYTES, LINE, PER_THREAD, WARPGROUP, Plan, room_bytes
from normbench.kernels.pallas.mosaic.sums import one_by_one, over_groups, over_positions, sum_partials

WIDE_BYTES = 64
"""Of a line, where that fits: two sectors of 32 bytes, which device memory reads at once. More would only make fewer
programs."""
CHUNK = 1024
"""Elements in registers at a time: eight for each thread, of some ten arrays in float32."""
PIECE = 16384
"""Elements of a piece, where the positions come in pieces."""
LEAST_POSITIONS = 256
"""Two sums in float32 for each image and channel are then 1.6 % of it in bfloat16."""


@dataclass(frozen=True, slots=True)
class ColumnsConfig:
    """x as (images, positions, channels): a program has positions of an image, `width` of its channels.

    Attributes:
      each: channels of a group.
      width: channels of a program, whole groups.
      chunk: positions in registers at a time, a power of two.
      piece: positions that are brought together; all, or fewer in whole chunks.
    """

    images: int
    positions: int
    channels: int
    each: int
    width: int
    chunk: int
    piece: int

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

    @property
    def resident(self) -> bool:
        return self.piece == self.positions

    @property
    def piece_elements(self) -> int:
        return self.piece * self.width

    @property
    def pieces(self) -> int:
        return -(-self.positions // self.piece)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of x for the kernels: the positions as (parts, lines), where one copy moves all of them; else as they are."""
        lines = max(n for n in range(1, LINE + 1) if self.positions % n == 0)
        whole = self.resident and self.positions % self.chunk == 0 and self.positions // lines <= LINE
        of_positions = (self.positions // lines, lines) if whole else (self.positions,)
        return self.images, *of_positions, self.channels

    @property
    def copies(self) -> int:
        """That bring a piece of one tensor."""
        _, *parts, _ = self.shape
        return mosaic_stack_copies(parts[0]) if len(parts) == 2 else -(-self.piece // LINE)

    @property
    def chunks(self) -> int:
        """Of a piece."""
        return -(-self.piece // self.chunk)

    @property
    def stride(self) -> int:
        """Positions of a piece in shared memory, with what its last chunk sees beyond it."""
        return self.chunks * self.chunk

    @property
    def places(self) -> int:
        """For pieces in shared memory: one is computed while the next is on its way."""
        return 1 if self.resident else 2


def columns_of(images: int, positions: int, channels: int, each: int, dtypes: tuple[str, ...]) -> ColumnsConfig | str:
    """The configuration, or the reason why there is none.

    Args:
      dtypes: of the tensors that lie in shared memory together.
    """
    sizes = [jnp.dtype(dtype).itemsize for dtype in dtypes]
    found = []
    for width in _widths(channels, each, min(sizes)):
        chunk = _chunk(positions, width)
        room = room_bytes(1 + len(sizes)) - 2 * 4 * chunk * width
        most = room // (width * sum(sizes)) // chunk * chunk
        if chunk * width <= PER_THREAD * WARPGROUP and most >= min(positions, 2 * chunk):
            half = max(chunk, most // 2 // chunk * chunk)
            piece = positions if positions <= most else min(half, PIECE // width // chunk * chunk or chunk)
            found.append(ColumnsConfig(images, positions, channels, each, width, chunk, piece))
    if not found:
        return (
            f"{channels} channels in groups of {each}; allowed for pallas_mosaic: whole groups, up to "
            f"{LINE} channels that divide all, of {COPY_BYTES} bytes or more in multiples of {COPY_BYTES}"
        )
    resident = [config for config in found if config.resident]
    return next((c for c in resident or found if c.width * min(sizes) >= WIDE_BYTES), (resident or found)[-1])


def _chunk(positions: int, width: int) -> int:
    """Positions of a chunk: the most in whole warpgroups, twice as many, where threads then take more at once; half as
    many, where these divide all positions."""
    longest = max(power_of_two_to(CHUNK // width), WARPGROUP // math.gcd(width, WARPGROUP))
    if longest * width % CHUNK and 2 * longest * width <= PER_THREAD * WARPGROUP:
        longest *= 2
    exact = min(positions & -positions, longest)
    return exact if 2 * exact >= longest and exact * width % WARPGROUP == 0 else longest


def _widths(channels: int, each: int, item_bytes: int) -> list[int]:
    """Channels that a program may have, the fewest first."""
    step = math.lcm(each, COPY_BYTES // item_bytes)
    return [width for width in range(step, min(channels, LINE) + 1, step) if channels % width == 0]


def forward(
    x: jax.Array, gamma: jax.Array, beta: jax.Array, running: tuple, plan: Plan, config: ColumnsConfig
) -> tuple[jax.Array, ...]:
    """Returns y, mean and r in float32 by image and group, and the new running mean and variance where there are any.

    Args:
      x: (images, positions, channels).
      running: () or the running mean and variance.
    """
    dtype = jnp.dtype(plan.output_dtype)
    statistics = jax.ShapeDtypeStruct((config.images, config.channels // config.each), jnp.float32)
    moved = tuple(jax.ShapeDtypeStruct(array.shape, array.dtype) for array in running)
    out = (jax.ShapeDtypeStruct(config.shape, dtype), statistics, statistics, *moved)
    y, *found = mosaic_call(
        partial(_forward_kernel, plan=plan, config=config),
        grid=config.images * config.blocks,
        out=out,
        scratch=_scratch_of((x.dtype,) if dtype == x.dtype else (x.dtype, dtype), 1, config),
        name=f"{plan.name}_forward",
        cost=cost((x, gamma, beta, *running), out, () if config.resident else (x,)),
    )(x.reshape(config.shape), gamma, beta, *running)
    return y.reshape(x.shape), *found


def _scratch_of(dtypes: tuple, fetched: int, config: ColumnsConfig) -> tuple:
    """Tensors of a program, two chunks for its sums, and a barrier for `fetched` of the tensors."""
    return (
        *(mosaic_shared((config.places * config.stride, config.width), dtype) for dtype in dtypes),
        mosaic_shared((2 * config.chunk, config.width), jnp.float32),
        mosaic_barrier(fetched * config.copies, config.places),
    )


@dataclass(frozen=True, slots=True)
class Columns:
    """The positions of the running program: `brought` are pairs of an array and its place in shared memory."""

    config: ColumnsConfig
    brought: tuple[tuple[Any, Any], ...]
    arrived: Any

    @property
    def image(self) -> Any:
        return mosaic_program() // self.config.blocks

    @property
    def first(self) -> Any:
        """Its first channel."""
        return mosaic_program() % self.config.blocks * self.config.width

    def spread(self, refs: tuple, work: Any) -> list[jax.Array]:
        """Of two arrays what belongs to channels, or to the groups of images, in all positions of a chunk."""
        config, image, first = self.config, self.image, self.first
        mosaic_clear(work, slice(None))

        def get(channel):
            at = first + channel
            return [ref[at] if len(ref.shape) == 1 else ref[image, at // config.each] for ref in refs]

        def put(channel, found):
            for index, value in enumerate(found):
                work[index * config.chunk, channel] = value.astype(jnp.float32)

        one_by_one(config.width, get, put)
        return [over_positions(half, work) for half in (work[: config.chunk], work[config.chunk :])]

    def bring(self, piece: Any) -> None:
        """Begins to bring a piece; `wait` waits for it."""
        arrived = self._arrived(piece)

        def some(here, lines):
            for ref, target in self.brought:
                mosaic_fetch(ref.at[here], target.at[lines], arrived)

        mosaic_settle()
        if len(self.config.shape) == 4:
            for ref, target in self.brought:
                mosaic_fetch_stack(ref.at[*self._whole], target, arrived)
        else:
            self._lines(piece, some)

    def wait(self, piece: Any) -> None:
        mosaic_await(self._arrived(piece))

    def _arrived(self, piece: Any) -> Any:
        return self.arrived.at[piece % 2] if self.config.places > 1 else self.arrived

    def take(self, piece: Any, source: Any, ref: Any) -> None:
        """Takes a piece away, which is done before the next one but one is brought."""
        mosaic_settle()
        if len(self.config.shape) == 4:
            mosaic_send_stack(source, ref.at[*self._whole])
            return
        if self.config.positions % self.config.piece:  # the last piece writes again what ends the one before
            mosaic_when(piece == self.config.pieces - 1)(mosaic_await_sent)
        self._lines(piece, lambda here, lines: mosaic_send(source.at[lines], ref.at[here]))

    @property
    def _whole(self) -> tuple:
        """Where all positions lie in an array, for one copy."""
        return self.image, slice(None), slice(None), mosaic_slice(self.first, self.config.width)

    def _lines(self, piece: Any, copy: Callable) -> None:
        """As many lines at a time as a bulk copy takes: where they lie in the arrays, and in shared memory."""
        config, place = self.config, self._place(piece)

        def some(start, count):
            channels = mosaic_slice(self.first, config.width)
            here = self.image, mosaic_slice(self.start(piece) + start, count), channels
            copy(here, (mosaic_slice(place + start, count),))

        def step(index, carry):
            some(index * LINE, LINE)
            return carry

        jax.lax.fori_loop(0, config.piece // LINE, step, 0)
        if config.piece % LINE:
            some(config.piece // LINE * LINE, config.piece % LINE)

    def _place(self, piece: Any) -> Any:
        """Where a piece begins in shared memory."""
        return piece % 2 * self.config.stride if self.config.places > 1 else 0

    def start(self, piece: Any) -> Any:
        """The first position of a piece."""
        config = self.config
        return 0 if config.resident else jnp.minimum(piece * config.piece, config.positions - config.piece)

    def over_pieces(self, visit: Callable, carry: Any) -> Any:
        """Folds `visit(piece, carry)` over the pieces, each of which is brought before, where it is not there."""

        def bring(piece):
            mosaic_await_sent(read_only=True)
            self.bring(piece)

        def step(piece, carry):
            if not self.config.resident:
                mosaic_when(piece + 1 < self.config.pieces)(lambda: bring(piece + 1))
                self.wait(piece)
            return visit(piece, carry)

        if not self.config.resident:
            bring(0)
        return jax.lax.fori_loop(0, self.config.pieces, step, carry)

    def over_chunks(self, piece: Any, step: Callable, carry: Any) -> Any:
        """Folds `step(at, keep, carry)` over the chunks of a piece; `keep` makes 0 of what does not count."""
        config, place = self.config, self._place(piece)

        def one(masked, index, carry):
            at = (mosaic_slice(place + index * config.chunk, config.chunk),)
            return step(at, partial(self._keep, piece, index) if masked else lambda values: values, carry)

        whole = config.piece // config.chunk * (config.positions % config.piece == 0)
        for masked, first, last in ((False, 0, whole), (True, whole, config.chunks)):
            if first < last:
                carry = jax.lax.fori_loop(first, last, partial(one, masked), carry)
        return carry

    def _keep(self, piece: Any, index: Any, values: jax.Array) -> jax.Array:
        config = self.config
        seen = self.start(piece) + index * config.chunk + jax.lax.broadcasted_iota(jnp.int32, values.shape, 0)
        return jnp.where(seen < config.positions if config.resident else seen >= piece * config.piece, values, 0.0)

    def zeros(self) -> jax.Array:
        return jnp.zeros((self.config.chunk, self.config.width), jnp.float32)


def _write_out(values: jax.Array, work: Any, ref: Any, start: tuple, each: int, config: ColumnsConfig) -> None:
    """Writes one value of every `each` channels to device memory, from `start`."""
    work[: config.chunk] = values

    def put(index, found):
        ref[*start[:-1], start[-1] + index] = found.astype(ref.dtype)

    one_by_one(config.width // each, lambda index: work[0, index * each], put)


def _forward_kernel(x_ref, *refs: Any, plan: Plan, config: ColumnsConfig) -> None:
    count = 2 if plan.momentum is None else 4
    gamma_ref, beta_ref, *running = refs[:count]
    y_ref, *found = refs[count : 2 * count + 1]
    x, *others, work, arrived = refs[2 * count + 1 :]
    y, columns = others[0] if others else x, Columns(config, ((x_ref, x),), arrived)
    if config.resident:
        columns.bring(0)
    gamma, beta = columns.spread((gamma_ref, beta_ref), work)
    if config.resident:
        columns.wait(0)
    near, offset, squares = _moments(columns, x, work)
    r = jax.lax.rsqrt(squares / config.elements + plan.epsilon)
    scale = r * gamma

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
        _write_out(values, work, ref, start, config.each, config)
    if plan.momentum is not None:
        old = columns.spread(tuple(running), work)
        for values, before, ref in zip((mean, squares / (config.elements - 1)), old, found[2:], strict=True):
            moved = (1 - plan.momentum) * before + plan.momentum * values
            _write_out(moved, work, ref, (columns.first,), 1, config)
    mosaic_await_sent()


def _moments(columns: Columns, x: Any, work: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The mean of each group in two parts, and the sum of squared distances from it, in all elements of a chunk.

    Pieces are put together by channel as in `moments.moments`, and then the channels of a group.
    """
    config = columns.config

    def total(piece, terms):
        def step(at, keep, lanes):
            return tuple(map(jnp.add, lanes, map(keep, terms(x[at].astype(jnp.float32)))))

        lanes = columns.over_chunks(piece, step, (columns.zeros(),) * len(terms(columns.zeros())))
        return [over_positions(lane, work) for lane in lanes]

    def around(middle):
        return lambda v: (v - middle, (v - middle) * (v - middle))

    if config.resident:
        near = over_groups(total(0, lambda v: (v,))[0], work, config.each) / config.elements
        left, squares = (over_groups(each, work, config.each) for each in total(0, around(near)))
        offset = left / config.elements
        return near, offset, jnp.maximum(squares - left * offset, 0.0)

    def merge(piece, carry):
        count, base, offset, squares = carry
        here = jnp.minimum(config.piece, config.positions - piece * config.piece).astype(jnp.float32)
        middle = total(piece, lambda v: (v,))[0] / here
        left, of_piece = total(piece, around(middle))
        base = base + jnp.where(count == 0, 1.0, 0.0) * (middle - base)  # Mosaic selects no arrays by a scalar
        share, distance = here / (count + here), (middle - base) + left / here - offset
        squares = squares + jnp.maximum(of_piece - left * (left / here), 0.0) + distance * distance * (count * share)
        return count + here, base, offset + distance * share, squares

    zeros = columns.zeros()
    _, base, offset, squares = columns.over_pieces(merge, (jnp.float32(0), zeros, zeros, zeros))
    near = over_groups(base, work, config.each) / config.each
    distance = (base - near) + offset  # of each channel from what stands for the group
    left = over_groups(distance, work, config.each) / config.each
    distance = distance - left
    return near, left, over_groups(squares + distance * distance * config.positions, work, config.each)


def backward(saved: tuple, dy: jax.Array, plan: Plan, config: ColumnsConfig) -> tuple[jax.Array, ...]:
    """Returns dx and the gradients of gamma and beta; `saved` is (x, gamma, beta, mean, r)."""
    x, gamma, beta, *_ = saved
    alone = config.images == 1
    dtypes = (gamma.dtype, beta.dtype) if alone else (jnp.float32,) * 2
    sums = (jax.ShapeDtypeStruct((config.images, config.channels), dtype) for dtype in dtypes)
    out = (jax.ShapeDtypeStruct(config.shape, x.dtype), *sums)
    dx, *partials = mosaic_call(
        partial(_backward_kernel, plan=plan, config=config),
        grid=config.images * config.blocks,
        out=out,
        scratch=_scratch_of((x.dtype, dy.dtype), 2, config),
        name=f"{plan.name}_backward",
        cost=cost((*saved, dy), out, () if config.resident else (x, dy)),
    )(x.reshape(config.shape), dy.reshape(config.shape), *saved[1:])
    if alone:
        return dx.reshape(x.shape), *(array.reshape(-1) for array in partials)
    return dx.reshape(x.shape), *sum_partials(partials, (gamma, beta))


def _backward_kernel(x_ref, dy_ref, *refs: Any, plan: Plan, config: ColumnsConfig) -> None:
    """dx takes the place of x."""
    gamma_ref, beta_ref, mean_ref, r_ref, dx_ref, *found, x, dy, work, arrived = refs
    columns = Columns(config, ((x_ref, x), (dy_ref, dy)), arrived)
    if config.resident:
        columns.bring(0)
    gamma, beta = columns.spread((gamma_ref, beta_ref), work)
    mean, r = columns.spread((mean_ref, r_ref), work)
    if config.resident:
        columns.wait(0)

    def pull(at):
        h = (x[at].astype(jnp.float32) - mean) * r
        return h, pulled(h, dy[at].astype(jnp.float32), gamma, beta, plan.activation)

    def visit(piece, carry):
        def step(at, keep, lanes):
            h, dz = pull(at)
            return lanes[0] + keep(dz * h), lanes[1] + keep(dz)

        return columns.over_chunks(piece, step, carry)

    sums = columns.over_pieces(visit, (columns.zeros(), columns.zeros()))
    with_h, alone = (over_positions(values, work) for values in sums)
    for values, ref in ((with_h, found[0]), (alone, found[1])):
        _write_out(values, work, ref, (columns.image, columns.first), 1, config)
    with_h, alone = (over_groups(gamma * values, work, config.each) / config.elements for values in (with_h, alone))

    def write(piece, carry):
        def step(at, keep, carry):
            h, dz = pull(at)
            x[at] = (r * (gamma * dz - alone - h * with_h)).astype(x.dtype)
            return carry

        columns.over_chunks(piece, step, 0)
        columns.take(piece, x, dx_ref)
        return carry

    columns.over_pieces(write, 0)
    mosaic_await_sent()
