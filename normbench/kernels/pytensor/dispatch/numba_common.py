"""What the Numba functions of all the Ops share: dtypes, windows, keys of the cache on disk."""

from typing import Any

import numpy as np
from pytensor.graph.basic import Apply
from pytensor.link.numba.dispatch.basic import default_hash_key_from_props

from normbench.kernels.pytensor.conv.ops import WindowOp
from normbench.kernels.pytensor.dispatch.numba_window import PADDINGS

CACHE_VERSION = 2  # raise it when a function of the numba modules changes: Numba caches on disk


def key(op: Any, node: Apply) -> str:
    """What tells compiled functions apart on disk: the Op's properties, and the ranks and dtypes of its arrays."""
    types = ",".join(f"{variable.type.ndim}{variable.type.dtype}" for variable in (*node.inputs, *node.outputs))
    return default_hash_key_from_props(op, types=types, cache_version=CACHE_VERSION)


def real_type(dtype: str) -> type:
    """The scalar type of that name, which compiled code can call and allocate with."""
    return np.dtype(dtype).type


def check_dtypes(op: Any, node: Apply) -> None:
    if any(variable.type.dtype == "float16" for variable in (*node.inputs, *node.outputs)):
        raise NotImplementedError(f"Numba has no float16 on a CPU: cast the inputs of {op} to float32")


def window_of(op: WindowOp) -> tuple[Any, Any, int, Any]:
    """Stride, dilation, the place of the padding in `PADDINGS`, and its pairs, all for three axes."""
    missing = 3 - op.window.rank
    kind, pairs = (PADDINGS.index(op.padding), ()) if isinstance(op.padding, str) else (0, op.padding)
    explicit = ((0, 0),) * (3 - len(pairs)) + pairs
    return (1,) * missing + op.stride, (1,) * missing + op.dilation, kind, explicit
