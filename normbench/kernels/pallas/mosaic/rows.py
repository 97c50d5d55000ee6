"""The schedule of rows in Mosaic GPU: programs walk over blocks of rows, with what lies along the row beside them.

Where bulk copies move a block, a program stays, has a ring of places for blocks in shared memory, and brings the next
ones while it computes one. Elsewhere each program has one block, or comes back for the next; where what is around a row
arrives in bulk, the next is on its way as well. A row that shared memory does not hold comes piece by piece.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from normbench.jax_compat.mosaic import (
    SHARED_BYTES,
    mosaic_await_sent,
    mosaic_barrier,
    mosaic_program,
    mosaic_settle,
    mosaic_shared,
    mosaic_when,
)
from normbench.kernels.pallas.hardware import MOST_ELEMENTS, MULTIPROCESSORS
from normbench.kernels.pallas.mosaic.plan import COPY_BYTES, RESERVED_BYTES, WARPGROUP, placed, room_bytes
from normbench.kernels.pallas.mosaic.windows import WHOLE, Load, Runs, bring_slabs, runs_of, take, take_slabs

BLOCK = 2048
"""Elements of the rows of a block at least that is no whole warpgroups, where one row has fewer."""
BLOCKS = 6 * MULTIPROCESSORS
"""At least before a block has several rows."""
ENOUGH = 512
"""Elements of a block of as many rows as divide all of them, below which it has more: a last one that begins early
costs the others the unrolling of their loops."""
LONGEST_BLOCK = 12288
"""Elements of a block of several rows, beyond which single rows are brought, be they no whole bulk copies: layer norm
of 2048 x 4098 in bfloat16, forward, is predicted for the H200 to take 15 us (7 to 19) so, and 21 (11 to 28) by four
rows at a time."""
KEPT_PER_THREAD = 96
"""Elements of a row that a thread may keep in registers of float32, beside what it computes with."""


@dataclass(frozen=True, slots=True)
class Staying:
    """How programs stay.

    Attributes:
      slots: blocks in shared memory of a program at most: one on its way in, one computed, one on its way out.
      resident: programs of a multiprocessor at most, of which some compute while others wait.
      block_bytes: of all tensors in the rows of a block, where one row has fewer.
      most: None, or programs at most, each of which leaves partial sums. Then programs stay always; else only where
        they have more than one slot's worth to gain: blocks that move in bulk.
      blocks: at least before a block has several rows.
    """

    slots: int
    resident: int
    block_bytes: int
    most: int | None = None
    blocks: int = BLOCKS


@dataclass(frozen=True, slots=True)
class Rows:
    """Blocks of `runs.count` rows, of `columns` elements each; a program takes each `programs`-th block.

    Where blocks do not divide the rows, the last one begins early enough to end with them; its first rows, which the
    one before has, are neither computed nor taken away.

    Attributes:
      slots: blocks in shared memory at a time.
    """

    rows: int
    blocks: int
    programs: int
    slots: int
    runs: Runs

    @property
    def columns(self) -> int:
        return self.runs.length

    @property
    def vector(self) -> int:
        """Elements in shared memory of what lies along the row."""
        return self.runs.windows * self.runs.window

    @property
    def in_registers(self) -> bool:
        """Whether the threads can hold a row, in float32, while it is looked at."""
        return self.runs.resident and self.vector <= KEPT_PER_THREAD * WARPGROUP

    @property
    def mine(self) -> Any:
        """Blocks of the running program."""
        return (self.blocks - mosaic_program() + self.programs - 1) // self.programs

    def row(self, index: Any, slab: Any) -> Any:
        """Of the `index`-th block of the running program."""
        begin = self._begin(index)
        return (jnp.minimum(begin, self.rows - self.runs.count) if self.rows % self.runs.count else begin) + slab

    def _begin(self, index: Any) -> Any:
        """The first row of a block that the one before does not have."""
        return (mosaic_program() + index * self.programs) * self.runs.count

    def _skipped(self, index: Any) -> Any:
        """Rows of a block that the one before has."""
        return self._begin(index) - self.row(index, 0) if self.rows % self.runs.count else 0

    def after(self, index: Any, slab: Any) -> Any:
        """The row that follows; of the last one, one that there is."""
        begins = jnp.minimum(self._begin(index + 1), self.rows - 1)
        last = self.runs.count - 1
        return jnp.where(slab < last, self.row(index, slab) + 1, begins) if last else begins

    def over_slabs(self, of_slab: Callable[[Any, Any], Any], carry: Any, index: Any) -> Any:
        """Folds `of_slab(slab, carry)` over the rows of a block."""
        count, skipped = self.runs.count, self._skipped(index)
        if count == 1:
            return of_slab(0, carry)
        return jax.lax.fori_loop(0, count - skipped, lambda n, carry: of_slab(skipped + n, carry), carry)

    def take(self, load: Load, index: Any) -> None:
        """Begins to take the rows of a block away, to where the arrays of `load` have them."""
        skipped = self._skipped(index)

        def take_one(slab, carry):
            for ref, source in load.pairs:
                bulk = self.columns * jnp.dtype(source.dtype).itemsize % COPY_BYTES == 0
                take(source, slab * self.columns, ref, load.starts(slab), self.columns, bulk)
            return carry

        def take_some():
            mosaic_settle()
            jax.lax.fori_loop(skipped, self.runs.count, take_one, 0)

        if self.rows % self.runs.count == 0:
            take_slabs(self.runs, load)
        else:
            mosaic_when(skipped == 0)(lambda: take_slabs(self.runs, load))
            mosaic_when(skipped > 0)(take_some)

    def places(self, *dtypes: Any) -> tuple:
        """Scratch for tensors of these dtypes."""
        return tuple(mosaic_shared((self.slots, self.runs.room), dtype) for dtype in dtypes)

    def vectors(self, *dtypes: Any) -> tuple:
        """Scratch for what lies along the row."""
        return tuple(mosaic_shared((self.vector,), dtype) for dtype in dtypes)

    def barrier(self, *dtypes: Any) -> Any:
        """For the tensors of a block, by slot."""
        return mosaic_barrier(max(1, self.runs.copies(*dtypes)), self.slots)

    @property
    def of_vectors(self) -> Runs:
        return self.runs.of_vectors

    def load(self, refs: Any, places: Any, arrived: Any, index: Any) -> Load:
        """The `index`-th block of the running program, for its slot."""
        slot = index % self.slots if self.slots > 1 else 0
        pairs = tuple((ref, place.at[slot]) for ref, place in zip(refs, places, strict=False))
        return Load(pairs, lambda slab: self.row(index, slab) * self.columns, arrived.at[slot])


def rows_of(shape: tuple[int, ...], tensors: tuple[str, ...], vectors: tuple[str, ...], staying: Staying) -> Rows | str:
    """How rows are shared out among programs, or why they are not.

    Args:
      shape: rows and columns of the tensor.
      tensors: dtypes of what has an element of shared memory for each of a block: it is brought or taken away.
      vectors: dtypes of what lies along the row, once for a program.
    """
    rows, columns = shape
    if rows * columns > MOST_ELEMENTS:
        return f"{rows} rows of {columns} elements; allowed for pallas_mosaic: {MOST_ELEMENTS} elements in all"
    each, room = item_bytes(*tensors, *vectors), room_bytes(len(tensors) + len(vectors))
    for count in _counts(rows, columns, tensors, staying):
        runs = runs_of(count, columns, each, room)
        if runs and (runs.resident or count == 1):
            runs = _staged(runs, tensors, vectors)
            return _shared_out(rows, runs, tensors, vectors, staying)
    needed = f"{each} bytes each"
    return f"rows of {columns} elements, {needed}, do not fit into {SHARED_BYTES} bytes of shared memory"


def _staged(runs: Runs, tensors: tuple[str, ...], vectors: tuple[str, ...]) -> Runs:
    """`runs`, of which what the registers would bring arrives in bulk where there is room for it."""
    staged = replace(runs, staged=True)
    needed = runs.resident and runs.part >= WHOLE and not all(map(runs.copied_in_bulk, tensors))
    return staged if needed and _shared_bytes(staged, 1, tensors, vectors) <= SHARED_BYTES else runs


def _counts(rows: int, columns: int, tensors: tuple[str, ...], staying: Staying) -> list[int]:
    """Rows of a block, the preferred first: as long as asked for, of as many blocks as keep the multiprocessors busy;
    where rows are no whole bulk copies, the fewest that are, if they divide all. What divides them is preferred."""
    block = max(staying.block_bytes // item_bytes(*tensors), BLOCK if columns % WARPGROUP else 0)
    most = max(1, min(block // columns, rows // staying.blocks))
    divisor = max(n for n in range(1, most + 1) if rows % n == 0)
    usual = divisor if divisor * columns >= ENOUGH or 2 * divisor >= most else most
    narrow = columns * min(map(item_bytes, tensors))
    copied = [n for n in (usual, *range(1, COPY_BYTES + 1)) if n * narrow % COPY_BYTES == 0]
    fitting = [n for n in copied if n == 1 or n * columns <= LONGEST_BLOCK]
    fitting = fitting if narrow % COPY_BYTES == 0 else [n for n in fitting if rows % n == 0]
    return [*fitting[:1], usual, 1]


def _shared_out(rows: int, runs: Runs, tensors: tuple[str, ...], vectors: tuple[str, ...], staying: Staying) -> Rows:
    """Programs that stay where that pays: blocks arrive in bulk."""
    blocks, slots = -(-rows // runs.count), 1
    if runs.resident and all(map(runs.copied_in_bulk, tensors)):
        while slots < staying.slots and _shared_bytes(runs, slots + 1, tensors, vectors) <= SHARED_BYTES:
            slots += 1
    elif staying.most is None and not runs.staged:
        return Rows(rows, blocks, blocks, 1, runs)
    resident = max(1, min(staying.resident, SHARED_BYTES // _shared_bytes(runs, slots, tensors, vectors)))
    programs = min(blocks, resident * MULTIPROCESSORS, staying.most or blocks)
    return Rows(rows, blocks, programs, min(slots, -(-blocks // programs)), runs)


def _shared_bytes(runs: Runs, slots: int, tensors: tuple[str, ...], vectors: tuple[str, ...]) -> int:
    """Of a program with so many blocks at a time."""
    sizes = (slots * runs.room, tensors), (runs.windows * runs.window, vectors)
    return RESERVED_BYTES + sum(placed(size * item_bytes(dtype)) for size, dtypes in sizes for dtype in dtypes)


def walk(
    rows: Rows,
    load_of: Callable[[Any], Load],
    prepare: Callable[[], None],
    compute: Callable,
    carry: Any = 0,
    early: bool = False,
) -> Any:
    """Folds `compute` over the blocks of the running program; what was taken away last may still be on its way.

    Args:
      load_of: of the number of a block of the program; resident blocks are brought before they are computed.
      prepare: runs while the first blocks are on their way.
      compute: (index, load, between, carry), returns the next carry: begins to take away what it has made. It calls
        `between` as soon as the next block may be brought, which waits until the one before has left its place.
      carry: of the first block.
      early: whether that is before the block at hand is waited for; then `between` does nothing, and of three places
        one is that of a block on its way out, which one copy takes there.
    """
    runs, ring = rows.runs, rows.slots > 1
    ahead = 1 if early else max(1, rows.slots - 1)

    def bring(index):
        if runs.resident:
            bring_slabs(runs, load_of(index))

    def bring_next(index):
        @mosaic_when(index + ahead < rows.mine)
        def _():
            mosaic_await_sent(read_only=True, but=max(0, rows.slots - 1 - ahead))
            bring(index + ahead)

    def step(index, carry):
        if ring and early:
            bring_next(index)
        load = load_of(index)
        if runs.resident:
            load.wait(runs)
        if runs.staged:
            bring_next(index)
        # With one slot there is nothing to bring while a block is in it.
        carry = compute(index, load, partial(bring_next, index) if ring and not early else lambda: None, carry)
        if not ring and not runs.staged and rows.programs < rows.blocks:
            bring_next(index)
        return carry

    bring(0)
    for index in range(1, ahead):
        mosaic_when(index < rows.mine)(partial(bring, index))
    prepare()
    return jax.lax.fori_loop(0, rows.mine, step, carry) if rows.programs < rows.blocks else step(0, carry)


def item_bytes(*dtypes: Any) -> int:
    return sum(jnp.dtype(dtype).itemsize for dtype in dtypes)
