"""How a row lies in shared memory and in registers, for the Mosaic kernels, and which rows do."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import jax.numpy as jnp

from normbench.jax_compat.mosaic import SHARED_BYTES
from normbench.kernels.common.form import PLAIN, Form
from normbench.kernels.pallas.hardware import MULTIPROCESSORS, workspace_programs

DTYPES = ("float32", "bfloat16", "float16")
WARPGROUP = 128
"""Threads of a program: a row is spread over all of them, so its length has to be a multiple."""
KEPT_PER_THREAD = 96
"""Elements of a row that a thread may keep in registers of float32, beside what it computes with."""
LINE = 256
"""The longest line of a bulk copy, and the most lines of one; a row of 65536 elements is what one copy moves."""
PER_THREAD = 16
"""Elements that a thread holds at once: 16 bytes of bfloat16 twice, and some ten arrays of float32 in 255 registers."""
COPY_BYTES = 16
"""What a bulk copy moves is a multiple of this, and so are its addresses."""
FORWARD_SLOTS, MOST_RESIDENT = 3, 8
"""Rows in shared memory of a program that stays: one on its way in, one computed, one on its way out; and programs of a
multiprocessor, of which some compute while others wait."""
RESERVED_BYTES = 4096
"""Of shared memory, for barriers and the scratch of reductions."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is computed: h = (x - mean) r, and y = act(h gamma + beta).

    Attributes:
      name: of the kernels.
      epsilon: r = 1 / sqrt(variance + epsilon).
      activation: of `ACTIVATIONS`.
      output_dtype: of y.
      centered: False for RMS norm, whose mean is 0.
      shifted: whether there is a beta.
      given: whether mean and variance are parameters, behind gamma and beta.
      momentum: None, or new running statistics = (1 - momentum) running + momentum of the batch, the variance unbiased.
      form: what is done with h before and after it is scaled, in RMS norm.
    """

    name: str
    epsilon: float
    activation: str
    output_dtype: str
    centered: bool = True
    shifted: bool = True
    given: bool = False
    momentum: float | None = None
    form: Form = PLAIN


@dataclass(frozen=True, slots=True)
class MosaicConfig:
    """A row as `lines` lines of `line` elements, `chunk_lines` of which are in registers at a time.

    Attributes:
      rows: of the tensor.
      programs: of one warpgroup each; a program takes each `programs`-th row.
      slots: rows that a program has in shared memory: with 2 the next one arrives while this one is computed.
    """

    rows: int
    lines: int
    line: int
    chunk_lines: int
    programs: int
    slots: int

    @property
    def columns(self) -> int:
        return self.lines * self.line

    @property
    def chunks(self) -> int:
        return self.lines // self.chunk_lines

    @property
    def in_registers(self) -> bool:
        """Whether the threads can hold a row, in float32, while it is looked at."""
        return self.columns <= KEPT_PER_THREAD * WARPGROUP


def forward_config(rows: int, columns: int) -> MosaicConfig:
    """A program for each row: the hardware keeps as many in flight as shared memory holds."""
    return _config(rows, columns, rows, 1)


def staying_config(rows: int, columns: int, slot_bytes: int, fixed_bytes: int) -> MosaicConfig:
    """Programs that stay and walk over rows, with a ring of slots; `slot_bytes` and `fixed_bytes` as below."""
    slots = max(1, min(FORWARD_SLOTS, (SHARED_BYTES - fixed_bytes) // slot_bytes))
    resident = max(1, min(MOST_RESIDENT, SHARED_BYTES // (slots * slot_bytes + fixed_bytes)))
    programs = min(rows, resident * MULTIPROCESSORS)
    return _config(rows, columns, programs, min(slots, -(-rows // programs)))


def backward_config(
    rows: int, columns: int, dtype: str, vectors: int, slot_bytes: int, fixed_bytes: int
) -> MosaicConfig:
    """Programs that stay and walk over rows, as many as there are multiprocessors and room in their shared memory, and
    few enough for their partial sums to be `WORKSPACE_SHARE` of x.

    `slot_bytes` is what one row takes of shared memory, with its cotangents, `fixed_bytes` all the rest.
    """
    slots = 2 if 2 * slot_bytes + fixed_bytes <= SHARED_BYTES else 1
    resident = max(1, min(4, SHARED_BYTES // (slots * slot_bytes + fixed_bytes)))
    workspace = workspace_programs(rows * columns * jnp.dtype(dtype).itemsize, vectors * columns * 4)
    return _config(rows, columns, min(rows, workspace, resident * MULTIPROCESSORS), slots)


def _config(rows: int, columns: int, programs: int, slots: int) -> MosaicConfig:
    line = math.gcd(columns, LINE)
    lines = columns // line
    most = max(1, PER_THREAD * WARPGROUP // line)
    chunk = max(n for n in range(1, most + 1) if lines % n == 0)
    return MosaicConfig(rows, lines, line, chunk, programs, slots)


def dtype_refusal(named: Iterable[tuple[str, str]]) -> str | None:
    """Why arrays of these names and dtypes are not what the kernels take, or None."""
    for name, dtype in named:
        if dtype not in DTYPES:
            return f"{name} is {dtype}; allowed for pallas_mosaic: {', '.join(DTYPES)}"
    return None


def row_refusal(columns: int) -> str | None:
    """Why a row of this length is not one that the kernels take, or None."""
    if columns % WARPGROUP:
        return f"rows of {columns} elements; allowed for pallas_mosaic: multiples of {WARPGROUP}, a warpgroup's threads"
    if columns > LINE * LINE or columns // math.gcd(columns, LINE) > LINE:
        return (
            f"rows of {columns} elements; allowed for pallas_mosaic: what one bulk copy moves, {LINE} lines of {LINE}"
        )
    return None


def shared_refusal(needed_bytes: int) -> str | None:
    if needed_bytes > SHARED_BYTES:
        return f"{needed_bytes} bytes of shared memory a program; allowed for pallas_mosaic: {SHARED_BYTES}"
    return None
