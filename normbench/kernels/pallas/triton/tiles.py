"""Tiles of a matrix inside a Pallas Triton kernel: indices, masks, loads and stores."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from normbench.jax_compat.triton import triton_load, triton_store


class Rows(NamedTuple):
    """Row numbers of a tile, and which of them exist (None: all)."""

    numbers: jax.Array
    mask: jax.Array | None


class Columns(NamedTuple):
    """Column numbers of a tile, and which of them exist (None: all)."""

    numbers: jax.Array
    mask: jax.Array | None


def span(size: int) -> jax.Array:
    return jax.lax.iota(jnp.int32, size)


def rows_from(first: Any, block_rows: int, rows: int, masked: bool) -> Rows:
    numbers = first + span(block_rows)
    return Rows(numbers, numbers < rows if masked else None)


def columns_from(first: Any, chunk: int, columns: int, masked: bool) -> Columns:
    numbers = first + span(chunk)
    return Columns(numbers, numbers < columns if masked else None)


def mask_of(rows: Rows, columns: Columns) -> jax.Array | None:
    """The mask of the tile; along a row it changes only where columns end, so that it splits no vector elsewhere."""
    shape = rows.numbers.size, columns.numbers.size
    by_row = None if rows.mask is None else jnp.broadcast_to(rows.mask[:, None], shape)
    by_column = None if columns.mask is None else jnp.broadcast_to(columns.mask[None, :], shape)
    if by_row is None or by_column is None:
        return by_column if by_row is None else by_row
    return by_row & by_column


def load_tile(reference: Any, rows: Rows, columns: Columns, width: int, eviction: str | None = None) -> jax.Array:
    """A tile of a matrix of `width` columns that is stored flat; zero where there is none."""
    index = (rows.numbers * width)[:, None] + columns.numbers[None, :]
    return triton_load(reference, index, mask_of(rows, columns), eviction)


def store_tile(reference: Any, rows: Rows, columns: Columns, width: int, value: jax.Array) -> None:
    """Stores in the dtype of the matrix."""
    index = (rows.numbers * width)[:, None] + columns.numbers[None, :]
    triton_store(reference, index, value.astype(reference.dtype), mask_of(rows, columns))


def load_column(reference: Any, rows: Rows) -> jax.Array:
    """Values by row, as a tile of one column."""
    return triton_load(reference, rows.numbers, rows.mask)[:, None]


def store_column(reference: Any, rows: Rows, value: jax.Array) -> None:
    """Stores a tile of one column."""
    triton_store(reference, rows.numbers, value[:, 0].astype(reference.dtype), rows.mask)


def row_sum(tile: jax.Array) -> jax.Array:
    """Sums along rows, as a tile of one column."""
    return jnp.sum(tile, axis=1)[:, None]


def where(mask: jax.Array | None, value: jax.Array) -> jax.Array:
    """`value`, and zero where `mask` is False."""
    return value if mask is None else jnp.where(mask, value, jnp.zeros_like(value))
