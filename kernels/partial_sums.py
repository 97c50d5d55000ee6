"""Sums over rows, cut into partial sums so that a GPU has enough blocks to work on.

A sum over an axis that is not the last gives each block of threads 128 or so neighbouring columns and all the rows:
4096 rows of 4096 columns are 32 blocks, on a device with 132 multiprocessors. XLA cuts the rows by itself only where
there are many more of them; below that its cost model finds the sum so slow that it writes a float32 intermediate of
the size of x to keep other work out of it.
"""

import math

import jax
import jax.numpy as jnp

BLOCK_COLUMNS = 128
BLOCKS = 256
"""Two blocks of 1024 threads for each of about 130 multiprocessors (A100: 108, H100 and H200: 132, B200: 148)."""
LEAST_ROWS = 256
"""In one partial sum: writing and reading the partial sums of two quantities in float32 then costs under 1 % of the
bytes of four bfloat16 tensors."""


def sum_over(values: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """The sum over `axes`, kept with size 1; as it is where `axes` is empty."""
    if not axes:
        return values
    if len(axes) > 1 or axes[0] == values.ndim - 1:
        return values.sum(axes, keepdims=True)
    (axis,) = axes
    parts = _parts(values.shape, axis)
    if parts == 1:
        return values.sum(axis, keepdims=True)
    before, after = values.shape[:axis], values.shape[axis + 1 :]
    partial = values.reshape(*before, parts, values.shape[axis] // parts, *after).sum(axis + 1)
    # Without the barrier the compiler merges the two sums into one again.
    return jnp.sum(jax.lax.optimization_barrier(partial), axis, keepdims=True)


def _parts(shape: tuple[int, ...], axis: int) -> int:
    """The largest power of two that divides the rows, gives no more than `BLOCKS` blocks and leaves `LEAST_ROWS`."""
    rows = shape[axis]
    columns = math.prod(shape) // max(rows, 1)
    most = min(BLOCKS * BLOCK_COLUMNS // max(columns, 1), rows // LEAST_ROWS)
    return math.gcd(rows, 1 << max(most, 1).bit_length() - 1)
