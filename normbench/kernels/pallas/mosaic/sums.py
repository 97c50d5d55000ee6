"""Sums of the Mosaic kernels: the mean and variance of what a program has, its sums along a row, and the partial sums
of all programs.

The mean is taken first and the variance around it, also where pieces come by. Partial sums are added up by one small
reduction, in float32, always in the same order.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from normbench.jax_compat.mosaic import mosaic_clear, mosaic_slice
from normbench.kernels.pallas.hardware import REGISTERS
from normbench.kernels.pallas.mosaic.plan import WARPGROUP
from normbench.kernels.pallas.mosaic.windows import Runs, Window, over_windows, zeros


def moments(
    runs: Runs, fold: Callable, values: Callable, elements: int, unrolled: bool = False
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The mean of `elements` in two parts, near and offset, and the sum of their squared distances from it.

    x - near - offset has the error of one rounding, however large the mean is: near is rounded as large as it is, and
    offset is what that leaves. Where all is at hand it is looked at twice. Pieces are looked at twice each while they
    are there, and put together, as distances from the first one's mean: with n and N elements and the difference d of
    the means, M = M1 + M2 + d² n N / (n + N) (Chan, Golub, LeVeque 1979).

    Args:
      fold: of (visit, carry), over the pieces.
      values: of a window, in float32.
      unrolled: whether they are at hand in registers.
    """

    def total(slab, piece, lanes):
        return over_windows(runs, slab, piece, lambda w, lanes: lanes + w.keep(values(w), 0.0), lanes, unrolled)

    def around(middle, slab, piece, lanes):
        def step(w, lanes):
            centred = w.keep(values(w) - middle, 0.0)
            return lanes[0] + centred, lanes[1] + centred * centred

        return over_windows(runs, slab, piece, step, lanes, unrolled)

    two = zeros(runs), zeros(runs)
    if runs.resident:
        near = jnp.sum(fold(total, zeros(runs))) / elements
        left, squares = (jnp.sum(lanes) for lanes in fold(partial(around, near), two))
        offset = left / elements
        return near, offset, jnp.maximum(squares - left * offset, 0.0)

    def merge(slab, piece, carry):
        count, base, offset, squares = carry
        here = jnp.minimum(runs.piece, runs.length - piece * runs.piece).astype(jnp.float32)
        middle = jnp.sum(total(slab, piece, zeros(runs))) / here
        left, of_piece = (jnp.sum(lanes) for lanes in around(middle, slab, piece, two))
        base = jnp.where(count == 0, middle, base)
        share, distance = here / (count + here), (middle - base) + left / here - offset
        squares = squares + jnp.maximum(of_piece - left * (left / here), 0.0) + distance * distance * count * share
        return count + here, base, offset + distance * share, squares

    _, base, offset, squares = fold(merge, (jnp.float32(0),) * 4)
    return base, offset, squares


SUMS_PER_THREAD = 160
"""Elements of the sums along a row, and of rows that are kept beside them, that a thread may hold in registers of
float32: it has 255."""
OTHER_REGISTERS = 96
"""Of such a thread, for all else; programs without room for it would be fewer: layer norm of 11467 x 2846 in float16,
backward, is predicted for the H200 at 127 us (66 to 166) with three on a multiprocessor, 180 (93 to 235) with two."""


@dataclass(frozen=True, slots=True)
class RowSums:
    """Sums along the row, which grow with each row of a program: in registers where its threads have room for them and
    for `beside` rows, as many `programs` as a multiprocessor has, else in their places in shared memory, at two
    barriers for each window."""

    runs: Runs
    places: tuple
    programs: int
    beside: int = 0

    @property
    def in_registers(self) -> bool:
        each = (len(self.places) + self.beside) * self.runs.stride // WARPGROUP
        fits = self.programs * (each + OTHER_REGISTERS) * WARPGROUP <= REGISTERS
        return bool(self.places) and self.runs.resident and each <= SUMS_PER_THREAD and fits

    def none(self) -> tuple:
        """What `add` begins with: by window and sum, nothing where they grow in their places."""
        return ((zeros(self.runs),) * len(self.places),) * self.runs.windows if self.in_registers else ()

    def clear(self, piece: Any = 0) -> None:
        """Sets what grows in its place to zero."""

        def one(window, carry):
            for place in self.places:
                mosaic_clear(place, window.of_vector)
            return carry

        if not self.in_registers:
            over_windows(self.runs, 0, piece, one, 0)

    def add(self, grown: tuple, window: Window, values: tuple) -> tuple:
        """`grown` with a window of a row; what it sees beyond the row is never looked at."""
        if self.in_registers:
            new = tuple(total + value for total, value in zip(grown[window.index], values, strict=True))
            return *grown[: window.index], new, *grown[window.index + 1 :]
        for place, value in zip(self.places, values, strict=True):
            place[window.of_vector] = window.along(place) + value
        return grown

    def put(self, grown: tuple) -> None:
        """Puts what has grown in registers into its place."""

        def one(window, carry):
            for place, values in zip(self.places, grown[window.index], strict=True):
                place[window.of_vector] = values
            return carry

        if self.in_registers:
            over_windows(self.runs, 0, 0, one, 0, unrolled=True)


