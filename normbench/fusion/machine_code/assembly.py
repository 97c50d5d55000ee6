"""The machine-level code of each launch: its PTX, and what ptxas has made of it.

XLA keeps the machine code of most kernels where it is told to. For the others, and for what is spilled, ptxas runs
again where there is one: some 20 ms a kernel, for a whole program, several files at a time, when it is first asked.
"""

import os
import re
import subprocess
import tempfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path

from normbench.fusion.machine_code.cubin import Machine, cubins_of_cache, kernels_of_cubin
from normbench.fusion.ptx import ENTRY, Kernel, find_ptxas

KERNEL_CACHE = "kernels.cache"
"""The file in the dump in which XLA keeps the machine code of what it compiles."""
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
      made: cubins that the compiler has kept of them, compressed.
    """

    files: tuple[bytes, ...] = ()
    entries: dict[str, str] = field(default_factory=dict)
    made: tuple[bytes, ...] = ()

    def code(self, launch: str) -> Code | None:
        """The code of a launch by the name of its HLO instruction; None where the compiler's files hold none."""
        return _assembled(self.files, self.made).get(self.entries.get(launch, ""))


def assembly_of_dump(dump: Path, launched: dict[str, tuple[str, Kernel]]) -> Assembly:
    """The code in a folder into which XLA has dumped one module; `launched`: entry and kernel by HLO instruction."""
    texts = [path.read_text() for path in sorted(dump.glob("*.ptx"))]
    files = tuple(zlib.compress(text.encode(), 1) for text in texts if text)
    kept = dump / KERNEL_CACHE
    cubins = cubins_of_cache(kept.read_bytes()) if kept.exists() else ()
    made = tuple(zlib.compress(cubin, 1) for cubin in cubins)
    return Assembly(files, {name: entry for name, (entry, _) in launched.items()}, made)


@lru_cache(maxsize=8)
def _assembled(files: tuple[bytes, ...], made: tuple[bytes, ...]) -> dict[str, Code]:
    """The kernels by name of their entry."""
    known = {name: one for cubin in made for name, one in kernels_of_cubin(zlib.decompress(cubin)).items()}
    assemble = partial(_code, find_ptxas(), known)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return {entry: code for part in pool.map(assemble, files) for entry, code in part.items()}


def _code(ptxas: str | None, known: dict[str, Machine], file: bytes) -> dict[str, Code]:
    """The kernels of a file: as the compiler has made them, where each has its registers and nothing on a stack, which
    is where spills are."""
    entries = dict(_entries(zlib.decompress(file).decode()))
    if not all(name in known and known[name].registers and known[name].frame_bytes == 0 for name in entries):
        return _assemble(ptxas, file)
    return {name: Code(ptx, known[name].sass, known[name].registers, 0) for name, ptx in entries.items()}


@lru_cache(maxsize=128)  # kernels of one program for two devices of one architecture are mostly the same
def _assemble(ptxas: str | None, file: bytes) -> dict[str, Code]:
    text = zlib.decompress(file).decode()
    report, cubin = _run(ptxas, text) if ptxas else ("", b"")
    machine = {name: one.sass for name, one in kernels_of_cubin(cubin).items()}
    said = _RESOURCES.finditer(report)
    resources = {m["name"]: (int(m["registers"]), int(m["stores"]) + int(m["loads"])) for m in said}
    return {entry: Code(ptx, machine.get(entry), *resources.get(entry, (None, None))) for entry, ptx in _entries(text)}


def _run(ptxas: str, text: str) -> tuple[str, bytes]:
    """What ptxas says of a file, and the cubin that it makes of it, empty where it refuses."""
    architecture = re.search(r"\.target\s+(sm_\w+)", text)
    if architecture is None:
        return "", b""
    with tempfile.TemporaryDirectory(prefix="normbench-") as folder:
        source, made = Path(folder, "kernel.ptx"), Path(folder, "kernel.cubin")
        source.write_text(text)
        command = [ptxas, "-v", f"-arch={architecture[1]}", str(source), "-o", str(made)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        cubin = made.read_bytes() if made.exists() else b""
    return done.stderr + done.stdout, cubin


def _entries(program: str) -> Iterator[tuple[str, str]]:
    found = list(ENTRY.finditer(program))
    ends = [match.start() for match in found[1:]] + [len(program)]
    for match, end in zip(found, ends, strict=False):
        body = program[match.start() : end]
        closing = re.search(r"^\}", body, re.MULTILINE)
        yield match[1], body[: closing.end()] if closing else body
