"""Runs of any length and alignment, between device and shared memory, and windows over them, for the Mosaic kernels.

A warpgroup computes on whole multiples of 128 elements. Where an array has others, it lies in shared memory as it does
in device memory, without gaps, and is looked at through windows: the last one of a slab reaches beyond it, what it sees
there counts for nothing, and is left as it was. A slab that is longer than shared memory is brought piece by piece, of
which two may be there: one is computed while the next is on its way. Its last piece begins early enough to end with the
slab, and what was there in the piece before counts for nothing.

Runs of whole 16 bytes move in bulk. Of rows that are none, what is around them does, and lies behind their place until
the registers copy it there. Others go through the registers, of which the last copy may overlap.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from normbench.jax_compat.mosaic import (
    mosaic_at_any_address,
    mosaic_await,
    mosaic_await_sent,
    mosaic_fetch_run,
    mosaic_fetch_stack,
    mosaic_send,
    mosaic_send_stack,
    mosaic_settle,
    mosaic_slice,
    mosaic_when,
)
from normbench.kernels.pallas.mosaic.plan import COPY_BYTES, MOST_ARRIVALS, PER_THREAD, WARPGROUP

VECTOR_ELEMENTS = 4
"""What a thread takes at once of a window of 512 or more: 8 bytes of bfloat16, from an address that is so, too."""
SCALAR = 1.2
"""How much longer a window takes whose threads do not."""
TENSORS = 4
"""That arrive at one barrier at most."""
PIECE = 8192
"""Elements of a piece at most."""
WHOLE = 8
"""Elements that are whole bulk copies in every dtype: slabs of so many, or a multiple, can be brought ahead."""


@dataclass(frozen=True, slots=True)
class Runs:
    """What a program has at hand: `count` slabs of `length` elements each.

    Attributes:
      resident: whether all slabs lie in shared memory; otherwise a piece of one of them.
      piece: elements of a slab that are brought together.
      window: elements in registers at a time.
      parts: of all slabs together, each of neighbours in device memory, too; a part is brought by one copy.
      places: for pieces in shared memory: 1, or 2, of which one is filled while the other is computed.
      staged: whether the whole 16 bytes around what is brought arrive in bulk, behind its place, from where the
        registers copy it there: then the next may be on its way.
    """

    count: int
    length: int
    resident: bool
    piece: int
    window: int
    parts: int
    places: int = 1
    staged: bool = False

    @property
    def part(self) -> int:
        """Elements of a part."""
        return self.count * self.length // self.parts

    @property
    def pieces(self) -> int:
        return -(-self.length // self.piece)

    @property
    def windows(self) -> int:
        """Of a piece."""
        return -(-self.piece // self.window)

    @property
    def size(self) -> int:
        """Elements in shared memory, with what the last window sees beyond them."""
        if not self.resident:
            return self.places * self.stride
        return (self.count - 1) * self.length + self.stride

    @property
    def room(self) -> int:
        """The same with what is around, where it arrives there."""
        return self.size + self.staged * (_whole_around(max(self.part, WARPGROUP)) + 2 * WHOLE)

    @property
    def stride(self) -> int:
        """Elements of a piece in shared memory, with what its last window sees beyond it."""
        return self.windows * self.window

    def place(self, slab: Any, piece: Any) -> Any:
        """Of a piece, among `places`."""
        return (slab * self.pieces + piece) % self.places if self.places > 1 else 0

    @property
    def at_any_address(self) -> bool:
        """Whether slabs begin where threads cannot take several elements at once."""
        return self.resident and self.count > 1 and self.length % VECTOR_ELEMENTS != 0

    @property
    def of_vectors(self) -> "Runs":
        """How vectors that lie along a slab are brought, where slabs are resident."""
        return Runs(1, self.length, self.resident, self.piece, self.window, 1)

    def copied_in_bulk(self, dtype: Any) -> bool:
        is_counted = not self.resident or TENSORS * self.parts <= MOST_ARRIVALS
        return is_counted and self.part * jnp.dtype(dtype).itemsize % COPY_BYTES == 0

    def copies(self, *dtypes: Any) -> int:
        """Bulk copies that bring what is at hand of tensors of these dtypes."""
        each = self.parts if self.resident else 1
        return sum(each * (self.staged or self.copied_in_bulk(dtype)) for dtype in dtypes)


def runs_of(
    count: int, length: int, element_bytes: int, room_bytes: int, apart: bool = False, places: int = 1
) -> Runs | None:
    """Slabs that are resident where they fit into `room_bytes`, `element_bytes` each, or come in pieces; None: neither.

    Slabs that lie `apart` in device memory belong together in all else: where they are resident they are parts of one.
    Slabs shorter than a warpgroup do not come in pieces. Pieces have so many places where they move in bulk.
    """
    slabs, parts = (1, count) if apart else (count, 1)
    each = count * length // slabs
    whole = Runs(slabs, each, True, each, _window(each), parts)
    if whole.size * element_bytes <= room_bytes:
        return whole
    places = places if length % WHOLE == 0 else 1
    most = min(PIECE, room_bytes // (places * element_bytes), length) // WARPGROUP * WARPGROUP
    return Runs(count, length, False, *_piece(length, most), count, places) if most else None


def _piece(length: int, most: int) -> tuple[int, int]:
    """A piece of at most so many elements, and its window: pieces as equal as windows allow, of which the longest that
    sees least beyond; with windows whose threads take `VECTOR_ELEMENTS` at once, where that is hardly more."""
    target = -(-length // -(-length // most))
    found = []
    for each in range(1, PER_THREAD + 1):
        window = WARPGROUP * each
        piece = -(-target // window) * window
        if piece <= most:
            slower = 1 if each % VECTOR_ELEMENTS == 0 else SCALAR
            found.append((piece * slower, -window, piece))
    _, window, piece = min(found)
    return piece, -window


WINDOW = 512
"""Elements as long as which a window takes beside its own: two barriers for each that is written."""


def _window(length: int) -> int:
    """The window of a slab: one of the longest that divide it, which spares the threads the question what belongs to
    it, or the one that takes least, with what it sees beyond."""
    warpgroups = -(-length // WARPGROUP)
    found = []
    for each in range(1, PER_THREAD + 1):
        windows, slower = -(-warpgroups // each), 1 if each % VECTOR_ELEMENTS == 0 else SCALAR
        found.append((windows * (WARPGROUP * each * slower + WINDOW), each))
    longest = WARPGROUP * min(found)[1]
    if length % WARPGROUP:
        return longest
    exact = WARPGROUP * max(n for n in range(1, PER_THREAD + 1) if warpgroups % n == 0)
    return exact if 2 * exact >= longest else longest


def bring(ref: Any, start: Any, target: Any, offset: Any, size: int, barrier: Any) -> None:
    """Copies `size` elements from `start` of a flat array to `offset` in shared memory; begins to, where the barrier is
    not None: in bulk."""
    if barrier is not None:
        mosaic_fetch_run(ref.at[mosaic_slice(start, size)], target.at[mosaic_slice(offset, size)], barrier)
    else:
        _copy(ref, start, target, offset, size)


def take(source: Any, offset: Any, ref: Any, start: Any, size: int, bulk: bool) -> None:
    """Copies the other way, after `mosaic_settle`; `mosaic_await_sent` waits until it has been done."""
    if bulk:
        mosaic_send(source.at[mosaic_slice(offset, size)], ref.at[mosaic_slice(start, size)])
    else:
        _copy(source, offset, ref, start, size)


COPIED = 32
"""Elements of each thread that are on their way at once where the registers copy: all of them wait for memory once."""
ELEMENTS = 8
"""The same of less than a warpgroup, all of which every thread copies."""


def _copy(source: Any, first: Any, target: Any, start: Any, size: int) -> None:
    """By the registers, one element of a thread beside that of the next, as nothing is known about the addresses."""
    if size < WARPGROUP:
        _copy_elements(source, first, target, start, size)
        return
    warpgroups = -(-size // WARPGROUP)
    steps = -(-warpgroups // COPIED)
    window = min(-(-warpgroups // steps), size // WARPGROUP) * WARPGROUP

    def step(index, carry):
        at = jnp.minimum(index * window, size - window)
        target[mosaic_slice(start + at, window)] = mosaic_at_any_address(source[mosaic_slice(first + at, window)])
        return carry

    jax.lax.fori_loop(0, -(-size // window), step, 0)


def _copy_elements(source: Any, first: Any, target: Any, start: Any, size: int) -> None:
    """Of fewer than a warpgroup takes: every thread copies all of them."""

    def step(index, carry):
        at = [jnp.minimum(index * ELEMENTS + n, size - 1) for n in range(min(ELEMENTS, size))]
        values = [source[first + one] for one in at]
        for one, value in zip(at, values, strict=True):
            target[start + one] = value
        return carry

    jax.lax.fori_loop(0, -(-size // ELEMENTS), step, 0)


def over_windows(runs: Runs, slab: Any, piece: Any, step: Callable, carry: Any, unrolled: bool = False) -> Any:
    """Folds `step(window, carry)` over the windows of what is at hand of a slab; `unrolled`: of known indices."""
    base = slab * runs.length if runs.resident else runs.place(slab, piece) * runs.stride

    def one(index, carry):
        return step(Window(runs, base + index * runs.window, _start(runs, piece), piece, index), carry)

    if not unrolled:
        return jax.lax.fori_loop(0, runs.windows, one, carry)
    for index in range(runs.windows):
        carry = one(index, carry)
    return carry


def _start(runs: Runs, piece: Any) -> Any:
    """Where in its slab a piece begins."""
    return 0 if runs.resident else jnp.minimum(piece * runs.piece, runs.length - runs.piece)


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a slab, `runs.window` elements from `first` in shared memory; `start` is where its piece begins."""

    runs: Runs
    first: Any
    start: Any
    piece: Any
    index: Any

    @property
    def at(self) -> tuple:
        """In shared memory."""
        return (mosaic_slice(self.first, self.runs.window),)

    @property
    def of_vector(self) -> tuple:
        """In shared memory, of what belongs to the elements of every slab alike."""
        return (mosaic_slice(self.index * self.runs.window, self.runs.window),)

    def read(self, ref: Any) -> jax.Array:
        """What it sees, in float32."""
        return self._loaded(ref[self.at])

    def along(self, ref: Any) -> jax.Array:
        """The same of what belongs to the elements of every slab alike."""
        return self._loaded(ref[self.of_vector])

    def _loaded(self, values: jax.Array) -> jax.Array:
        loaded = mosaic_at_any_address(values) if self.runs.at_any_address else values
        return loaded.astype(jnp.float32)

    @property
    def within(self) -> Any:
        """Where in its slab it begins."""
        return self.start + self.index * self.runs.window

    def keep(self, new: jax.Array, old: Any) -> jax.Array:
        """`new` where an element belongs to the slab, and was not in the piece before; `old` elsewhere."""
        runs = self.runs
        seen = self.within + jax.lax.broadcasted_iota(jnp.int32, (runs.window,), 0)
        if runs.resident:
            inside = isinstance(self.index, int) and (self.index + 1) * runs.window <= runs.length
            return new if inside or runs.length % runs.window == 0 else jnp.where(seen < runs.length, new, old)
        return new if runs.length % runs.piece == 0 else jnp.where(seen >= self.piece * runs.piece, new, old)


