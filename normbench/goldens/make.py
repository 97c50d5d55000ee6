"""Makes goldens: lowers every case here, compiles those that are new in worker processes, several at once.

A case is compiled again only where something changed that decides its structure: the program that JAX hands to the
compiler, the compiler, its flags, or the code that reads its output. What was compiled is noted at once in
`build/golden/`, so that a killed renewal goes on where it was.
"""

import ast
import hashlib
import inspect
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from normbench import declared
from normbench.errors import UserError
from normbench.fusion import compile_environment
from normbench.fusion.changes import Structure, launch_facts
from normbench.fusion.compilation import Compilation
from normbench.fusion.isolation import CompileError, Compiler
from normbench.fusion.targets import Target, compiler_versions, deviceless_target, require_compilers
from normbench.goldens.program import lowered, wide
from normbench.goldens.store import Goldens

JOURNALS = Path("build/golden")
TIMEOUT_S = 600.0
COMPILES_PER_WORKER = 300
"""After which a worker is replaced: compiled programs stay in its memory."""
_READERS = ("hlo", "launches", "traffic", "bounds", "refusals", "reading", "wire", "program/*", "tpu/*")
ProgramOf = Callable[[str, str], Any]


def structure(compilation: Compilation) -> Structure:
    """Launches, kinds, bytes and ratio of a compiled program."""
    row = compilation.compiled_row()
    ratio = row["traffic_ratio"]
    return {
        "launches": row["launches"],
        **launch_facts(compilation.launch_rows(assembled=False)),
        "bytes": row["bytes"],
        "traffic_ratio": None if ratio is None else round(ratio, 4),
    }


def toolchain(target: str | Target) -> str:
    """A digest of all but the program that decides what comes out: packages, flags, the target, the reading code.

    The same for a target by name and for one that was described by the very same text.
    """
    import normbench.fusion

    folder = Path(normbench.fusion.__file__).parent
    facts = target if isinstance(target, Target) else deviceless_target(target)
    tools = [compiler_versions(facts.platform), compile_environment(), _name(target)]
    digest = hashlib.sha256(json.dumps(tools).encode())
    own = (Path(inspect.getfile(launch_facts)), Path(declared.__file__))
    readers = [path for name in _READERS for path in sorted(folder.glob(f"{name}.py"))]
    for path in (*readers, *own):
        digest.update(ast.unparse(ast.parse(path.read_text(encoding="utf-8"))).encode())  # comments do not count
    digest.update(facts.config.encode())
    return digest.hexdigest()[:12]


def _name(target: str | Target) -> str:
    return target if isinstance(target, str) else target.name


class Journal:
    """What was compiled here before, by case, program and toolchain: a file of one JSON object per line."""

    def __init__(self, path: Path, tools: str):
        self._path = path
        self._tools = tools
        self._lock = threading.Lock()
        self._known = dict(self._read())

    def _read(self) -> Iterator[tuple[tuple[str, str], Structure]]:
        lines = self._path.read_text(encoding="utf-8").splitlines() if self._path.is_file() else []
        for line in lines:
            try:
                entry = json.loads(line)
            except ValueError:  # cut off when its writer was killed
                continue
            if entry["tools"] == self._tools:
                yield (entry["case"], entry["structure"]["program"]), entry["structure"]

    def find(self, case: str, program: str) -> Structure | None:
        return self._known.get((case, program))

    def add(self, case: str, found: Structure) -> None:
        line = json.dumps({"case": case, "tools": self._tools, "structure": found})
        with self._lock:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as stream:
                stream.write(f"\n{line}" if self._path.stat().st_size else line)


def make(
    cases: Iterable[str],
    target: str | Target,
    program_of: ProgramOf,
    journal: Journal | None,
    workers: int,
    progress: Callable[[int, int], None] = lambda done, compiled: None,
) -> Goldens:
    """The structures of all cases that `program_of` does not refuse; taken from the journal where it has them.

    Args:
      target: by its name, or by its facts.
      program_of: (case, name of the target) -> a Program; NotImplementedError where it is not supported.
      journal: what is known; None to compile everything anew.
      progress: called after each case with how many are done and how many of them were compiled.

    Raises:
      UserError: without the compiler plugin, or where a compilation took longer than `TIMEOUT_S`.
    """
    require_compilers(target)
    found: Goldens = {}
    waiting: dict[str, Future[Structure]] = {}
    pool = Pool(workers, target)
    try:
        for case in cases:
            handed_over = lower_case(case, target, program_of)
            if isinstance(handed_over, dict):
                found[case] = handed_over
            elif handed_over is not None:
                bytecode, program = handed_over
                known = journal.find(case, program) if journal else None
                if known:
                    found[case] = known
                else:
                    waiting[case] = pool.submit(case, bytecode, program, journal)
            progress(len(found), len(waiting))
        for case, future in waiting.items():
            found[case] = future.result()
            progress(len(found), len(waiting))
    finally:
        pool.close()
    return found


def lower_case(case: str, target: str | Target, program_of: ProgramOf) -> tuple[bytes, str] | Structure | None:
    """The program as bytecode and its digest; a structure where lowering fails; None where it is not supported."""
    with wide(case):
        try:
            return lowered(program_of(case, _name(target)), target)
        except NotImplementedError:
            return None
        except Exception as error:  # whatever tracing raises
            return {**_failure("failed", f"{type(error).__name__}: {error}"), "program": ""}


def _failure(status: str, reason: str) -> Structure:
    return {"status": status, "reason": " ".join(reason.split())[:200]}


class Pool:
    """Threads that each drive a compiler process of their own.

    Args:
      read: what is kept of a compiled program.
    """

    def __init__(self, workers: int, target: str | Target, read: Callable[[Compilation], Structure] = structure):
        self._threads = ThreadPoolExecutor(workers)
        self._own = threading.local()
        self._compilers: list[Compiler] = []
        self._target = target
        self._read = read

    def submit(self, case: str, bytecode: bytes, program: str, journal: Journal | None) -> Future[Structure]:
        return self._threads.submit(self._compile, case, bytecode, program, journal)

    def _compile(self, case: str, bytecode: bytes, program: str, journal: Journal | None) -> Structure:
        try:
            found = self._read(self._compiler().compile(bytecode, self._target, 0.0, TIMEOUT_S))
        except CompileError as error:
            if error.status == "timeout":
                raise UserError(f"{case}: {error.reason}") from error
            found = _failure(error.status, error.reason)
        found["program"] = program
        if journal:
            journal.add(case, found)
        return found

    def _compiler(self) -> Compiler:
        if not hasattr(self._own, "compiler"):
            self._own.compiler, self._own.compiled = Compiler(compile_environment()), 0
            self._compilers.append(self._own.compiler)
        self._own.compiled += 1
        if self._own.compiled % COMPILES_PER_WORKER == 0:
            self._own.compiler.close()
        return self._own.compiler

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        for compiler in self._compilers:
            compiler.close()


def default_workers() -> int:
    return max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
