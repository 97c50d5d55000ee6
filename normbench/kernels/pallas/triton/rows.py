"""Layer norm and RMS norm forward: one launch, whatever the length of the rows.

Backward: dx and the gradients of the parameters in one or two launches. With dh the cotangent of h, r = 1 / deviation
and E the mean over the row:

    dw = r (dh - E[dh] - h E[dh h])      (RMS norm: without E[dh])

A program walks over rows that it holds in registers, and keeps a sum in float32 for each parameter and column; what the
programs found is added up in a second launch. Rows that do not fit are streamed: the first launch makes E[dh] and
E[dh h], the second dx and, each program for columns of its own and all the rows, the gradients of the parameters.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from normbench.jax_compat.triton import triton_call, triton_program_id, triton_store
from normbench.kernels.common.pointwise import gradients
from normbench.kernels.pallas.cost import cost
from normbench.kernels.pallas.hardware import VECTOR_BYTES, WARP
from normbench.kernels.pallas.triton.partial_sums import sum_partials
from normbench.kernels.pallas.triton.rows_config import RowConfig, backward_config, column_config, forward_config
from normbench.kernels.pallas.triton.tiles import (
    Columns,
    Rows,
    columns_from,
    load_column,
    load_tile,
    mask_of,
    row_sum,
    rows_from,
    span,
    store_column,
    store_tile,
    where,
)
from normbench.kernels.pallas.tuning import problem_key, tuned


@dataclass(frozen=True, slots=True)
class RowPlan:
    """What is computed: h = (w - mean) r with w = x or x + residual, and y = post(h, *vectors, *tensors).

    Attributes:
      name: of the kernels.
      centered: False for RMS norm, whose mean is 0.
      epsilon: r = 1 / sqrt(E[(w - mean)²] + epsilon).
      post: elementwise, in the dtype of the arithmetic; the affine, the activation and whatever follows.
      affine: True where `post` is an affine and no more.
      vectors, tensors: how many of each.
      output_dtype: of y.
      dtype: of the arithmetic.
    """

    name: str
    centered: bool
    epsilon: float
    post: Callable[..., jax.Array]
    affine: bool
    vectors: int
    tensors: int
    output_dtype: str
    dtype: str


def forward(x: jax.Array, residual: jax.Array | None, extras: tuple, plan: RowPlan, save: bool) -> tuple:
    """Returns (y, z, mean, r): z = x + residual or None; mean (None where not centered) and r only with `save`.

    Args:
      x: (rows, columns).
      residual: as x, or None.
      extras: the vectors, (columns,), and then the tensors, as x.
      plan: what is computed.
      save: whether a backward pass will need mean and r.
    """
    rows, columns = x.shape
    key = problem_key(f"{plan.name}.forward", (rows, columns), x.dtype.name)
    config = tuned(forward_config(rows, columns, x.dtype.name), key)
    y = jax.ShapeDtypeStruct((x.size,), jnp.dtype(plan.output_dtype))
    z = (jax.ShapeDtypeStruct((x.size,), x.dtype),) * (residual is not None)
    statistics = (jax.ShapeDtypeStruct((rows,), jnp.dtype(plan.dtype)),) * (save * (1 + plan.centered))
    out = (y, *z, *statistics)
    inputs = [array.reshape(-1) for array in (x, *(() if residual is None else (residual,)), *extras)]
    # A streamed row is read again: x, or the z that has been written.
    again = () if config.resident else (x,)
    launch = triton_call(
        partial(_kernel, plan=plan, config=config, residual=residual is not None, save=save),
        grid=config.programs,
        out=out,
        warps=config.warps,
        name=f"{plan.name}_forward",
        cost=cost(inputs, out, again, flops=8 * x.size),
    )
    y, *others = launch(*inputs)
    sums = others.pop(0).reshape(x.shape) if residual is not None else None
    mean = others.pop(0) if save and plan.centered else None
    return y.reshape(x.shape), sums, mean, others.pop(0) if save else None


def _kernel(*refs: Any, plan: RowPlan, config: RowConfig, residual: bool, save: bool) -> None:
    end = 1 + residual + plan.vectors + plan.tensors
    inputs, outputs = refs[:end], refs[end:]
    rows = rows_from(
        triton_program_id() * config.block_rows, config.block_rows, config.rows, config.rows % config.block_rows != 0
    )
    body = _resident if config.resident else _streamed
    mean, r = body(inputs, outputs, rows, plan, config, residual)
    if save:
        if plan.centered:
            store_column(outputs[-2], rows, mean)
        store_column(outputs[-1], rows, r)


def _resident(inputs, outputs, rows, plan, config, residual):
    """The rows stay in registers between the two passes over them."""
    dtype = jnp.dtype(plan.dtype)
    columns = _all_columns(config)
    tiles = [_load(inputs, outputs, rows, c, config, residual, "evict_first") for c in columns]
    # Added up tile by tile in each thread, and across threads once for a row.
    near = row_sum(sum(tile.astype(dtype) for tile in tiles)) / config.columns if plan.centered else 0
    left: Any = 0
    squares: Any = 0
    for tile, c in zip(tiles, columns, strict=True):
        centered = where(mask_of(rows, c) if plan.centered else None, tile.astype(dtype) - near)
        left += centered if plan.centered else 0
        squares += jnp.square(centered)
    left, squares = (row_sum(left) if plan.centered else 0), row_sum(squares)
    # What the rounding of the mean has left of it: taken away, the error is that of one rounding whatever the mean.
    offset = left / config.columns
    r = jax.lax.rsqrt(jnp.maximum(squares / config.columns - offset * offset, 0) + plan.epsilon)
    for tile, c in zip(tiles, columns, strict=True):
        _write(inputs, outputs, rows, c, (tile.astype(dtype) - near - offset) * r, plan, config, residual)
    return near + offset, r


def _streamed(inputs, outputs, rows, plan, config, residual):
    """Each lane follows its own mean and squared deviations by Welford's update; they are put together at the end.

    All of them are of x - p, p the mean of the row's first tile: lanes round the mean of what is left, not of x.
    """
    dtype = jnp.dtype(plan.dtype)
    shape = (config.block_rows, config.chunk)
    whole = config.columns // config.chunk

    def load(k, masked):
        c = columns_from(k * config.chunk, config.chunk, config.columns, masked)
        return c, _load(inputs, outputs, rows, c, config, residual, "evict_last").astype(dtype)

    _, first = load(0, False)
    pivot = row_sum(first) / config.chunk if plan.centered else 0

    def update(k, carry, masked=False):
        mean, squares = carry
        c, tile = load(k, masked)
        mask = mask_of(rows, c) if masked else None
        if not plan.centered:
            return mean, squares + jnp.square(tile)
        shifted = tile - pivot
        delta = where(mask, shifted - mean)
        mean = mean + delta / (jnp.asarray(k, dtype) + 1)
        return mean, squares + where(mask, delta * (shifted - mean))

    zero = jnp.zeros(shape, dtype)
    begun = (first - pivot, zero) if plan.centered else (zero, jnp.square(first))
    means, squares = jax.lax.fori_loop(1, whole, update, begun)
    ragged = whole < config.chunks
    if ragged:
        means, squares = update(whole, (means, squares), masked=True)
    mean: Any = 0
    if plan.centered:
        in_last = columns_from(whole * config.chunk, config.chunk, config.columns, True).mask[None, :]
        terms = whole + in_last.astype(dtype)
        mean = row_sum(terms * means) / config.columns
        squares = squares + terms * jnp.square(means - mean)
    r = jax.lax.rsqrt(row_sum(squares) / config.columns + plan.epsilon)

    def write(k, masked=False):
        c = columns_from(k * config.chunk, config.chunk, config.columns, masked)
        source = outputs[1] if residual else inputs[0]
        tile = load_tile(source, rows, c, config.columns, "evict_first").astype(dtype)
        _write(inputs, outputs, rows, c, (tile - pivot - mean) * r, plan, config, residual)

    def step(k, carry):
        write(k)
        return carry

    jax.lax.fori_loop(0, whole, step, 0)
    if ragged:
        write(whole, masked=True)
    return pivot + mean, r


def _all_columns(config: RowConfig) -> list[Columns]:
    starts = range(0, config.columns, config.chunk)
    return [columns_from(k, config.chunk, config.columns, k + config.chunk > config.columns) for k in starts]


def _load(inputs, outputs, rows: Rows, c, config, residual, eviction):
    """A tile of x, or of z = x + residual in x's dtype, which is written."""
    tile = load_tile(inputs[0], rows, c, config.columns, eviction)
    if residual:
        tile = tile + load_tile(inputs[1], rows, c, config.columns, "evict_first")
        store_tile(outputs[1], rows, c, config.columns, tile)
    return tile


