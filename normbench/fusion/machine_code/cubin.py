"""Machine code out of cubins, which are ELF files: the instructions, registers and stack of each kernel.

XLA hands them out in the file of its flag xla_gpu_kernel_cache_file, a `CompilationCacheProto`. What NVIDIA's
assembler writes into a section `.nv.info` is a row of attributes: one byte each for format and number, two for the
length of what follows, which only the format 4 has.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from normbench.fusion.wire import WireError, fields

_SECTION = struct.Struct("<IIQQQQIIQQ")
"""An entry of the section table of a 64-bit little-endian ELF file: name, type, flags, address, offset, size, link,
info, alignment, size of an entry. The info of the code of a kernel has the index of its symbol in the lower 24 bits."""
_FRAME_BYTES, _REGISTERS = 0x11, 0x2F
"""Numbers of the attributes: each has the index of a symbol and a number."""


@dataclass(frozen=True)
class Machine:
    """What a cubin holds of a kernel.

    Attributes:
      sass: its machine code, 16 bytes an instruction.
      registers: of a thread; None where the cubin does not say.
      frame_bytes: the stack of a thread, where registers are spilled to; None as well.
    """

    sass: bytes
    registers: int | None = None
    frame_bytes: int | None = None


def cubins_of_cache(cache: bytes) -> tuple[bytes, ...]:
    """The cubins in a `CompilationCacheProto`: a map, in field 1, of entries whose binary has a field of its own."""
    try:
        entries = [value for number, value in fields(cache) if number == 1 and isinstance(value, bytes)]
        kept = [value for entry in entries for number, value in fields(entry) if number == 2]
        binaries = [value for one in kept if isinstance(one, bytes) for _, value in fields(one)]
    except WireError:
        return ()
    return tuple(one for one in binaries if isinstance(one, bytes) and one[:4] == b"\x7fELF")


def kernels_of_cubin(cubin: bytes) -> dict[str, Machine]:
    """The kernels by name: of the sections `.text.<name>`."""
    if cubin[:5] != b"\x7fELF\x02":
        return {}
    sections = list(_sections(cubin))
    said = [_attributes(content) for name, content, _ in sections if name == ".nv.info"]
    numbers = {key: number for one in said for key, number in one}
    return {
        name.removeprefix(".text."): Machine(
            content, numbers.get((_REGISTERS, symbol)), numbers.get((_FRAME_BYTES, symbol))
        )
        for name, content, symbol in sections
        if name.startswith(".text.")
    }


def _sections(cubin: bytes) -> Iterator[tuple[str, bytes, int]]:
    """Name, content and symbol of each section."""
    (table,) = struct.unpack_from("<Q", cubin, 0x28)
    size, count, names_at = struct.unpack_from("<HHH", cubin, 0x3A)
    found = [_SECTION.unpack_from(cubin, table + index * size) for index in range(count)]
    names = found[names_at][4]
    for section in found:
        start = names + section[0]
        name = cubin[start : cubin.index(b"\0", start)].decode()
        yield name, cubin[section[4] : section[4] + section[5]], section[7] & 0xFFFFFF


def _attributes(content: bytes) -> Iterator[tuple[tuple[int, int], int]]:
    """The numbers by attribute and symbol."""
    position = 0
    while position + 4 <= len(content):
        form, attribute, size = struct.unpack_from("<BBH", content, position)
        position += 4
        if form != 4:
            continue
        if size == 8:
            symbol, number = struct.unpack_from("<II", content, position)
            yield (attribute, symbol), number
        position += size
