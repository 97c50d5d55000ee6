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
ENOUGH_BLOCKS = 96
FEW_BLOCKS = 48
"""Below that the compiler finds a sum too slow to fuse with what it is the sum of: for many operations (a layer norm of
rows of 768 fuses from 16 parts on, which are 96 blocks) and for few (an RMS norm: from 8; jax 0.10.2, H200)."""
MANY_ROWS = 256
"""In one partial sum: writing and reading the partial sums of two quantities in float32 then costs under 1 % of the
bytes of four bfloat16 tensors."""
LEAST_ROWS = 32
"""Under 7 %: better than an intermediate of the size of x."""


def sum_over(values: jax.Array, axes: tuple[int, ...], enough_blocks: int = ENOUGH_BLOCKS) -> jax.Array:
    """The sum over `axes`, kept with size 1; as it is where `axes` is empty.

    Rows that nothing suitable divides are filled up with zeros, inside the launch that sums them; then the launch can
    no longer write anything of the shape of x beside the sums.
    """
    if not axes:
        return values
    if values.ndim > len(axes) > 1 and axes == tuple(range(len(axes))):  # the rows are spread over several axes
        kept = values.shape[len(axes) :]
        return sum_over(values.reshape(-1, *kept), (0,), enough_blocks).reshape(*(1 for _ in axes), *kept)
    if len(axes) > 1 or axes[0] == values.ndim - 1:
        return values.sum(axes, keepdims=True)
    (axis,) = axes
    parts = _parts(values.shape, axis, enough_blocks)
    if parts == 1:
        return values.sum(axis, keepdims=True)
    before, after = values.shape[:axis], values.shape[axis + 1 :]
    missing = -values.shape[axis] % parts
    if missing:
        filled = [(0, missing if a == axis else 0) for a in range(values.ndim)]
        values = jnp.pad(values, filled)
    partial = values.reshape(*before, parts, values.shape[axis] // parts, *after).sum(axis + 1)
    # Without the barrier the compiler merges the two sums into one again.
    return jnp.sum(jax.lax.optimization_barrier(partial), axis, keepdims=True)


def _parts(shape: tuple[int, ...], axis: int, enough_blocks: int) -> int:
    """As many parts as give `BLOCKS` blocks at most, of `MANY_ROWS` rows or, where these are too few blocks, fewer.

    A divisor of the rows if one gives `enough_blocks`; else any number that does; 1 where the rows do not suffice.
    """
    rows = shape[axis]
    columns = max(math.prod(shape) // max(rows, 1), 1)
    most, enough = BLOCKS * BLOCK_COLUMNS // columns, math.ceil(enough_blocks * BLOCK_COLUMNS / columns)
    divisors = [parts for parts in range(1, min(most, rows // LEAST_ROWS) + 1) if rows % parts == 0]
    long = max((parts for parts in divisors if rows // parts >= MANY_ROWS), default=1)
    if long >= enough:
        return long
    fitting = [parts for parts in divisors if parts >= enough]
    if fitting:
        return fitting[0]
    return enough if rows // enough >= LEAST_ROWS else max(divisors, default=1)