def _write(inputs, outputs, rows, c, h, plan, config, residual):
    item = inputs[0].dtype.itemsize
    many = config.block_rows * config.chunk * item >= MANY_VECTORS * VECTOR_BYTES * WARP * config.warps
    once = many and config.block_rows > 1 and not plan.affine and config.columns * item % VECTOR_BYTES == 0
    extras = load_extras(inputs[1 + residual :], rows, c, plan, config.columns, once)
    store_tile(outputs[0], rows, c, config.columns, plan.post(h, *extras))


MANY_VECTORS = 4
"""Of each thread in a tile of several rows: beside an activation, a vector for each row costs more than barriers."""


def load_extras(refs, rows, c, plan: RowPlan, width: int, once: bool = False) -> list[jax.Array]:
    """The vectors and the tensors of a tile, in the dtype of the arithmetic. Each thread loads of a vector what it has
    columns of; `once` it comes by other threads, through shared memory."""
    first = Rows(span(1 if once else rows.numbers.size) * 0, None)
    vectors = [load_tile(ref, first, c, width, "evict_last") for ref in refs[: plan.vectors]]
    tensors = [
        load_tile(ref, rows, c, width, "evict_first") for ref in refs[plan.vectors : plan.vectors + plan.tensors]
    ]
    return [array.astype(plan.dtype) for array in (*vectors, *tensors)]


