"""Numbers on the operations of a StableHLO module, which the compiler hands on to what it makes of them.

A number stands in the name of an operation's location, "jit(f)/mul" becomes "jit(f)/#t25/mul": XLA keeps the name as
`op_name`, and puts that of a call before those of what it inlines. The numbers in the name of an optimised instruction
so tell the operation that it was made of, and through which calls.
"""

import io
from typing import Any


def numbered(bytecode: bytes) -> bytes:
    """A StableHLO module, as MLIR bytecode, with a number in the name of each operation."""
    from jax._src.interpreters import mlir
    from jaxlib.mlir import ir

    if b"mosaic_gpu" in bytecode:
        import jax.experimental.mosaic.gpu  # noqa: F401  (the library that its kernels are printed with)
    with mlir.make_ir_context():
        module = ir.Module.parse(bytecode)
        _number(module.operation, ir.Location, 0)
        buffer = io.BytesIO()
        module.operation.write_bytecode(buffer)
        return buffer.getvalue()


def _number(operation: Any, location: Any, count: int) -> int:
    for region in operation.regions:
        for block in region.blocks:
            for child in block.operations:
                inner = child.operation
                inner.location = _with_number(inner.location, location, count)
                count = _number(inner, location, count + 1)
    return count


def _with_number(found: Any, location: Any, count: int) -> Any:
    try:
        name, child = found.name_str, found.child_loc
    except (ValueError, AttributeError):  # a location without a name
        name, child = "", found
    parent, slash, last = name.rpartition("/")
    return location.name(f"{parent}{slash}#t{count}/{last}", childLoc=child)


def unoptimised_hlo(bytecode: bytes) -> bytes:
    """The serialized HloModuleProto of a StableHLO module, as the compiler gets it."""
    from jax._src.lib import _jax

    return _jax.mlir.mlir_module_to_xla_computation(bytecode).as_serialized_hlo_module_proto()
