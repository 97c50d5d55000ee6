"""Kernels that a program carries as MLIR bytecode in an attribute: Pallas Triton's and Pallas Mosaic's.

The bytecode holds source lines with the path of the checkout, and a hash of itself; neither belongs to the program.
"""

import hashlib
import re

_STRING = re.compile(r'"ML\\EFR(?:[^"\\]|\\.)*"')
_HASH = re.compile(r'kernel_hash = "(?:[^"\\]|\\.)*"')
_ESCAPED = re.compile(rb"\\([0-9A-Fa-f]{2}|.)", re.DOTALL)
_DUMP_NAME = re.compile(r'mosaic_gpu\.dump_basename = "[^"]*"')
"""A number for each kernel of the process, which JAX 0.11 puts into it."""
_CONTROL = {b"n": b"\n", b"t": b"\t"}


def without_source_lines(text: str) -> str:
    """A program as StableHLO or HLO text with each embedded kernel in its text's stead as a digest of what it does.

    Equal for equal kernels, whatever the checkout that they were traced from and whatever was traced before them.
    """
    return _STRING.sub(lambda match: f'"{_digest(match[0])}"', _HASH.sub('kernel_hash = ""', text))


def _digest(literal: str) -> str:
    return hashlib.sha256(kernel_text(_unescaped(literal[1:-1])).encode()).hexdigest()


def _unescaped(literal: str) -> bytes:
    """The bytes of a string as MLIR prints it: two hexadecimal digits, or the character itself, after a backslash."""

    def plain(match: re.Match[bytes]) -> bytes:
        code = match[1]
        return bytes([int(code, 16)]) if len(code) == 2 else _CONTROL.get(code, code)

    return _ESCAPED.sub(plain, literal.encode("utf-8", "surrogateescape"))


def kernel_text(bytecode: bytes) -> str:
    """The kernel as text in MLIR's generic form, without locations and without the name of its dump."""
    from jax._src.interpreters import mlir
    from jax._src.lib import mosaic_gpu_dialect
    from jaxlib.mlir import ir
    from jaxlib.triton import dialect as triton_dialect

    with mlir.make_ir_context() as context:
        triton_dialect.register_dialect(context)
        mosaic_gpu_dialect.register_dialect(context)
        context.allow_unregistered_dialects = True  # Mosaic names those of a stored kernel anew
        module = ir.Module.parse(bytecode)
        text = str(module.operation.get_asm(enable_debug_info=False, print_generic_op_form=True))
    return _DUMP_NAME.sub('mosaic_gpu.dump_basename = ""', text)
