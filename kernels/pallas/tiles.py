"""Tiles of a matrix inside a Pallas Triton kernel: indices, masks, loads and stores."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from normbench.jax_compat_triton import triton_load, triton_store


class Rows(NamedTuple):
    """Row numbers of a tile, and which of them exist (None: all)."""

    index: jax.Array
    mask: jax.Array | None


class Columns(NamedTuple):
    """Column numbers of a tile, and which of them exist (None: all)."""

    index: jax.Array
    mask: jax.Array | None


def span(size: int) -> jax.Array:
    return jax.lax.iota(jnp.int32, size)


def rows_from(first: Any, block_rows: int, rows: int, masked: bool) -> Rows:
    index = first + span(block_rows)
    return Rows(index, index < rows if masked else None)


def columns_from(first: Any, chunk: int, columns: int, masked: bool) -> Columns:
    index = first + span(chunk)
    return Columns(index, index < columns if masked else None)


def mask_of(rows: Rows, columns: Columns) -> jax.Array | None:
    """The mask of the tile; along a row it changes only where columns end, so that it splits no vector elsewhere."""
    if rows.mask is None and columns.mask is None:
        return None
    if rows.mask is None:
        return jnp.broadcast_to(columns.mask[None, :], (rows.index.size, columns.index.size))
    row_mask = jnp.broadcast_to(rows.mask[:, None], (rows.index.size, columns.index.size))
    return row_mask if columns.mask is None else row_mask & columns.mask[None, :]


def load_tile(reference: Any, rows: Rows, columns: Columns, width: int, eviction: str | None = None) -> jax.Array:
    """A tile of a matrix of `width` columns that is stored flat; zero where there is none."""
    index = (rows.index * width)[:, None] + columns.index[None, :]
    return triton_load(reference, index, mask_of(rows, columns), eviction)


def store_tile(reference: Any, rows: Rows, columns: Columns, width: int, value: jax.Array) -> None:
    """Stores in the dtype of the matrix."""
    index = (rows.index * width)[:, None] + columns.index[None, :]
    triton_store(reference, index, value.astype(reference.dtype), mask_of(rows, columns))


def load_row(reference: Any, columns: Columns) -> jax.Array:
    """Values by column, as a tile of one row; kept in the caches, as every program needs them."""
    return triton_load(reference, columns.index, columns.mask, "evict_last")[None, :]


def load_column(reference: Any, rows: Rows) -> jax.Array:
    """Values by row, as a tile of one column."""
    return triton_load(reference, rows.index, rows.mask)[:, None]


def store_column(reference: Any, rows: Rows, value: jax.Array) -> None:
    """Stores a tile of one column."""
    triton_store(reference, rows.index, value[:, 0].astype(reference.dtype), rows.mask)


def row_sum(tile: jax.Array) -> jax.Array:
    """Sums along rows, as a tile of one column."""
    return jnp.sum(tile, axis=1)[:, None]


def where(mask: jax.Array | None, value: jax.Array) -> jax.Array:
    """`value`, and zero where `mask` is False."""
    return value if mask is None else jnp.where(mask, value, jnp.zeros_like(value))