def backward(saved: tuple, dy: jax.Array, dz: jax.Array | None, plan: RowPlan) -> tuple:
    """Returns dw and the gradients of the vectors and of the tensors.

    Args:
      saved: (w, extras, mean, r): what was normalized, the vectors and the tensors, and what `forward` saved.
      dy, dz: cotangents of y and, with a residual, of z.
      plan: what was computed.
    """
    w = saved[0]
    rows, columns = w.shape
    key = problem_key(f"{plan.name}.backward", (rows, columns), w.dtype.name)
    config = tuned(backward_config(rows, columns, w.dtype.name, plan.vectors, plan.affine), key)
    return (_resident_backward if config.resident else _streamed_backward)(saved, dy, dz, plan, config)


def _inputs(saved, dy, dz, plan):
    """Flat inputs, in the order in which the kernels take them apart."""
    w, extras, mean, r = saved
    arrays = (w, dy, *(() if dz is None else (dz,)), *extras, *((mean,) if plan.centered else ()), r)
    return [array.reshape(-1) for array in arrays]


def _resident_backward(saved, dy, dz, plan, config):
    w, extras, _, _ = saved
    inputs = _inputs(saved, dy, dz, plan)
    single = config.programs == 1
    wide = jnp.dtype(plan.dtype)
    vectors, tensors = extras[: plan.vectors], extras[plan.vectors :]
    sums = [
        jax.ShapeDtypeStruct((config.programs * config.columns,), vector.dtype if single else wide)
        for vector in vectors
    ]
    out = (*(jax.ShapeDtypeStruct((w.size,), a.dtype) for a in (w, *tensors)), *sums)
    found = triton_call(
        partial(_resident_kernel, plan=plan, config=config, added=dz is not None),
        grid=config.programs,
        out=out,
        warps=config.warps,
        name=f"{plan.name}_backward",
        cost=cost(inputs, out, flops=16 * w.size),
    )(*inputs)
    dw, *dtensors = (array.reshape(w.shape) for array in found[: 1 + plan.tensors])
    partials = found[1 + plan.tensors :]
    if not single and partials:
        shape = config.programs, config.columns
        partials = sum_partials([p.reshape(shape) for p in partials], [v.dtype.name for v in vectors])
    return dw, (*partials, *dtensors)


