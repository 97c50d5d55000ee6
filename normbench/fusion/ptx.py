"""What the generated machine-level code says of each launch: grid, block, shared memory, widest load and store.

Sources are the files of XLA's own dump: `*.thunk_sequence.txt` has a line per launch, `*.thunk_metadata.pb` the HLO
instruction of each, `*.ptx` the kernels.
What ptxas knows besides is in `normbench.fusion.machine_code.assembly`.
"""

import os
import re
import shutil
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from normbench.fusion.wire import message, number, text

_THUNK = re.compile(
    r"^(?P<thunk>\d+): (?P<kind>\w+)\s+\[.*?\]\s+(?P<name>\S+)"
    r"(?: grid: \[(?P<grid>[\d, ]+)\] threads: \[(?P<block>[\d, ]+)\]\s+shared_memory: (?P<shared>\d+) bytes)?"
)
ENTRY = re.compile(r"^\s*\.(?:visible|weak)\s+\.entry\s+([\w$.]+)\s*\(", re.MULTILINE)
_ACCESS = re.compile(r"\b(ld|st)\.(?:[\w:]+\.)*?global(?:\.[\w:]+)*?(?:\.v(\d))?\.[busf](\d+)\b")
_ASYNC = re.compile(r"\bcp\.async\.c[ag]\.shared\.global[\w.:]*\s+[^,]+,\s*[^,]+,\s*(0x[\da-fA-F]+|\d+)")


@dataclass(frozen=True)
class Kernel:
    """Facts of one launch; None where the compiler's files do not say, or, for the last two, nobody has asked."""

    grid: str | None = None
    block: str | None = None
    shared_bytes: int | None = None
    load_bytes: int | None = None
    store_bytes: int | None = None
    registers: int | None = None
    spill_bytes: int | None = None


def launched_kernels(dump: Path) -> dict[str, tuple[str, Kernel]]:
    """Entry and kernel by name of the HLO instruction, by XLA's list of launches in the folder of its dump."""
    sequence = "".join(path.read_text() for path in sorted(dump.glob("*.thunk_sequence.txt")))
    names = names_by_thunk(dump)
    return {names.get(thunk, entry): (entry, kernel) for thunk, (entry, kernel) in thunks(sequence).items()}


def kernels_of_dump(dump: Path, launched: dict[str, tuple[str, Kernel]]) -> dict[str, Kernel]:
    """The kernels by name of their HLO instruction, from a folder into which XLA has dumped one module; without what
    only the assembler knows.

    Args:
      dump: the folder.
      launched: entry and kernel by name of the HLO instruction.
    """
    widths = access_widths("\n".join(path.read_text() for path in sorted(dump.glob("*.ptx"))))
    kernels = {}
    for name, (entry, kernel) in launched.items():
        load, store = widths.get(entry, (None, None))
        kernels[name] = replace(kernel, load_bytes=load, store_bytes=store)
    return kernels


def names_by_thunk(dump: Path) -> dict[int, str]:
    """Name of the HLO instruction by thunk number: launches of the same code share one kernel under one of their names.

    The file is a list (field 1) of {thunk_info (1): {profile_annotation (1), thunk_id (3)}}.
    """
    names = {}
    for path in dump.glob("*.thunk_metadata.pb"):
        for entry in message(path.read_bytes()).get(1, []):
            info = message(entry)[1][-1] if isinstance(entry, bytes) else b""
            fields = message(info) if isinstance(info, bytes) else {}
            if 3 in fields:
                names[number(fields[3])] = text(fields.get(1))
    return names


def thunks(sequence: str) -> dict[int, tuple[str, Kernel]]:
    """Kernel name with grid, block and shared memory by thunk number, from the text of a thunk sequence."""
    found = {}
    for line in sequence.splitlines():
        match = _THUNK.match(line.strip())
        if match is None or match["grid"] is None:
            continue
        grid, block = (extent(match[key].split(",")) for key in ("grid", "block"))
        kernel = Kernel(grid=grid, block=block, shared_bytes=int(match["shared"]))
        found[int(match["thunk"])] = (match["name"], kernel)
    return found


def extent(sizes: Iterable[str | int]) -> str:
    """(512, 1, 1) -> "512"; (64, 8, 1) -> "64x8"."""
    numbers = [int(size) for size in sizes]
    while len(numbers) > 1 and numbers[-1] == 1:
        numbers.pop()
    return "x".join(str(size) for size in numbers)


def access_widths(assembly: str) -> dict[str, tuple[int | None, int | None]]:
    """Widest global load and store of each kernel, in bytes; a bulk tensor copy counts as 16, its unit.

    A kernel that loads nothing from global memory has None.
    """
    entries = list(ENTRY.finditer(assembly))
    widths = {}
    ends = [entry.start() for entry in entries[1:]] + [len(assembly)]
    for entry, end in zip(entries, ends, strict=False):
        body = assembly[entry.end() : end]
        widths[entry.group(1)] = (_widest(body, "ld"), _widest(body, "st"))
    return widths


def _widest(body: str, operation: str) -> int | None:
    found = [int(lanes or 1) * int(bits) // 8 for op, lanes, bits in _ACCESS.findall(body) if op == operation]
    if operation == "ld":
        found += [int(size, 0) for size in _ASYNC.findall(body)]
    bulk = "shared" if operation == "ld" else "global"
    found += [16 for match in re.finditer(r"cp\.async\.bulk\.tensor[\w.:]*", body) if _moves_to(match[0], bulk)]
    return max(found, default=None)


def _moves_to(copy: str, space: str) -> bool:
    """Whether a bulk copy's destination, the first memory space in its name, is `space`."""
    first = re.search(r"\.(shared|global)", copy)
    return first is not None and first[1] == space


def find_ptxas() -> str | None:
    """Path of ptxas: on PATH, in CUDA_HOME, or in the wheel nvidia-cuda-nvcc; None where it is not installed."""
    on_path = shutil.which("ptxas")
    if on_path:
        return on_path
    if (own := Path(os.environ.get("CUDA_HOME", ""), "bin", "ptxas")).is_absolute() and own.is_file():
        return str(own)
    for root in {sysconfig.get_paths()["purelib"], *(p for p in sys.path if p.endswith("site-packages"))}:
        for path in Path(root).glob("nvidia/*/bin/ptxas"):
            return str(path)
    return None
