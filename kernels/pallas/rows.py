"""Layer norm and RMS norm forward: one launch, whatever the length of the rows."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from kernels.pallas.cost import cost
from kernels.pallas.rows_config import RowConfig, forward_config
from kernels.pallas.tiles import (
    Rows,
    columns_from,
    load_row,
    load_tile,
    mask_of,
    row_sum,
    rows_from,
    store_column,
    store_tile,
    where,
)
from kernels.pallas.tuning import problem_key, tuned
from normbench.jax_compat_triton import triton_call, triton_program_id


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
        cost=cost(inputs, out, again, flops=8 * x.size, transcendentals=rows),
    )
    y, *others = launch(*inputs)
    sums = others.pop(0).reshape(x.shape) if residual is not None else None
    mean = others.pop(0) if save and plan.centered else None
    return y.reshape(x.shape), sums, mean, others.pop(0) if save else None


def _kernel(*refs: Any, plan: RowPlan, config: RowConfig, residual: bool, save: bool) -> None:
    inputs, outputs = (
        refs[: 1 + residual + plan.vectors + plan.tensors],
        refs[1 + residual + plan.vectors + plan.tensors :],
    )
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
    columns = [_columns(k * config.chunk, config, k) for k in range(config.chunks)]
    tiles = [_load(inputs, outputs, rows, c, config, residual, "evict_first") for c in columns]
    mean = sum(row_sum(tile.astype(dtype)) for tile in tiles) / config.columns if plan.centered else 0
    squares = 0
    for tile, c in zip(tiles, columns, strict=True):
        centered = tile.astype(dtype) - mean
        squares += row_sum(jnp.square(where(mask_of(rows, c) if plan.centered else None, centered)))
    r = jax.lax.rsqrt(squares / config.columns + plan.epsilon)
    for tile, c in zip(tiles, columns, strict=True):
        _write(inputs, outputs, rows, c, (tile.astype(dtype) - mean) * r, plan, config, residual)
    return mean, r


def _streamed(inputs, outputs, rows, plan, config, residual):
    """Each lane follows its own mean and squared deviations by Welford's update; they are put together at the end."""
    dtype = jnp.dtype(plan.dtype)
    shape = (config.block_rows, config.chunk)
    whole = config.columns // config.chunk

    def load(k, masked):
        c = columns_from(k * config.chunk, config.chunk, config.columns, masked)
        return c, _load(inputs, outputs, rows, c, config, residual, "evict_last").astype(dtype)

    def update(k, carry, masked=False):
        mean, squares = carry
        c, tile = load(k, masked)
        mask = mask_of(rows, c) if masked else None
        if not plan.centered:
            return mean, squares + jnp.square(tile)
        delta = where(mask, tile - mean)
        mean = mean + delta / (jnp.asarray(k, dtype) + 1)
        return mean, squares + where(mask, delta * (tile - mean))

    zero = jnp.zeros(shape, dtype)
    means, squares = jax.lax.fori_loop(0, whole, update, (zero, zero))
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
        _write(inputs, outputs, rows, c, (tile - mean) * r, plan, config, residual)

    def step(k, carry):
        write(k)
        return carry

    jax.lax.fori_loop(0, whole, step, 0)
    if ragged:
        write(whole, masked=True)
    return mean, r


def _columns(first: Any, config: RowConfig, k: int):
    return columns_from(first, config.chunk, config.columns, (k + 1) * config.chunk > config.columns)


def _load(inputs, outputs, rows: Rows, c, config, residual, eviction):
    """A tile of x, or of z = x + residual in x's dtype, which is written."""
    tile = load_tile(inputs[0], rows, c, config.columns, eviction)
    if residual:
        tile = tile + load_tile(inputs[1], rows, c, config.columns, "evict_first")
        store_tile(outputs[1], rows, c, config.columns, tile)
    return tile


def _write(inputs, outputs, rows, c, h, plan, config, residual):
    extras = load_extras(inputs[1 + residual :], rows, c, plan, config.columns)
    store_tile(outputs[0], rows, c, config.columns, plan.post(h, *extras))


def load_extras(refs, rows, c, plan: RowPlan, width: int) -> list[jax.Array]:
    """The vectors and the tensors of a tile, in the dtype of the arithmetic."""
    vectors = [load_row(ref, c) for ref in refs[: plan.vectors]]
    tensors = [
        load_tile(ref, rows, c, width, "evict_first") for ref in refs[plan.vectors : plan.vectors + plan.tensors]
    ]
    return [array.astype(plan.dtype) for array in (*vectors, *tensors)]
