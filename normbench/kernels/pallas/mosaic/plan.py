"""What the Mosaic kernels compute, in which dtypes, and what a warpgroup and a bulk copy take."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from normbench.jax_compat.mosaic import SHARED_BYTES
from normbench.kernels.common.form import PLAIN, Form
from normbench.kernels.problem import Problem

DTYPES = ("float32", "bfloat16", "float16")
WARPGROUP = 128
"""Threads of a program: what is in registers is spread over all of them, so its size is a multiple."""
LINE = 256
"""The longest line of a bulk copy of several dimensions, and the most lines of one."""
PER_THREAD = 16
"""Elements that a thread holds at once: 16 bytes of bfloat16 twice, and some ten arrays of float32 in 255 registers."""
COPY_BYTES = 16
"""What a bulk copy moves is a multiple of this, and so are its addresses; of one dimension, it has any length."""
RESERVED_BYTES = 4096
"""Of shared memory, for barriers and the scratch of reductions."""
PLACED_BYTES = 1024
"""Every array in shared memory begins at a multiple of this: `SMEM_ALIGNMENT` in JAX's pallas/mosaic_gpu/core.py."""
MOST_ARRIVALS = (2**20 - 1) // WARPGROUP
"""At one barrier: its counter has 20 bits, and Mosaic lets each thread of a warpgroup arrive for each copy."""
FEW_COLUMNS = 2 * WARPGROUP
"""Of a row: of the table's 30 problems with no more, forward without a residual, 26 are predicted slower than XLA."""


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


def placed(size_bytes: int) -> int:
    """Shared memory that an array takes, with what lies empty behind it."""
    return -(-size_bytes // PLACED_BYTES) * PLACED_BYTES


def room_bytes(arrays: int) -> int:
    """Shared memory that a program has for the contents of some arrays, wherever they end."""
    return SHARED_BYTES - RESERVED_BYTES - arrays * (PLACED_BYTES - 1)


def dtype_refusal(named: Iterable[tuple[str, str]]) -> str | None:
    """Why arrays of these names and dtypes are not what the kernels take, or None."""
    for name, dtype in named:
        if dtype not in DTYPES:
            return f"{name} is {dtype}; allowed for pallas_mosaic: {', '.join(DTYPES)}"
    return None


def few_columns(problem: Problem) -> str | None:
    """The reason to leave `problem` to XLA where nobody predicted it: a thread has two elements of a row at most."""
    columns = math.prod(problem.shape[-problem.option("ndim", 1) :])
    if problem.pass_ != "forward" or problem.context == "residual" or columns > FEW_COLUMNS:
        return None
    return f"rows of {columns} elements; allowed for pallas_mosaic where nobody predicted it: over {FEW_COLUMNS}"
