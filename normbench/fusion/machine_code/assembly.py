"""The machine-level code of each launch: its PTX, and what ptxas made of it where there is a ptxas."""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from normbench.fusion.machine_code.mosaic import MosaicKernel
from normbench.fusion.ptx import ENTRY, names_by_thunk, thunks

_SECTION = struct.Struct("<IIQQQQIIQQ")
"""An entry of the section table of a 64-bit little-endian ELF file: name, type, flags, address, offset, size, ..."""


@dataclass(frozen=True)
class Assembly:
    """The code of one kernel.

    Attributes:
      ptx: its entry, from `.entry` to the closing brace.
      sass: its machine code, 16 bytes an instruction; None where nothing assembled it.
    """

    ptx: str
    sass: bytes | None


def assemblies(dump: Path, mosaic: dict[str, MosaicKernel]) -> dict[str, Assembly]:
    """The code of each launch by the name of its HLO instruction.

    Args:
      dump: the folder into which XLA has dumped one module, with what `normbench.fusion.ptx` assembled there.
      mosaic: of `normbench.fusion.machine_code.mosaic.mosaic_kernels`.
    """
    programs = {name: ptx for path in sorted(dump.glob("*.ptx")) for name, ptx in _entries(path.read_text())}
    machine = {name: code for path in sorted(dump.glob("*.cubin")) for name, code in machine_code(path.read_bytes())}
    sequence = "".join(path.read_text() for path in sorted(dump.glob("*.thunk_sequence.txt")))
    names = names_by_thunk(dump)
    entries = {names.get(thunk, entry): entry for thunk, (entry, _) in thunks(sequence).items()}
    entries |= {name: kernel.entry for name, kernel in mosaic.items()}
    return {name: Assembly(programs[e], machine.get(e)) for name, e in entries.items() if e in programs}


def _entries(program: str) -> Iterator[tuple[str, str]]:
    found = list(ENTRY.finditer(program))
    ends = [match.start() for match in found[1:]] + [len(program)]
    for match, end in zip(found, ends, strict=False):
        body = program[match.start() : end]
        closing = re.search(r"^\}", body, re.MULTILINE)
        yield match[1], body[: closing.end()] if closing else body


def machine_code(cubin: bytes) -> Iterator[tuple[str, bytes]]:
    """The kernels of a cubin, an ELF file, by name: its sections `.text.<name>`."""
    if cubin[:5] != b"\x7fELF\x02":
        return
    (table,) = struct.unpack_from("<Q", cubin, 0x28)
    size, count, names_at = struct.unpack_from("<HHH", cubin, 0x3A)
    sections = [_SECTION.unpack_from(cubin, table + index * size) for index in range(count)]
    names = sections[names_at][4]
    for section in sections:
        start = names + section[0]
        name = cubin[start : cubin.index(b"\0", start)].decode()
        if name.startswith(".text."):
            yield name.removeprefix(".text."), cubin[section[4] : section[4] + section[5]]
