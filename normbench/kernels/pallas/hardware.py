"""Facts and arithmetic that the heuristics of all kernels start from. None of it is tuned on a device.

The device is not known when a kernel is traced for one that is not there; what is counted here is the same from the
A100 to the B200, or nearly so, and says so where it is not.
"""

import jax.numpy as jnp

VECTOR_BYTES = 16
"""The widest load of one thread on every NVIDIA GPU up to Hopper."""

WARP = 32
MOST_WARPS = 32
"""Per program: 1024 threads, the most that a block may have."""

REGISTERS = 65536
"""Registers of 32 bits in one multiprocessor; a thread can have 255 of them, one of 1024 threads 64."""

MULTIPROCESSORS = 132
"""Of the H100 and the H200 (A100: 108, B200: 148): programs that walk over many blocks come in multiples of it, and a
fifth more or less programs than multiprocessors costs less than a launch."""

FEWER_MULTIPROCESSORS = 108
"""Of the A100: where there are too few programs for all multiprocessors of an H200 alike, no more than these have at
once, as a few more would take it as long again."""

WORKSPACE_SHARE = 0.11
"""Partial sums may take this share of the tensor: written and read they then add at most 7.4 % to the three tensors
that a gradient moves. They stay in the L2 cache, where they cost less than multiprocessors without a program."""

ENOUGH_PROGRAMS, WALK_BYTES = 5 * MULTIPROCESSORS // 8, 4 * 1024
"""Where that allows fewer programs, each of which would walk over more bytes of a tensor, each multiprocessor has one:
it saves more than its partial sums cost. Layer norm of 8 x 197 x 768 in bfloat16, backward, then moves 1.17 times the
least by Triton and 1.22 by Mosaic; RMS norm may have 86, and moves 1.06 and 1.07 (docs/kernels.md)."""

BACKWARD_PROGRAMS = 2 * MULTIPROCESSORS
"""Of kernels that walk over rows and keep sums: one program loads while the other computes."""

MOST_ELEMENTS = 2**31 - 2**20
"""Indices are 32-bit; the margin is for the last block, which reaches beyond the end before it is masked."""


def power_of_two_from(size: int) -> int:
    """The smallest power of two that is `size` or more."""
    return 1 << max(size - 1, 0).bit_length()


def power_of_two_to(size: int) -> int:
    """The largest power of two that is `size` or less; 1 below that."""
    return 1 << max(size, 1).bit_length() - 1


def vector_elements(*dtypes: str) -> int:
    """Elements of the narrowest dtype in one load of `VECTOR_BYTES`: wider ones then take several."""
    return VECTOR_BYTES // min(jnp.dtype(dtype).itemsize for dtype in dtypes)


def warps_for(elements: int, per_thread: int) -> int:
    """The warps, a power of two from 1 to `MOST_WARPS`, of which each thread has at most `per_thread` of `elements`
    as far as there are warps."""
    return min(power_of_two_from(-(-elements // (WARP * per_thread))), MOST_WARPS)


def workspace_programs(tensor_bytes: int, program_bytes: int) -> int:
    """How many programs may leave `program_bytes` of partial sums, by `WORKSPACE_SHARE`; 1 leaves none, as its sums are
    the result."""
    return max(1, int(WORKSPACE_SHARE * tensor_bytes) // max(program_bytes, 1))


def walking_programs(tensor_bytes: int, program_bytes: int, blocks: int = 1) -> int:
    """The same of programs that walk over a tensor, side by side, or over each of so many blocks: see `WALK_BYTES`."""
    allowed = workspace_programs(tensor_bytes, program_bytes)
    if allowed * blocks < ENOUGH_PROGRAMS and tensor_bytes >= WALK_BYTES * allowed * blocks:
        return -(-MULTIPROCESSORS // blocks)
    return allowed
