"""Layer norm, RMS norm, and batch norm by given statistics with channels last, in Mosaic GPU, of rows of any length.

With h = (w - mean) r and w = x or x + residual: y = act(h gamma + beta), gamma and beta along the row; mean and r of
the row, or along it where mean and variance are given. The kernels of `mosaic_rows` and `mosaic_channels` take what is
whole warpgroups; these the rest: several rows to a program where they are short, one piece by piece where it is too
long.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from normbench.jax_compat.mosaic import (
    SHARED_BYTES,
    mosaic_barrier,
    mosaic_call,
    mosaic_clear,
    mosaic_program,
    mosaic_shared,
)
from normbench.kernels.pallas.cost import cost
from normbench.kernels.pallas.hardware import MOST_ELEMENTS, MULTIPROCESSORS, workspace_programs
from normbench.kernels.pallas.mosaic.activations import activate
from normbench.kernels.pallas.mosaic.limits import RESERVED_BYTES, Plan
from normbench.kernels.pallas.mosaic.moments import moments
from normbench.kernels.pallas.mosaic.windows import (
    Load,
    Runs,
    Window,
    bring_slabs,
    over_pieces,
    over_windows,
    runs_of,
    store,
    take_piece,
    take_slabs,
    zeros,
)

BLOCK = 2048
"""Elements of the rows of a program, where one row has fewer: a window of the longest."""
MOST_RESIDENT = 4
"""Programs of a multiprocessor that stay and walk over rows: one has its copies under way while another computes."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Blocks of `runs.count` rows, of `columns` elements each; a program takes each `programs`-th block."""

    blocks: int
    programs: int
    runs: Runs

    @property
    def columns(self) -> int:
        return self.runs.length

    @property
    def vector(self) -> int:
        """Elements in shared memory of what lies along the row."""
        return self.runs.windows * self.runs.window

    def row(self, block: Any, slab: Any) -> Any:
        return block * self.runs.count + slab

    def vectors(self, pairs: tuple, arrived: Any) -> Load:
        """To be brought once, as they are, or with each piece."""
        return Load(pairs, lambda slab: 0, arrived)

    def of_vectors(self) -> Runs:
        """How vectors that are resident are brought."""
        runs = self.runs
        return Runs(1, runs.length, runs.resident, runs.piece, runs.window, 1)


