"""The machine-level code of each launch: its PTX, and what ptxas makes of it where there is a ptxas.

ptxas takes some 20 ms a kernel: it runs for a whole program, several files at a time, when it is first asked.
"""

import os
import re
import struct
import subprocess
import tempfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path

from normbench.fusion.ptx import ENTRY, Kernel, find_ptxas

_SECTION = struct.Struct("<IIQQQQIIQQ")
"""An entry of the section table of a 64-bit little-endian ELF file: name, type, flags, address, offset, size, ..."""
_RESOURCES = re.compile(
    r"Function properties for (?P<name>\S+)\s+\d+ bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads.*?Used (?P<registers>\d+) registers",
    re.DOTALL,
)


@dataclass(frozen=True)
class Code:
    """The code of one kernel; but for the first, None where nothing assembled it.

    Attributes:
      ptx: its entry, from `.entry` to the closing brace.
      sass: its machine code, 16 bytes an instruction.
      registers: of a thread.
      spill_bytes: stored and loaded, of a thread.
    """

    ptx: str
    sass: bytes | None = None
    registers: int | None = None
    spill_bytes: int | None = None


@dataclass(frozen=True)
class Assembly:
    """The kernels of a program as PTX, to be assembled when it is asked for.

    Attributes:
      files: texts in PTX, compressed.
      entries: name of the kernel in them by name of the HLO instruction.
    """

    files: tuple[bytes, ...] = ()
    entries: dict[str, str] = field(default_factory=dict)

    def code(self, launch: str) -> Code | None:
        """The code of a launch by the name of its HLO instruction; None where the compiler's files hold none."""
        return _assembled(self.files).get(self.entries.get(launch, ""))


def assembly_of_dump(dump: Path, launched: dict[str, tuple[str, Kernel]]) -> Assembly:
    """The code in a folder into which XLA has dumped one module; `launched`: entry and kernel by HLO instruction."""
    texts = [path.read_text() for path in sorted(dump.glob("*.ptx"))]
    files = tuple(zlib.compress(text.encode(), 1) for text in texts if text)
    return Assembly(files, {name: entry for name, (entry, _) in launched.items()})


@lru_cache(maxsize=8)
def _assembled(files: tuple[bytes, ...]) -> dict[str, Code]:
    """The kernels by name of their entry."""
    assemble = partial(_assemble, find_ptxas())
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return {entry: code for part in pool.map(assemble, files) for entry, code in part.items()}


@lru_cache(maxsize=128)  # kernels of one program for two devices of one architecture are mostly the same
def _assemble(ptxas: str | None, file: bytes) -> dict[str, Code]:
    text = zlib.decompress(file).decode()
    report, machine = _run(ptxas, text) if ptxas else ("", {})
    said = _RESOURCES.finditer(report)
    resources = {m["name"]: (int(m["registers"]), int(m["stores"]) + int(m["loads"])) for m in said}
    return {entry: Code(ptx, machine.get(entry), *resources.get(entry, (None, None))) for entry, ptx in _entries(text)}


def _run(ptxas: str, text: str) -> tuple[str, dict[str, bytes]]:
    """What ptxas says of a file, and the machine code that it makes of it; what it refuses has neither."""
    architecture = re.search(r"\.target\s+(sm_\w+)", text)
    if architecture is None:
        return "", {}
    with tempfile.TemporaryDirectory(prefix="normbench-") as folder:
        source, made = Path(folder, "kernel.ptx"), Path(folder, "kernel.cubin")
        source.write_text(text)
        command = [ptxas, "-v", f"-arch={architecture[1]}", str(source), "-o", str(made)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        machine = dict(machine_code(made.read_bytes())) if made.exists() else {}
    return done.stderr + done.stdout, machine


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
