"""Compiles in another process: an abort there is an error here, with its reason."""

import atexit
import contextlib
import os
import select
import signal
import subprocess
import tempfile

from normbench import start
from normbench.errors import UserError
from normbench.fusion.compilation import Compilation, compile_bytecode_for
from normbench.fusion.compile_worker import receive, send
from normbench.fusion.targets import Target, compile_environment


class CompileError(RuntimeError):
    """The program could not be compiled. `status` is "failed", "crashed" or "timeout"."""

    def __init__(self, status: str, reason: str):
        super().__init__(f"{status}: {reason}")
        self.status = status
        self.reason = reason


class Compiler:
    """A worker process, started when it is first needed and again after it has died."""

    def __init__(self, environment: dict[str, str]):
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    def compile(self, bytecode: bytes, target: str | Target, lower_s: float, timeout_s: float) -> Compilation:
        """Compiles a lowered module for a target, by name or by its facts.

        Raises:
          CompileError: where the compiler failed, aborted or took longer than `timeout_s`.
          UserError: where the compiler plugin is missing.
        """
        process = self._running()
        try:
            send(process.stdin, (bytecode, target, lower_s))  # type: ignore[arg-type]
            if not select.select([self._answers], [], [], timeout_s)[0]:
                self.close()
                name = target if isinstance(target, str) else target.name
                raise CompileError("timeout", f"compiling for {name} took longer than {timeout_s:g} s")
            status, answer = receive(self._answers)
        except (EOFError, BrokenPipeError):
            reason = self._last_words(process)
            self.close()
            raise CompileError("crashed", reason) from None
        if status == "bad input":
            raise UserError(answer)
        if status == "unknown call" and target == "cpu":
            # Whatever registers it has done so in this process, which is where the program runs.
            with contextlib.suppress(Exception):
                return compile_bytecode_for(bytecode, target, lower_s)
        if status != "ok":
            raise CompileError("failed", answer)
        return answer

    def close(self) -> None:
        """Ends the worker, if there is one."""
        if self._process is None:
            return
        with contextlib.suppress(OSError):
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._answers, self._errors):
            with contextlib.suppress(OSError):
                stream.close()  # type: ignore[union-attr]
        self._process = None

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self.close()
        reader, writer = os.pipe()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as the worker)
        self._process = subprocess.Popen(
            start.command("normbench.fusion.compile_worker", str(writer)),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            pass_fds=(writer,),
            env={**os.environ, **self._environment, **start.environment()},
        )
        os.close(writer)
        self._answers = os.fdopen(reader, "rb")
        return self._process

    def _last_words(self, process: subprocess.Popen[bytes]) -> str:
        code = process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode("utf-8", "replace").strip().splitlines()
        fatal = [line for line in lines if line.startswith("F") or "Check failed" in line]
        ended = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        return f"the compiler ended with {ended}: {(fatal or lines or ['it said nothing'])[-1].strip()}"


_compilers: dict[bool, Compiler] = {}


def compiler(target: str) -> Compiler:
    """The worker of this process for `target`; the GPU that is present needs one with other settings."""
    on_device = target == "gpu"
    if on_device not in _compilers:
        environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} if on_device else compile_environment()
        _compilers[on_device] = Compiler(environment)
        atexit.register(_compilers[on_device].close)
    return _compilers[on_device]
