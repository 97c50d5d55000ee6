"""The MLIR context in which modules are parsed: making one loads every dialect, which takes as long as a small module.

A context keeps the types and constants of all that was parsed in it, so that it is replaced after some megabytes.
"""

from typing import Any

_MOST_BYTES = 2**23
_shared: list[Any] = []
"""The context, once there is one, and the bytes that were parsed in it."""


def parsing(bytecode: bytes) -> Any:
    """The context, entered with `with`, in which to parse a module that is not to outlive it by long."""
    from jax._src.interpreters import mlir

    if not _shared or _shared[1] + len(bytecode) > _MOST_BYTES:
        _shared[:] = [mlir.make_ir_context(), 0]
    _shared[1] += len(bytecode)
    return _shared[0]