class _Refs:
    """The references of a backward kernel by what they are."""

    def __init__(self, refs, plan: RowPlan, added: bool, results: int):
        inputs = list(refs[: len(refs) - results])
        self.outputs = refs[len(refs) - results :]
        self.w, self.dy = inputs[:2]
        self.dz = inputs[2] if added else None
        end = 2 + added + plan.vectors + plan.tensors
        self.extras = inputs[2 + added : end]
        self.mean = inputs[end] if plan.centered else None
        self.r = inputs[end + plan.centered]
        self.rest = inputs[end + plan.centered + 1 :]


def _resident_kernel(*refs: Any, plan: RowPlan, config: RowConfig, added: bool) -> None:
    r = _Refs(refs, plan, added, 1 + plan.tensors + plan.vectors)
    columns = _all_columns(config)
    program = triton_program_id()  # outside the loop: interpreted, a loop has no programs

    def step(index, sums):
        first = (index * config.programs + program) * config.step_rows
        groups = [
            rows_from(first + u * config.block_rows, config.block_rows, config.rows, config.masks_rows)
            for u in range(config.unroll)
        ]
        # Every load of the step before any arithmetic, so that all of them are in flight together.
        loaded = [[_load_backward(r, rows, c, config) for c in columns] for rows in groups]
        for rows, tiles in zip(groups, loaded, strict=True):
            sums = _group(r, rows, columns, tiles, sums, plan, config)
        return sums

    zero = jnp.zeros((config.block_rows, config.chunk), jnp.dtype(plan.dtype))
    sums = jax.lax.fori_loop(0, config.steps, step, (zero,) * (config.chunks * plan.vectors))
    for k, c in enumerate(columns):
        index = program * config.columns + c.numbers
        for v in range(plan.vectors):
            ref = r.outputs[1 + plan.tensors + v]
            triton_store(ref, index, sums[k * plan.vectors + v].sum(0).astype(ref.dtype), c.mask)


def _load_backward(r: _Refs, rows: Rows, c: Columns, config: RowConfig):
    return tuple(load_tile(ref, rows, c, config.columns, "evict_first") for ref in (r.w, r.dy))


def _group(r, rows, columns, tiles, sums, plan, config):
    """Gradients of one group of rows that is at hand; returns the sums for the parameters."""
    mean, rstd = _statistics(r, rows, plan)
    mean_dh: Any = 0
    mean_dh_h: Any = 0
    added = []
    for (w, dy), c in zip(tiles, columns, strict=True):
        h, pulled = _pull(r, rows, c, w, dy, mean, rstd, plan, config.columns)
        mean_dh += pulled[0] if plan.centered else 0
        mean_dh_h += pulled[0] * h
        added += pulled[1 : 1 + plan.vectors]
        for ref, value in zip(r.outputs[1:], pulled[1 + plan.vectors :], strict=False):
            store_tile(ref, rows, c, config.columns, value)
    # Across the threads once for a row, not for each of its tiles.
    mean_dh = row_sum(mean_dh) / config.columns if plan.centered else 0
    mean_dh_h = row_sum(mean_dh_h) / config.columns
    for (w, dy), c in zip(tiles, columns, strict=True):
        h, pulled = _pull(r, rows, c, w, dy, mean, rstd, plan, config.columns)
        _store(r, rows, c, rstd * (pulled[0] - mean_dh - h * mean_dh_h), config.columns)
    return tuple(s + a for s, a in zip(sums, added, strict=True))


def _statistics(r: _Refs, rows: Rows, plan: RowPlan):
    return (load_column(r.mean, rows) if plan.centered else 0), load_column(r.r, rows)


def _pull(r, rows, c, w, dy, mean, rstd, plan, width):
    """h, and the cotangents of h, of the vectors and of the tensors, each as a whole tile."""
    dtype = jnp.dtype(plan.dtype)
    h = (w.astype(dtype) - mean) * rstd
    extras = load_extras(r.extras, rows, c, plan, width)
    mask = mask_of(Rows(rows.numbers, None), c)
    return h, [where(mask, value) for value in gradients(plan.post, (h, *extras), dy.astype(dtype))]


def _store(r: _Refs, rows: Rows, c: Columns, dw: jax.Array, width: int) -> None:
    if r.dz is not None:
        dw = dw + load_tile(r.dz, rows, c, width, "evict_first").astype(dw.dtype)
    store_tile(r.outputs[0], rows, c, width, dw)


