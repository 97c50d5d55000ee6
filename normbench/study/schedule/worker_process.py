"""The parent's side of a worker process: start it, hear it, watch over it, and say how it died."""

import contextlib
import errno
import json
import mmap
import os
import re
import signal
import subprocess
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from normbench import start
from normbench.fusion import compile_environment
from normbench.study.clocks.memory import ALLOCATOR_ENVIRONMENT, resident_bytes
from normbench.study.schedule.mark import Mark
from normbench.study.schedule.store import StorageError
from normbench.study.schedule.units import Unit

START_LIMIT_S = 300
"""For importing JAX on a slow disk: a worker that takes longer is broken."""


FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals by which others end a process: a person, the kernel for want of memory, a machine that shuts down. A program
that goes wrong raises none of them by itself."""


@dataclass(frozen=True)
class Settings:
    """What a worker is started for; equal settings can share a process.

    Attributes:
      kind: "compile", "measure" or "attribute".
      target: "cpu", "gpu", or the platform of the absent devices that are compiled for.
      process: repetition of the measurement.
      wide: JAX's 64-bit mode from the start; a compiling worker changes it unit by unit.
      run: the run's folder, for the modules.
      imports: modules to import first, for variants of the user's own.
      rule: the fields of the stopping rule.
      seed: of the order of interleaving.
      memory_share: of the available memory that the worker may use.
      processes: how many take turns in measuring, each with input sets of its own.
      cache: the folder of the cache of compilations; None: nothing is read or kept.
      host, device_id: what the rows call this machine, and its device.
    """

    kind: str
    target: str
    process: int
    wide: bool
    run: str
    imports: tuple[str, ...]
    rule: tuple[tuple[str, Any], ...]
    seed: int
    memory_share: float
    processes: int
    cache: str | None = None
    host: str | None = None
    device_id: str | None = None

    def environment(self) -> dict[str, str]:
        variables = {**os.environ, **ALLOCATOR_ENVIRONMENT, **start.environment()}
        variables["JAX_ENABLE_X64"] = "1" if self.wide else "0"
        if self.target == "gpu":
            # The float64 oracle of the gradients runs on the CPU.
            variables |= {"JAX_PLATFORMS": "cuda,cpu", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
            if self.kind == "attribute":  # in a command buffer the instructions cannot be told apart
                variables["XLA_FLAGS"] = f"{variables.get('XLA_FLAGS', '')} --xla_gpu_enable_command_buffer=".strip()
            return variables
        # One worker compiles on one core, which is how `workers` and Ray count them.
        return {**variables, **compile_environment(threads=1 if self.kind == "compile" else None)}


@dataclass(frozen=True)
class Death:
    """How a worker ended, and what it was busy with.

    Attributes:
      case: index within the unit of the case that did it; None where it was none in particular.
      status, reason: of the row that it becomes.
      from_outside: whether a signal of others ended it, or it died idle, which says nothing of a case: what it was
        asked for is tried again.
    """

    case: int | None
    status: str
    reason: str
    from_outside: bool = False


class Worker:
    """One worker process and the unit that it is busy with."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.unit: Unit | None = None
        self.ready = False
        self._killed_for: str | None = None
        self._unread = b""
        self._marked = (0, -1, "starting")
        self._marked_s = time.monotonic()
        self._oom_kills = oom_kills()
        self._errors = _memory_file("errors")  # lives as long as the worker
        with _memory_file("mark") as page:
            page.truncate(Mark.SIZE_BYTES)
            self._page = mmap.mmap(page.fileno(), Mark.SIZE_BYTES)
            self.results, results = os.pipe()
            command = start.command("normbench.study.worker.main")
            numbers = {"results": results, "mark": page.fileno(), "parent": os.getpid()}
            self._process = subprocess.Popen(
                [*command, *(f"--{name}={number}" for name, number in numbers.items())],
                stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self._errors,
                env=settings.environment(), pass_fds=(results, page.fileno()), start_new_session=True,
            )  # fmt: skip
            os.close(results)
        os.set_blocking(self.results, False)
        fields = {**asdict(settings), "rule": dict(settings.rule)}
        self._write(fields)

    @property
    def pid(self) -> int:
        return self._process.pid

    def resident_bytes(self) -> int | None:
        """Memory that it holds; None where the system does not tell."""
        return resident_bytes(self.pid)

    def begin(self, unit: Unit) -> None:
        self.unit = unit
        self._marked_s = time.monotonic()
        self._write(asdict(unit))

    def go_on(self) -> None:
        """Ends the worker's pause."""
        self._marked_s = time.monotonic()
        self._write({"event": "go_on"})

    def _write(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it is dead: `receive` finds out, and `death` says why
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()

    def receive(self) -> tuple[list[dict[str, Any]], bool]:
        """Messages that have come, and whether these were the last.

        Raises:
          StorageError: where the worker says that it cannot write.
        """
        ended = False
        while True:
            try:
                data = os.read(self.results, 1 << 20)
            except BlockingIOError:
                break
            if not data:
                ended = True
                break
            self._unread += data
        *lines, self._unread = self._unread.split(b"\n")
        messages = [json.loads(line) for line in lines]
        for message in messages:
            if message["event"] == "stop":
                raise StorageError(errno.EIO, message["reason"])
        return messages, ended

    def watch(self, limit_s: float) -> None:
        """Kills the worker where one step takes longer than `limit_s`."""
        marked = Mark.read(self._page)
        now = time.monotonic()
        if marked != self._marked:
            self._marked, self._marked_s = marked, now
        limit_s = limit_s if self.ready else START_LIMIT_S
        if now - self._marked_s > limit_s and self._killed_for is None:
            self._killed_for = f"{marked[2]} it took longer than {limit_s:g} s"
            self.kill()

    def kill(self) -> None:
        """Ends the worker and whatever it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        """Ends the worker if it still lives, and frees what the parent holds for it."""
        if self._process.poll() is None:
            self.kill()
        self._process.wait()
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        os.close(self.results)
        self._errors.close()
        self._page.close()

    def death(self) -> Death:
        """Says how the worker died; to be asked after its results have ended."""
        code = self._process.wait()
        _, index, step = Mark.read(self._page)
        idle = index < 0 and step == "waiting"
        self._errors.seek(0)
        errors = self._errors.read().decode(errors="replace")
        status, reason = explain_death(code, errors, self._killed_for, oom_kills() > self._oom_kills)
        from_outside = self._killed_for is None and (-code in FROM_OUTSIDE or idle)
        reason = f"{reason} ({step})" if self._killed_for is None else reason
        return Death(None if index < 0 else index, status, reason, from_outside)


def explain_death(code: int, errors: str, killed_for: str | None, out_of_memory: bool = False) -> tuple[str, str]:
    """Status and reason for an exit code (negative: a signal) and what was written to standard error.

    Args:
      out_of_memory: whether the kernel has killed a process for memory meanwhile.
    """
    if killed_for is not None:
        return "timeout", killed_for
    if -code in FROM_OUTSIDE:
        if code == -signal.SIGKILL and out_of_memory:
            return "out_of_memory", "killed by the kernel for memory"
        return "killed", f"killed from outside by {signal.Signals(-code).name}"
    last = telling_line(errors)
    if "bad_alloc" in errors or "RESOURCE_EXHAUSTED" in last or "MemoryError" in last:
        return "out_of_memory", last
    if code < 0:
        return "crashed", f"{signal.Signals(-code).name}: {last}"
    return "crashed", f"the process exited with status {code}: {last}"


def oom_kills() -> int:
    """How many processes the kernel has killed for memory since it started, here and in this control group; 0 where it
    does not tell."""
    count = 0
    for path in (Path("/proc/vmstat"), Path("/sys/fs/cgroup/memory.events")):
        with contextlib.suppress(OSError, ValueError):
            words = (line.split() for line in path.read_text().splitlines())
            count += sum(int(number) for name, number in words if name == "oom_kill")
    return count


def _memory_file(name: str) -> IO[bytes]:
    """A file that takes no room in a folder, which may be full, where the system has such."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create(f"normbench-{name}"), "w+b")
    return tempfile.TemporaryFile()


def telling_line(errors: str) -> str:
    """The line of a process's last words that says most: a failed check of XLA, else the last one."""
    lines = [" ".join(line.split()) for line in errors.splitlines() if line.strip()]
    fatal = [line for line in lines if re.match(r"F\d{4} |.*Check failed", line)]
    plain = [line for line in lines if not re.match(r"\*\*\*|@ 0x|\[\w+:\d+\]", line)]
    return (fatal or plain or lines or ["no message"])[-1][:500]