def rows_of(
    rows: int, columns: int, tensor_bytes: int, vector_bytes: int, workspace: tuple[int, int] | None = None
) -> Rows | str:
    """How rows are shared out among programs, or why they are not.

    Args:
      rows, columns: of the tensor.
      tensor_bytes, vector_bytes: of shared memory, for one element of a row and for one column.
      workspace: bytes of the tensor, and those of the partial sums of a program, which are bounded by it, for programs
        that stay.
    """
    if rows * columns > MOST_ELEMENTS:
        return f"{rows} rows of {columns} elements; allowed for pallas_mosaic: {MOST_ELEMENTS} elements in all"
    most = max(1, BLOCK // columns)
    count = max(n for n in range(1, most + 1) if rows % n == 0)
    bytes_ = tensor_bytes + vector_bytes
    runs = runs_of(count, columns, bytes_, SHARED_BYTES - RESERVED_BYTES)
    if runs is None:
        return f"rows of {columns} elements, {bytes_} bytes each, do not fit into {SHARED_BYTES} bytes of shared memory"
    blocks = rows // count
    if workspace is None:
        return Rows(blocks, blocks, runs)
    resident = min(MOST_RESIDENT, SHARED_BYTES // (runs.size * bytes_ + RESERVED_BYTES))
    return Rows(blocks, min(blocks, workspace_programs(*workspace), resident * MULTIPROCESSORS), runs)


def forward_bytes(dtype: str, param_dtypes: tuple[str, ...], plan: Plan, residual: bool) -> tuple[int, int]:
    """Shared memory of an element of a row, and of a column."""
    of_y = 0 if plan.output_dtype == dtype else jnp.dtype(plan.output_dtype).itemsize
    return jnp.dtype(dtype).itemsize * (1 + residual) + of_y, sum(jnp.dtype(p).itemsize for p in param_dtypes)


def forward(x: jax.Array, residual: jax.Array | None, parameters: tuple, plan: Plan, saves: bool) -> tuple:
    """As `mosaic_rows.forward`; with `plan.given`, the parameters are gamma, beta, mean and variance."""
    tensors = (x,) if residual is None else (x, residual)
    dtype = jnp.dtype(plan.output_dtype)
    dtypes = tuple(parameter.dtype.name for parameter in parameters)
    of_row, of_column = forward_bytes(x.dtype.name, dtypes, plan, residual is not None)
    rows = rows_of(x.shape[0], x.shape[1], of_row, of_column)
    assert isinstance(rows, Rows), rows
    runs, saved = rows.runs, saves * (1 + plan.centered)
    out = (
        jax.ShapeDtypeStruct((x.size,), dtype),
        *(() if residual is None else (jax.ShapeDtypeStruct((x.size,), x.dtype),)),
        *(jax.ShapeDtypeStruct(x.shape[:1], jnp.float32),) * saved,
    )
    scratch = (
        *(mosaic_shared((runs.size,), tensor.dtype) for tensor in tensors),
        *(() if dtype == x.dtype else (mosaic_shared((runs.size,), dtype),)),
        *(mosaic_shared((rows.vector,), parameter.dtype) for parameter in parameters),
        mosaic_barrier(max(1, runs.copies(*(tensor.dtype for tensor in tensors)))),
        mosaic_barrier(max(1, rows.of_vectors().copies(*(parameter.dtype for parameter in parameters)))),
    )
    y, *others = mosaic_call(
        partial(_kernel, plan=plan, rows=rows, tensors=len(tensors), parameters=len(parameters), saves=saves),
        grid=rows.programs,
        out=out,
        scratch=scratch,
        name=f"{plan.name}_forward",
        cost=cost((*tensors, *parameters), out, () if runs.resident or plan.given else tensors),
    )(*(tensor.reshape(-1) for tensor in tensors), *parameters)
    z = None if residual is None else others.pop(0).reshape(x.shape)
    mean = others.pop(0) if saved == 2 else None
    return y.reshape(x.shape), z, mean, others.pop(0) if saves else None


def _kernel(*refs: Any, plan: Plan, rows: Rows, tensors: int, parameters: int, saves: bool) -> None:
    inputs, refs = refs[: tensors + parameters], refs[tensors + parameters :]
    written = tensors + saves * (1 + plan.centered)
    outputs, (*shared, arrived, vectors_arrived) = refs[:written], refs[written:]
    places, vectors = shared[: len(shared) - parameters], shared[len(shared) - parameters :]
    runs, block = rows.runs, mosaic_program()

    def starts(slab):
        return rows.row(block, slab) * rows.columns

    load = Load(tuple(zip(inputs[:tensors], places, strict=False)), starts, arrived)
    along = rows.vectors(tuple(zip(inputs[tensors:], vectors, strict=True)), vectors_arrived)
    w, y = places[0], places[-1]  # y takes the place of what is not needed any more, where the dtypes are the same
    taken = ((y, outputs[0]), *([(w, outputs[1])] if tensors == 2 else []))

    def ready(slab, piece):
        """Adds the residual to what has been brought."""
        if tensors == 2:
            add = partial(_add, w, places[1])
            over_windows(runs, slab, piece, add, 0)

    if runs.resident:
        bring_slabs(runs, load)
        bring_slabs(rows.of_vectors(), along)
        load.wait(runs)
        along.wait(rows.of_vectors())
        jax.lax.fori_loop(0, runs.count, lambda slab, carry: (ready(slab, 0), carry)[1], 0)

    def values(window):
        return w[window.at].astype(jnp.float32)

    def of_slab(slab, carry):
        def fold(visit, carry):
            def prepared(slab, piece, carry):
                if not runs.resident:
                    ready(slab, piece)
                return visit(slab, piece, carry)

            return over_pieces(runs, (load,), slab, prepared, carry)

        statistics = () if plan.given else row_statistics(rows, fold, values, plan)

        def write(slab, piece, carry):
            if not runs.resident:
                ready(slab, piece)

            def step(window, carry):
                z = normalized(values(window), window, vectors, statistics, plan)[1]
                store(y, window, activate(z, plan.activation))
                return carry

            over_windows(runs, slab, piece, step, 0)
            if not runs.resident:
                take_piece(runs, starts(slab), piece, taken)
            return carry

        over_pieces(runs, (load, along), slab, write, 0)
        if saves:
            outputs[-1][rows.row(block, slab)] = statistics[2]
        if saves and plan.centered:
            outputs[-2][rows.row(block, slab)] = statistics[0] + statistics[1]
        return carry

    jax.lax.fori_loop(0, runs.count, of_slab, 0)
    if runs.resident:
        take_slabs(runs, Load(tuple((ref, source) for source, ref in taken), starts, arrived))


def _add(w: Any, residual: Any, window: Window, carry: Any) -> Any:
    store(w, window, w[window.at].astype(jnp.float32) + residual[window.at].astype(jnp.float32))
    return carry


def row_statistics(rows: Rows, fold: Any, values: Any, plan: Plan) -> tuple[Any, Any, jax.Array]:
    """The mean of a row in two parts, and r; the mean of RMS norm is 0."""
    if plan.centered:
        near, offset, squares = moments(rows.runs, fold, values, rows.columns)
        return near, offset, jax.lax.rsqrt(squares / rows.columns + plan.epsilon)

    def visit(slab, piece, lanes):
        def step(window, lanes):
            return lanes + window.keep(values(window) * values(window), 0.0)

        return over_windows(rows.runs, slab, piece, step, lanes)

    return 0.0, 0.0, jax.lax.rsqrt(jnp.sum(fold(visit, zeros(rows.runs))) / rows.columns + plan.epsilon)


def normalized(w: jax.Array, window: Window, vectors: Any, statistics: tuple, plan: Plan) -> tuple:
    """h, and h gamma + beta, of a window; `statistics` are the mean, in two parts, and r."""
    gamma, *others = (ref[window.of_vector].astype(jnp.float32) for ref in vectors)
    if plan.given:
        h = (w - others[1]) * jax.lax.rsqrt(others[2] + plan.epsilon)
    else:
        near, offset, r = statistics
        h = (w - near - offset) * r
    scaled = plan.form.rounded_in_mosaic(h) * plan.form.scale(gamma)
    return h, scaled + others[0] if plan.shifted else scaled


def blocks_of(rows: Rows) -> Any:
    """Of the running program."""
    return (rows.blocks - mosaic_program() + rows.programs - 1) // rows.programs


def load_of(rows: Rows, pairs: tuple, arrived: Any, index: Any) -> Load:
    """The `index`-th block of the running program."""
    block = mosaic_program() + index * rows.programs
    return Load(pairs, lambda slab: rows.row(block, slab) * rows.columns, arrived)


def clear(rows: Rows, sums: tuple, piece: Any) -> None:
    """Sets sums along the row to zero."""

    def one(window, carry):
        for target in sums:
            mosaic_clear(target, window.of_vector)
        return carry

    over_windows(rows.runs, 0, piece, one, 0)