WAYS = 4
"""So many positions are added up between two barriers."""


def over_positions(values: jax.Array, work: Any) -> jax.Array:
    """The sum over the positions of (positions, channels), a power of two of them, in each of them: what is turned by
    a quarter of them and its multiples is added, then what is turned by a quarter of that, and so on. `work` has room
    for two such arrays."""
    positions = apart = values.shape[0]
    while apart > 1:
        ways = min(apart, WAYS)
        apart //= ways
        work[:positions] = values
        work[positions:] = values
        for way in range(1, ways):
            values = values + work[mosaic_slice(apart * way, positions)]
    return values


FEW_GROUPS = 2
"""So many are summed by all threads together, one after the other; more channel by channel, which takes as long for a
channel as for a group of many."""


def over_groups(values: jax.Array, work: Any, each: int) -> jax.Array:
    """The sum over each group of `each` channels, in each of them; every position has the same values."""
    if each == 1:
        return values
    positions, channels = values.shape
    if channels // each <= FEW_GROUPS:
        return _over_few_groups(values, each) / positions
    work[positions:] = values
    mosaic_clear(work, slice(0, positions))

    def step(group, carry):
        def add(index, total):
            return total + work[positions, group * each + index]

        total = jax.lax.fori_loop(0, each, add, jnp.float32(0))

        def put(index, carry):
            work[0, group * each + index] = total
            return carry

        return jax.lax.fori_loop(0, each, put, carry)

    jax.lax.fori_loop(0, channels // each, step, 0)
    return over_positions(work[:positions], work)


def _over_few_groups(values: jax.Array, each: int) -> jax.Array:
    """The sum over the positions and the channels of each group, in all of them."""
    group = jax.lax.broadcasted_iota(jnp.int32, values.shape, 1) // each
    found = jnp.zeros(values.shape, jnp.float32)
    for index in range(values.shape[1] // each):
        found = jnp.where(group == index, jnp.sum(jnp.where(group == index, values, 0.0)), found)
    return found


FEW = 32
"""Fewer partial sums than a warp has threads are added up by one thread each, in a loop that XLA fuses with anything,
their conversion, too. More are a reduction, after which each conversion is a launch."""


def sum_partials(
    partials: Sequence[jax.Array], parameters: Sequence[jax.Array], axes: tuple[int, ...] = (0,)
) -> tuple[jax.Array, ...]:
    """Sums arrays of one shape in float32, over the axes of programs: in the dtypes of the parameters.

    One launch where these are of float32, or programs are few; otherwise one more for each other dtype.
    """
    dtypes = [parameter.dtype for parameter in parameters]
    few = math.prod(partials[0].shape[axis] for axis in axes) < FEW
    if few and any(dtype != jnp.float32 for dtype in dtypes):
        summed: Sequence[jax.Array] = tuple(jnp.sum(jnp.stack(partials), axis=tuple(axis + 1 for axis in axes)))
    else:
        zeros = tuple(jnp.float32(0) for _ in partials)
        summed = jax.lax.reduce(
            tuple(partials), zeros, lambda a, b: tuple(x + y for x, y in zip(a, b, strict=True)), dimensions=axes
        )
    return tuple(s.reshape(-1).astype(dtype) for s, dtype in zip(summed, dtypes, strict=True))


TOGETHER = 8
"""Scalars that are read before the first of them is waited for."""


def one_by_one(count: int, get: Callable, put: Callable) -> None:
    """`put(index, get(index))` of each index, `TOGETHER` at a time."""
    together = max(n for n in range(1, TOGETHER + 1) if count % n == 0)

    def step(first, carry):
        found = [(index, get(index)) for index in (first * together + n for n in range(together))]
        for index, value in found:
            put(index, value)
        return carry

    jax.lax.fori_loop(0, count // together, step, 0)
