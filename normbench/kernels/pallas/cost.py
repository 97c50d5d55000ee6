"""The bytes that a launch moves between device memory and the chip, as it really walks over its arrays.

What counts:

* a tensor counts as often as the kernel walks over it: a row that is read again for the output, because it does not
  fit the registers of its program, counts twice, although the second read may well hit the L2 cache;
* parameters (a row of them, or a value per channel) that all programs read count once: at some kilobytes they stay in
  the caches while the tensor passes by;
* partial sums count twice, written and read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp


@dataclass(frozen=True, slots=True)
class Cost:
    """Bytes read and written by one launch, and its floating-point operations."""

    read_bytes: int
    write_bytes: int
    flops: int = 0


def cost(read: Sequence[Any], written: Sequence[Any], again: Sequence[Any] = (), flops: int = 0) -> Cost:
    """The cost of a launch that reads and writes these arrays once, and reads `again` a second time."""
    reads = sum(map(size_bytes, (*read, *again)))
    return Cost(reads, sum(map(size_bytes, written)), flops)


def size_bytes(array: jax.Array | jax.ShapeDtypeStruct) -> int:
    return array.size * jnp.dtype(array.dtype).itemsize
