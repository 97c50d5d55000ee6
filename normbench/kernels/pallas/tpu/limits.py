"""What the kernels take of a TPU's VMEM, and how arrays are cut into blocks of it.

VMEM is what JAX's own description of the chips says (`jax.experimental.pallas.tpu.get_tpu_info_for_chip`): 128 MiB of a
TensorCore of v5e and v6e, 64 MiB of v5p and TPU7x, 16 MiB of v4. The last two dimensions of an array lie in tiles of
(8, 128) elements of 32 bits, those of bfloat16 two to a place.
"""

import math
from collections.abc import Mapping
from typing import Protocol

import jax.numpy as jnp

DTYPES = ("float32", "bfloat16")
"""The kernels compute in float32. Of float16 the compiler says "Invalid vector type for load" (v5e, v6e, TPU7x)."""
LANES, SUBLANES = 128, 8
VMEM_BYTES = 48 * 2**20
"""What a kernel may take: three quarters of the smallest VMEM, so that XLA keeps some for what is around it."""
LEFT_BYTES = {"v5e": 80 * 2**20, "v5p": 16 * 2**20, "v6e": 80 * 2**20, "tpu7x": 16 * 2**20}
"""What a kernel leaves XLA of each one's VMEM."""
HELD_BYTES = 24 * 2**20
"""Of it, what is kept from the first walk over an array to the second."""
BLOCK_ELEMENTS = 2**18
"""Of a block: 512 KiB of bfloat16, which a v6e moves in about as long as a step of the grid costs (0.35 us)."""
ROW_BYTES = 2**21
"""Of a block of whole rows of the widest tensor, at most: two of each of up to four tensors, and some five arrays of as
many elements in float32. Of twice as much in float32 the compiler for TPU7x says that it exceeds `VMEM_BYTES`."""

MOST_COLUMNS = 2**19
"""Of a row: gamma, beta and their gradients in float32, two of each, then take 16 MiB."""


class Cut(Protocol):
    """How a kernel cuts x; `held`: into parts that stay in VMEM from the first walk to the second."""

    @property
    def held(self) -> bool: ...


def sublanes(*dtypes: str) -> int:
    """Rows of a tile as the compiler packs the narrowest of the dtypes: blocks start and end at multiples of it."""
    return max(32 // jnp.dtype(dtype).itemsize for dtype in dtypes)


def up_to(size: int, multiple: int) -> int:
    """The smallest multiple that is `size` or more."""
    return -(-size // multiple) * multiple


def padded_lanes(size: int) -> int:
    return up_to(size, LANES)


def dtype_refusal(names: tuple[str, ...], dtypes: tuple[str, ...]) -> str | None:
    for name, dtype in zip(names, dtypes, strict=True):
        if dtype not in DTYPES:
            why = ", as Mosaic TPU loads no float16" if dtype == "float16" else ""
            return f"{name} is {dtype}; allowed for pallas_tpu: {', '.join(DTYPES)}{why}"
    return None


def streamed(pass_: str, cuts: Mapping[str, Cut]) -> str | None:
    """Why a problem is left to XLA of which VMEM does not hold what the kernel would read twice, or None; `cuts` are
    those of the forward and the backward pass."""
    for name, cut in cuts.items():
        if name in pass_ and not cut.held:
            return (
                f"VMEM does not hold what is normalized together, {HELD_BYTES >> 20} MiB at most, so that the {name} "
                "kernel reads it twice, as XLA does: take custom_vjp"
            )
    return None


def added_outside(shape: tuple[int, ...], dtype: str, target: str) -> str | None:
    """Why a problem with a residual is left to XLA, of kernels that take the sum as x, or None.

    XLA then adds the residual in a launch of its own, and moves the sum once more unless it keeps it in VMEM: of what
    the kernel leaves, 0.15 stayed on v6e (12.8 MB), 0.31 did not on TPU7x (5.2 MB); a quarter is taken to.
    """
    size = math.prod(shape) * jnp.dtype(dtype).itemsize
    if 4 * size <= LEFT_BYTES[target]:
        return None
    return (
        f"XLA adds the residual, and its sum of {size / 1e6:.1f} MB may not stay in the VMEM of a {target} beside the "
        f"kernel; allowed: {LEFT_BYTES[target] / 4e6:.1f} MB: take naive"
    )


def padded_sublanes(size: int, itemsize: int) -> int:
    """Rows that `size` rows take: tiles of few rows are smaller, of one row of 32 bits or two of 16 at least."""
    if size >= SUBLANES:
        return up_to(size, SUBLANES)
    return max(1 << (size - 1).bit_length(), 4 // itemsize)


def lying(shape: tuple[int, ...], dtype: str) -> tuple[int, ...]:
    """The order in which the dimensions of an argument or a result of a program lie in a TPU's memory, the last two in
    tiles: that which pads least, and of equals the one nearest to the order of the shape.

    XLA's compiler for TPUs chooses so, as its answers show (`jax_compat.tpu.default_order`, with which a test compares
    this where the compiler is installed). So a tensor with channels first often lies with its channels last.
    """
    itemsize, rank = jnp.dtype(dtype).itemsize, len(shape)
    if rank < 2:
        return tuple(range(rank))

    def padded(pair: tuple[int, int]) -> int:
        others = math.prod(size for axis, size in enumerate(shape) if axis not in pair)
        return others * padded_sublanes(shape[pair[0]], itemsize) * padded_lanes(shape[pair[1]])

    pairs = [(r, c) for c in reversed(range(rank)) for r in reversed(range(rank)) if r != c]
    last = min(pairs, key=padded)
    return (*(axis for axis in range(rank) if axis not in last), *last)
