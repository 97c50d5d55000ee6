"""Layer norm and RMS norm backward: dx and the gradients of the parameters in one or two launches.

With dh the cotangent of h, r = 1 / deviation and E the mean over the row:

    dw = r (dh - E[dh] - h E[dh h])      (RMS norm: without E[dh])

A program walks over rows that it holds in registers, and keeps a sum in float32 for each parameter and column; what the
programs found is added up in a second launch. Rows that do not fit are streamed: the first launch makes E[dh] and
E[dh h], the second dx and, each program for columns of its own and all the rows, the gradients of the parameters.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from kernels.pallas.cost import cost
from kernels.pallas.partials import sum_partials
from kernels.pallas.pointwise import gradients
from kernels.pallas.rows import RowPlan, load_extras
from kernels.pallas.rows_config import RowConfig, backward_config, column_config
from kernels.pallas.tiles import (
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
from kernels.pallas.tuning import problem_key, tuned
from normbench.jax_compat_triton import triton_call, triton_program_id, triton_store


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
    return (_resident if config.resident else _streamed)(saved, dy, dz, plan, config)


def _inputs(saved, dy, dz, plan):
    """Flat inputs, in the order in which the kernels take them apart."""
    w, extras, mean, r = saved
    arrays = (w, dy, *(() if dz is None else (dz,)), *extras, *((mean,) if plan.centered else ()), r)
    return [array.reshape(-1) for array in arrays]


def _resident(saved, dy, dz, plan, config):
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
    columns = [
        columns_from(k * config.chunk, config.chunk, config.columns, (k + 1) * config.chunk > config.columns)
        for k in range(config.chunks)
    ]

    program = triton_program_id()  # outside the loop: interpreted, a loop has no programs

    def step(index, sums):
        first = (index * config.programs + program) * config.step_rows
        groups = [
            rows_from(first + u * config.block_rows, config.block_rows, config.rows, config.masks_rows)
            for u in range(config.unroll)
        ]
        # Every load of the step before any arithmetic, so that all of them are in flight together.
        loaded = [[_load(r, rows, c, config) for c in columns] for rows in groups]
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


def _load(r: _Refs, rows: Rows, c: Columns, config: RowConfig):
    return tuple(load_tile(ref, rows, c, config.columns, "evict_first") for ref in (r.w, r.dy))


def _group(r, rows, columns, tiles, sums, plan, config):
    """Gradients of one group of rows that is at hand; returns the sums for the parameters."""
    mean, rstd = _statistics(r, rows, plan)
    mean_dh: Any = 0
    mean_dh_h: Any = 0
    added = []
    for (w, dy), c in zip(tiles, columns, strict=True):
        h, pulled = _pull(r, rows, c, w, dy, mean, rstd, plan, config.columns)
        mean_dh += row_sum(pulled[0]) if plan.centered else 0
        mean_dh_h += row_sum(pulled[0] * h)
        added += pulled[1 : 1 + plan.vectors]
        for ref, value in zip(r.outputs[1:], pulled[1 + plan.vectors :], strict=False):
            store_tile(ref, rows, c, config.columns, value)
    mean_dh, mean_dh_h = mean_dh / config.columns, mean_dh_h / config.columns
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
    # Vectors as whole tiles: their cotangents then are not summed over rows here, but once at the end.
    extras = [jnp.broadcast_to(array, h.shape) for array in extras]
    mask = mask_of(Rows(rows.numbers, None), c)
    return h, [where(mask, value) for value in gradients(plan.post, (h, *extras), dy.astype(dtype))]


def _store(r: _Refs, rows: Rows, c: Columns, dw: jax.Array, width: int) -> None:
    if r.dz is not None:
        dw = dw + load_tile(r.dz, rows, c, width, "evict_first").astype(dw.dtype)
    store_tile(r.outputs[0], rows, c, width, dw)


def _streamed(saved, dy, dz, plan, config):
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
        w, dy = _load(r, rows, c, config)
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