def _streamed_backward(saved, dy, dz, plan, config):
    w, extras, _, _ = saved
    wide = jnp.dtype(plan.dtype)
    inputs = _inputs(saved, dy, None, plan)
    means = (jax.ShapeDtypeStruct((config.rows,), wide),) * (1 + plan.centered)
    found = triton_call(
        partial(_sums_kernel, plan=plan, config=config),
        grid=config.programs,
        out=means,
        warps=config.warps,
        name=f"{plan.name}_backward_sums",
        cost=cost(inputs, means, flops=8 * w.size),
    )(*inputs)
    by_column = column_config(config.rows, config.columns, w.dtype.name)
    vectors, tensors = extras[: plan.vectors], extras[plan.vectors :]
    out = (
        *(jax.ShapeDtypeStruct((w.size,), a.dtype) for a in (w, *tensors)),
        *(jax.ShapeDtypeStruct((config.columns,), vector.dtype) for vector in vectors),
    )
    inputs = [*_inputs(saved, dy, dz, plan), *found]
    gradients_ = triton_call(
        partial(_columns_kernel, plan=plan, config=by_column, added=dz is not None),
        grid=by_column.chunks,
        out=out,
        warps=by_column.warps,
        name=f"{plan.name}_backward_columns",
        cost=cost(inputs, out, flops=16 * w.size),
    )(*inputs)
    dw, *dtensors = (array.reshape(w.shape) for array in gradients_[: 1 + plan.tensors])
    return dw, (*gradients_[1 + plan.tensors :], *dtensors)


def _sums_kernel(*refs: Any, plan: RowPlan, config: RowConfig) -> None:
    r = _Refs(refs, plan, False, 1 + plan.centered)
    rows = Rows(triton_program_id() + span(1), None)
    mean, rstd = _statistics(r, rows, plan)

    def update(k, sums, masked=False):
        c = columns_from(k * config.chunk, config.chunk, config.columns, masked)
        w, dy = (load_tile(ref, rows, c, config.columns, "evict_last") for ref in (r.w, r.dy))
        h, pulled = _pull(r, rows, c, w, dy, mean, rstd, plan, config.columns)
        return sums[0] + pulled[0] * h, sums[1] + pulled[0] if plan.centered else sums[1]

    whole = config.columns // config.chunk
    zero = jnp.zeros((1, config.chunk), jnp.dtype(plan.dtype))
    sums = jax.lax.fori_loop(0, whole, update, (zero, zero))
    if whole < config.chunks:
        sums = update(whole, sums, masked=True)
    for ref, values in zip(r.outputs, sums, strict=False):
        store_column(ref, rows, row_sum(values) / config.columns)


def _columns_kernel(*refs: Any, plan: RowPlan, config: RowConfig, added: bool) -> None:
    r = _Refs(refs, plan, added, 1 + plan.tensors + plan.vectors)
    c = columns_from(
        triton_program_id() * config.chunk, config.chunk, config.columns, config.columns % config.chunk != 0
    )

    def step(index, sums):
        rows = rows_from(index * config.block_rows, config.block_rows, config.rows, config.masks_rows)
        w, dy = _load_backward(r, rows, c, config)
        mean, rstd = _statistics(r, rows, plan)
        h, pulled = _pull(r, rows, c, w, dy, mean, rstd, plan, config.columns)
        mean_dh_h = load_column(r.rest[0], rows)
        mean_dh = load_column(r.rest[1], rows) if plan.centered else 0
        _store(r, rows, c, rstd * (pulled[0] - mean_dh - h * mean_dh_h), config.columns)
        for ref, value in zip(r.outputs[1:], pulled[1 + plan.vectors :], strict=False):
            store_tile(ref, rows, c, config.columns, value)
        return tuple(s + a for s, a in zip(sums, pulled[1:], strict=False))

    zero = jnp.zeros((config.block_rows, config.chunk), jnp.dtype(plan.dtype))
    sums = jax.lax.fori_loop(0, config.steps, step, (zero,) * plan.vectors)
    for ref, values in zip(r.outputs[1 + plan.tensors :], sums, strict=True):
        triton_store(ref, c.numbers, values.sum(0).astype(ref.dtype), c.mask)
