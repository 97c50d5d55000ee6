"""What the generated machine-level code says of each launch: grid, block, shared memory, widest load and store.

Sources are the files of XLA's own dump: `*.thunk_sequence.txt` has a line per launch, `*.thunk_metadata.pb` the HLO
instruction of each, `*.ptx` the kernels.
`ptxas -v` adds registers and spills where it is installed (the wheel `nvidia-cuda-nvcc` brings it).
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path

from normbench.fusion.wire import message, number, text

_THUNK = re.compile(
    r"^(?P<thunk>\d+): (?P<kind>\w+)\s+\[.*?\]\s+(?P<name>\S+)"
    r"(?: grid: \[(?P<grid>[\d, ]+)\] threads: \[(?P<block>[\d, ]+)\]\s+shared_memory: (?P<shared>\d+) bytes)?"
)
_ENTRY = re.compile(r"^\s*\.(?:visible|weak)\s+\.entry\s+([\w$.]+)\s*\(", re.MULTILINE)
_ACCESS = re.compile(r"\b(ld|st)\.(?:[\w:]+\.)*?global(?:\.[\w:]+)*?(?:\.v(\d))?\.[busf](\d+)\b")
_ASYNC = re.compile(r"\bcp\.async\.c[ag]\.shared\.global[\w.:]*\s+[^,]+,\s*[^,]+,\s*(0x[\da-fA-F]+|\d+)")
_RESOURCES = re.compile(
    r"Function properties for (?P<name>\S+)\s+\d+ bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads.*?Used (?P<registers>\d+) registers",
    re.DOTALL,
)


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


@dataclass(frozen=True)
class Assembly:
    """The kernels as they were compiled, for what only the assembler knows.

    Attributes:
      files: texts in PTX, compressed.
      entries: name of the kernel in them by name of the HLO instruction.
    """

    files: tuple[bytes, ...] = ()
    entries: dict[str, str] = field(default_factory=dict)

    def resources(self, launch: str) -> tuple[int | None, int | None]:
        """Registers and spilled bytes of a launch, by `ptxas -v`, which runs for all when it is first asked; None each
        where it is not installed or refuses the file."""
        return _resources(self.files).get(self.entries.get(launch, ""), (None, None))


def kernels_of_dump(dump: Path) -> tuple[dict[str, Kernel], Assembly]:
    """The kernels by name of their HLO instruction, without registers and spills, from a folder into which XLA has
    dumped one module; and what these can be told from."""
    sequence = "".join(path.read_text() for path in sorted(dump.glob("*.thunk_sequence.txt")))
    names = _names_by_thunk(dump)
    files = [path.read_text() for path in sorted(dump.glob("*.ptx"))]
    widths = access_widths("\n".join(files))
    kernels, entries = {}, {}
    for thunk, (entry, kernel) in thunks(sequence).items():
        load, store = widths.get(entry, (None, None))
        name = names.get(thunk, entry)
        kernels[name] = replace(kernel, load_bytes=load, store_bytes=store)
        entries[name] = entry
    return kernels, Assembly(tuple(zlib.compress(text.encode(), 1) for text in files if text), entries)


def _names_by_thunk(dump: Path) -> dict[int, str]:
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
        grid, block = (_extent(match[key]) for key in ("grid", "block"))
        kernel = Kernel(grid=grid, block=block, shared_bytes=int(match["shared"]))
        found[int(match["thunk"])] = (match["name"], kernel)
    return found


def _extent(sizes: str) -> str:
    """ "512, 1, 1" -> "512"; "64, 8, 1" -> "64x8"."""
    numbers = [int(size) for size in sizes.split(",")]
    while len(numbers) > 1 and numbers[-1] == 1:
        numbers.pop()
    return "x".join(str(size) for size in numbers)


def access_widths(assembly: str) -> dict[str, tuple[int | None, int | None]]:
    """Widest global load and store of each kernel, in bytes; a bulk tensor copy counts as 16, its unit.

    A kernel that loads nothing from global memory has None.
    """
    entries = list(_ENTRY.finditer(assembly))
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
    """Path of ptxas: on PATH, or in the wheel nvidia-cuda-nvcc; None where it is not installed."""
    on_path = shutil.which("ptxas")
    if on_path:
        return on_path
    for root in {sysconfig.get_paths()["purelib"], *(p for p in sys.path if p.endswith("site-packages"))}:
        for path in Path(root).glob("nvidia/*/bin/ptxas"):
            return str(path)
    return None


@lru_cache(maxsize=8)
def _resources(files: tuple[bytes, ...]) -> dict[str, tuple[int, int]]:
    """Registers and spilled bytes by kernel, by assembling each file, several at a time."""
    ptxas = find_ptxas()
    found: dict[str, tuple[int, int]] = {}
    if ptxas:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for part in pool.map(partial(_assemble, ptxas), files):
                found.update(part)
    return found


def _assemble(ptxas: str, file: bytes) -> dict[str, tuple[int, int]]:
    text = zlib.decompress(file)
    architecture = re.search(rb"\.target\s+(sm_\w+)", text)
    if architecture is None:
        return {}
    with tempfile.NamedTemporaryFile(suffix=".ptx") as source:
        source.write(text)
        source.flush()
        command = [ptxas, "-v", f"-arch={architecture[1].decode()}", source.name, "-o", "/dev/null"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    report = done.stderr + done.stdout
    return {m["name"]: (int(m["registers"]), int(m["stores"]) + int(m["loads"])) for m in _RESOURCES.finditer(report)}
