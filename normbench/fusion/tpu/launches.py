"""What is told of a launch on a TPU beside its bytes: where its data lie, and what the compiler expects it to take."""

import json

from normbench.fusion.hlo import DEVICE_MEMORY, Instruction, Shape

VECTOR_MEMORY = 1  # the memory space of VMEM
PREFETCH, WRITE_BACK = "prefetch", "write back"
"""Kinds of the copies from HBM into VMEM, and of those from VMEM into HBM."""
PALLAS_CALL = "tpu_custom_call"
NO_DATA = ("AllocateBuffer", "ConcatBitcast", "PrepareAsyncCallStart", "PrepareAsyncCallDone")
"""Custom calls that move nothing: memory that another launch writes, parts of an array that lie side by side, and what
gets the SparseCores ready for a copy of theirs."""
_NO_ESTIMATE = 2**62
"""The largest number of 64 bits stands for none, as of a copy that the SparseCores carry out."""


def copy_kind(source: Shape, result: Shape) -> str | None:
    """PREFETCH or WRITE_BACK, of an array or a slice of one; None for a copy that does not go between HBM and VMEM."""
    spaces = (source.memory_space, result.memory_space)
    return {(DEVICE_MEMORY, VECTOR_MEMORY): PREFETCH, (VECTOR_MEMORY, DEVICE_MEMORY): WRITE_BACK}.get(spaces)


def estimated_cycles(launch: Instruction) -> int | None:
    """Cycles of one execution by the compiler's own cost model; None where it gives none."""
    if "estimated_cycles" not in launch.backend_config:
        return None
    try:
        cycles = int(json.loads(launch.backend_config)["window_config"]["estimated_cycles"])
    except (ValueError, KeyError, TypeError):
        return None
    return cycles if 0 < cycles < _NO_ESTIMATE else None