def zeros(runs: Runs) -> jax.Array:
    return jnp.zeros((runs.window,), jnp.float32)


def store(ref: Any, window: Window, values: jax.Array) -> None:
    """Writes a window in shared memory, and nothing beyond its slab where another one follows."""
    values = values.astype(ref.dtype)
    runs = window.runs
    if runs.resident and runs.count > 1:
        values = window.keep(values, window.read(ref).astype(ref.dtype))
    ref[window.at] = values


def _whole_around(size: int) -> int:
    """Elements of whole bulk copies around so many, wherever they begin."""
    return -(-size // WHOLE) * WHOLE + WHOLE


@dataclass(frozen=True, slots=True)
class _Around:
    """Whole 16 bytes around `wanted` elements from `first` of a flat array; what ends the array may be left out."""

    length: int
    first: Any
    wanted: int

    @property
    def whole(self) -> int:
        """Elements of the array without what is left out."""
        return self.length // WHOLE * WHOLE

    @property
    def size(self) -> int:
        return min(_whole_around(self.wanted), self.whole)

    @property
    def start(self) -> Any:
        return jnp.minimum(self.first // WHOLE * WHOLE, self.whole - self.size)

    def unpack(self, ref: Any, target: Any, at: int) -> None:
        """To where `target` begins, from `at` in it; what was left out from the array."""
        # A warpgroup copies no less than itself; what it copies beyond counts for nothing.
        _copy(target, at + self.first - self.start, target, 0, max(self.wanted, WARPGROUP))
        if left := self.length - self.whole:

            @mosaic_when(self.first + self.wanted > self.whole)
            def _():
                _copy_elements(ref, self.whole, target, self.whole - self.first, left)


@dataclass(frozen=True, slots=True)
class Load:
    """What is brought together.

    Attributes:
      pairs: flat arrays, and their places in shared memory.
      starts: where a slab begins in these arrays, or a part.
      arrived: barrier for the `copies` of their dtypes; of pieces with several places, one for each.
      stack: None, or where all parts lie in the arrays, (parts, lines, line), which one copy then moves.
    """

    pairs: tuple[tuple[Any, Any], ...]
    starts: Callable[[Any], Any]
    arrived: Any
    stack: tuple | None = None

    def bring(self, runs: Runs, start: Any, offset: Any, size: int, place: Any = 0) -> None:
        for ref, target in self.pairs:
            if runs.staged:
                around = _Around(ref.shape[0], start, size)
                bring(ref, around.start, target, runs.size, around.size, self.arrived)
                continue
            bulk = runs.copied_in_bulk(target.dtype)
            bring(ref, start, target, offset, size, self._arrived(runs, place) if bulk else None)

    def bring_piece(self, runs: Runs, slab: Any, piece: Any) -> None:
        """Begins to bring a piece of a slab."""
        place = runs.place(slab, piece)
        self.bring(runs, self.starts(slab) + _start(runs, piece), place * runs.stride, runs.piece, place)

    def wait(self, runs: Runs, slab: Any = 0, piece: Any = 0) -> None:
        if self.stack or runs.copies(*(target.dtype for _, target in self.pairs)):
            mosaic_await(self._arrived(runs, runs.place(slab, piece)))
        if runs.staged:
            for ref, target in self.pairs:
                _Around(ref.shape[0], self.starts(slab), runs.part).unpack(ref, target, runs.size)

    def _arrived(self, runs: Runs, place: Any) -> Any:
        return self.arrived.at[place] if runs.places > 1 else self.arrived


def bring_slabs(runs: Runs, load: Load) -> None:
    """Begins to bring all slabs, to where nothing has been, or from where all has been taken away."""
    if load.stack:
        for ref, target in load.pairs:
            mosaic_fetch_stack(ref.at[*load.stack], target, load.arrived)
        return
    if runs.staged or not all(runs.copied_in_bulk(target.dtype) for _, target in load.pairs):
        mosaic_settle()

    def of_part(part, carry):
        load.bring(runs, load.starts(part), part * runs.part, runs.part)
        return carry

    jax.lax.fori_loop(0, runs.parts, of_part, 0)


def over_pieces(runs: Runs, loads: tuple[Load, ...], slab: Any, visit: Callable, carry: Any) -> Any:
    """Folds `visit(slab, piece, carry)` over the pieces of a slab; each is brought before, where it is not there.

    Where pieces have two places, slabs have to be visited one after the other from the first: while a piece is computed
    the next one, be it of the next slab, is on its way.
    """

    def bring(slab, piece):
        mosaic_settle()
        if runs.places > 1:
            mosaic_await_sent(read_only=True)
        for load in loads:
            load.bring_piece(runs, slab, piece)

    def bring_next(piece):
        @mosaic_when(slab * runs.pieces + piece + 1 < runs.count * runs.pieces)
        def _():
            last = piece == runs.pieces - 1
            bring(jnp.where(last, slab + 1, slab), jnp.where(last, 0, piece + 1))

    def of_piece(piece, carry):
        if runs.places > 1:
            bring_next(piece)
        else:
            bring(slab, piece)
        for load in loads:
            load.wait(runs, slab, piece)
        return visit(slab, piece, carry)

    if runs.resident:
        return visit(slab, 0, carry)
    if runs.places > 1:
        mosaic_when(slab == 0)(lambda: bring(0, 0))
    return jax.lax.fori_loop(0, runs.pieces, of_piece, carry)


def take_slabs(runs: Runs, load: Load) -> None:
    """Begins to take all slabs away, to where the arrays of `load` have them."""
    mosaic_settle()

    def of_part(part, carry):
        for ref, source in load.pairs:
            take(source, part * runs.part, ref, load.starts(part), runs.part, runs.copied_in_bulk(source.dtype))
        return carry

    if load.stack:
        for ref, source in load.pairs:
            mosaic_send_stack(source, ref.at[*load.stack])
    else:
        jax.lax.fori_loop(0, runs.parts, of_part, 0)


def take_piece(runs: Runs, start: Any, piece: Any, tensors: tuple, slab: Any = 0) -> None:
    """Takes a piece of the slab that begins at `start` away: pairs of a place in shared memory and a flat array.

    Waits until that has been done, or, where pieces have two places, before the next one is brought to this.
    """
    mosaic_settle()
    if runs.places > 1 and runs.length % runs.piece:  # the last piece writes again what ends the one before
        mosaic_when(piece == runs.pieces - 1)(mosaic_await_sent)
    offset = runs.place(slab, piece) * runs.stride
    for source, ref in tensors:
        take(source, offset, ref, start + _start(runs, piece), runs.piece, runs.copied_in_bulk(source.dtype))
    if runs.places == 1:
        mosaic_await_sent()
