"""Gradients of the kernels of `mosaic_any_rows`: programs that stay, walk over blocks of rows, and keep the sums.

With dz = dy act'(h gamma + beta), dh = gamma dz and E the mean over the row:

    dw = r (dh - E[dh] - h E[dh h])      (RMS norm: without E[dh]; given statistics: r dh)

The sums over rows, for the parameters, lie in shared memory; in device memory where a row comes in pieces.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from normbench.jax_compat.mosaic import (
    mosaic_await_sent,
    mosaic_barrier,
    mosaic_call,
    mosaic_program,
    mosaic_settle,
    mosaic_shared,
)
from normbench.kernels.pallas.cost import cost
from normbench.kernels.pallas.mosaic.activations import differentiate
from normbench.kernels.pallas.mosaic.limits import Plan
from normbench.kernels.pallas.mosaic.partial_sums import sum_partials
from normbench.kernels.pallas.mosaic.rows import Rows, blocks_of, clear, load_of, normalized, rows_of
from normbench.kernels.pallas.mosaic.rows_given import finish_given, given_in_pieces, given_window
from normbench.kernels.pallas.mosaic.windows import (
    Load,
    bring_slabs,
    over_pieces,
    over_windows,
    store,
    take,
    take_piece,
    take_slabs,
    zeros,
)


def backward_bytes(dtype: str, param_dtypes: tuple[str, ...], plan: Plan, residual: bool) -> tuple[int, int]:
    """Shared memory of an element of a row, x and its cotangents, and of a column, a parameter and a sum."""
    of_x = jnp.dtype(dtype).itemsize
    of_columns = sum(jnp.dtype(p).itemsize for p in param_dtypes) + 4 * _sums(plan) + 4 * plan.given
    return of_x * (1 + residual) + jnp.dtype(plan.output_dtype).itemsize, of_columns


def _sums(plan: Plan) -> int:
    return 1 + plan.shifted


def backward_rows(
    shape: tuple[int, ...], dtype: str, param_dtypes: tuple[str, ...], plan: Plan, residual: bool
) -> Rows | str:
    """How rows are shared out among programs, or why they are not."""
    size_bytes = shape[0] * shape[1] * jnp.dtype(dtype).itemsize
    partial_bytes = (4 if plan.given else _sums(plan)) * 4 * shape[1]
    of_row, of_column = backward_bytes(dtype, param_dtypes, plan, residual)
    return rows_of(shape[0], shape[1], of_row, of_column, (size_bytes, partial_bytes))


def backward(saved: tuple, dy: jax.Array, dz: jax.Array | None, plan: Plan) -> tuple:
    """Returns dw and the gradients of the parameters; `saved` is (w, parameters, mean, r), the latter None if given."""
    w, parameters, mean, r = saved
    tensors = (w, dy) if dz is None else (w, dy, dz)
    statistics = tuple(array for array in (r, mean) if array is not None)
    dtypes = tuple(parameter.dtype.name for parameter in parameters)
    rows = backward_rows(w.shape, w.dtype.name, dtypes, plan, dz is not None)
    assert isinstance(rows, Rows), rows
    runs, of_vectors = rows.runs, rows.of_vectors()
    partials = jax.ShapeDtypeStruct((rows.programs * rows.columns,), jnp.float32)
    out = (jax.ShapeDtypeStruct((w.size,), w.dtype), *(partials,) * len(parameters))
    scratch = (
        *(mosaic_shared((runs.size,), tensor.dtype) for tensor in tensors),
        *(mosaic_shared((rows.vector,), parameter.dtype) for parameter in parameters),
        *(mosaic_shared((rows.vector,), jnp.float32) for _ in range(_sums(plan) + plan.given)),
        mosaic_barrier(max(1, runs.copies(*(tensor.dtype for tensor in tensors)))),
        mosaic_barrier(max(1, of_vectors.copies(*(parameter.dtype for parameter in parameters)))),
        mosaic_barrier(max(1, of_vectors.copies(*(jnp.float32,) * _sums(plan)))),
    )
    # Of a row that comes in pieces, tensors are read again, and the sums in device memory grow with each row.
    grown = () if runs.resident or plan.given else (jax.ShapeDtypeStruct((w.size,), jnp.float32),) * _sums(plan)
    again = () if runs.resident or plan.given else (*tensors, *grown)
    dw, *found = mosaic_call(
        partial(_kernel, plan=plan, rows=rows, tensors=len(tensors), parameters=len(parameters)),
        grid=rows.programs,
        out=out,
        scratch=scratch,
        name=f"{plan.name}_backward",
        cost=cost((*tensors, *statistics, *parameters), (*out, *grown), again),
    )(*(tensor.reshape(-1) for tensor in tensors), *statistics, *parameters)
    by_program = [array.reshape(rows.programs, -1) for array in found]
    return dw.reshape(w.shape), sum_partials(by_program, parameters)


def _kernel(*refs: Any, plan: Plan, rows: Rows, tensors: int, parameters: int) -> None:
    known = 0 if plan.given else 1 + plan.centered
    count = tensors + known + parameters
    inputs, (dw_ref, *found), scratch = (
        refs[:count],
        refs[count : count + 1 + parameters],
        refs[count + 1 + parameters :],
    )
    places, vectors = scratch[:tensors], scratch[tensors : tensors + parameters]
    *sums, arrived, vectors_arrived, sums_arrived = scratch[tensors + parameters :]
    runs, program = rows.runs, mosaic_program()
    work = sums[_sums(plan) :]
    sums = sums[: _sums(plan)]
    along = rows.vectors(tuple(zip(inputs[tensors + known :], vectors, strict=True)), vectors_arrived)

    def mine(slab):
        return program * rows.columns

    kept = Load(tuple(zip(found, sums, strict=False)), mine, sums_arrived)
    if plan.given and not runs.resident:
        tensors_of = partial(load_of, rows, tuple(zip(inputs[:tensors], places, strict=True)), arrived)
        given_in_pieces(rows, tensors_of, along, sums, work[0], (dw_ref, found), plan)
        return
    _begin(rows, along, kept)

    def of_block(index, carry):
        load = load_of(rows, tuple(zip(inputs[:tensors], places, strict=True)), arrived, index)
        if runs.resident:
            bring_slabs(runs, load)
            load.wait(runs)

        def of_slab(slab, carry):
            row = rows.row(program + index * rows.programs, slab)
            r = inputs[tensors][row] if known else 0.0
            mean = inputs[tensors + 1][row] if known == 2 else 0.0
            _one_row(slab, (load, along, kept), (places, vectors, sums), dw_ref, (mean, 0.0, r), plan, rows)
            return carry

        jax.lax.fori_loop(0, runs.count, of_slab, 0)
        if runs.resident:
            take_slabs(runs, Load(((dw_ref, places[0]),), load.starts, arrived))
        return carry

    jax.lax.fori_loop(0, blocks_of(rows), of_block, 0)
    if plan.given:
        finish_given(rows, vectors, sums, work[0], partial(_leave, rows), found, plan)
    elif runs.resident:
        for source, ref in zip(sums, found, strict=True):
            _leave(rows, source, ref)


def _begin(rows: Rows, along: Load, kept: Load) -> None:
    """Brings the vectors, where they stay, and sets the sums to zero."""
    runs = rows.runs
    if runs.resident:
        bring_slabs(rows.of_vectors(), along)

    def of_piece(piece, carry):
        clear(rows, tuple(target for _, target in kept.pairs), piece)
        if not runs.resident:
            take_piece(runs, kept.starts(0), piece, tuple((target, ref) for ref, target in kept.pairs))
        return carry

    jax.lax.fori_loop(0, runs.pieces, of_piece, 0)
    if runs.resident:
        along.wait(rows.of_vectors())


def _one_row(slab, loads, shared, dw_ref, statistics, plan: Plan, rows: Rows) -> None:
    """dw takes the place of w; the sums for the parameters grow."""
    load, along, kept = loads
    (w, dy, *others), vectors, sums = shared
    runs, r = rows.runs, statistics[2]

    def pull(window):
        """h, the cotangent of act's argument, and that of h."""
        h, z = normalized(w[window.at].astype(jnp.float32), window, vectors, statistics, plan)
        dz = dy[window.at].astype(jnp.float32)
        if plan.activation != "none":
            dz = differentiate(z, dz, plan.activation)
        return h, dz, dz * plan.form.scale(vectors[0][window.of_vector].astype(jnp.float32))

    def grow(window, h, dz):
        at = window.of_vector
        sums[0][at] = sums[0][at] + window.keep(dz * plan.form.rounded_in_mosaic(h), 0.0)
        if plan.shifted:
            sums[1][at] = sums[1][at] + window.keep(dz, 0.0)

    if plan.given:
        over_windows(runs, slab, 0, partial(given_window, (w, dy), vectors, sums, plan), 0)
        return

    def visit(slab, piece, lanes):
        def step(window, lanes):
            h, dz, dh = pull(window)
            grow(window, h, dz)
            return lanes[0] + window.keep(dh, 0.0), lanes[1] + window.keep(dh * h, 0.0)

        lanes = over_windows(runs, slab, piece, step, lanes)
        if not runs.resident:
            take_piece(runs, kept.starts(0), piece, tuple((target, ref) for ref, target in kept.pairs))
        return lanes

    sum_dh, sum_dh_h = over_pieces(runs, (load, along, kept), slab, visit, (zeros(runs), zeros(runs)))
    mean_dh = jnp.sum(sum_dh) / rows.columns if plan.centered else 0.0
    mean_dh_h = jnp.sum(sum_dh_h) / rows.columns

    def write(slab, piece, carry):
        def step(window, carry):
            h, _, dh = pull(window)
            dw = r * (dh - mean_dh - h * mean_dh_h)
            store(w, window, dw + others[0][window.at].astype(jnp.float32) if others else dw)
            return carry

        over_windows(runs, slab, piece, step, 0)
        if not runs.resident:
            take_piece(runs, load.starts(slab), piece, ((w, dw_ref),))
        return carry

    over_pieces(runs, (load, along), slab, write, 0)


def _leave(rows: Rows, source: Any, ref: Any) -> None:
    """A program's sums, to device memory."""
    bulk = rows.of_vectors().copied_in_bulk(jnp.float32)
    mosaic_settle()
    take(source, 0, ref, mosaic_program() * rows.columns, rows.columns, bulk)
    mosaic_await_sent()
