"""Programs of a session: each is traced whenever it is asked for, and compiled once."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax

import normbench
from normbench import jax_compat
from normbench.cache.toolchain import digest_of, toolchain
from normbench.errors import UserError
from normbench.explanation.call import Call, prepared_call
from normbench.explanation.explain import Report, report_of, require_target_name
from normbench.explanation.lowering import lowered_call
from normbench.fusion.compilation import Compilation
from normbench.fusion.isolation import compiler
from normbench.fusion.targets import compile_environment
from normbench.goldens.program import program_digest
from normbench.testing.cache import DiskCache
from normbench.testing.snapshots import key
from normbench.testing.structure import Structure, structure_of

TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Traced:
    """A call that was traced and lowered for a target.

    Attributes:
      bytecode: the StableHLO module, with source lines.
      digest: of the module, in which source lines do not count.
    """

    call: Call
    target: str
    bytecode: bytes
    lower_s: float
    digest: str

    @property
    def key(self) -> str:
        """Of its snapshot."""
        return key(self.target, jax.__version__, compile_environment()["XLA_FLAGS"])


@dataclass(frozen=True)
class _Compiled:
    """A compilation, and the digest of the bytecode that it was made of: source lines count here."""

    bytecode_sha256: str
    compilation: Compilation


class Programs:
    """Compiles programs, each once per session, and keeps them on disk between sessions.

    Attributes:
      compiled, found: how many were compiled here, and how many were found on disk.
    """

    def __init__(self, disk: DiskCache):
        self._disk = disk
        self._known: dict[str, _Compiled] = {}
        self.compiled = 0
        self.found = 0

    def traced(self, function: Callable, args: Sequence[Any], kwargs: Mapping[str, Any], target: str) -> Traced:
        """Traces a call.

        Raises:
          UserError: as `normbench.explain`, and for the target "gpu".
          CompileError: where JAX cannot lower it.
          Exception: whatever `function` raises.
        """
        if target == "gpu":
            raise UserError("target 'gpu' is whichever GPU is present; a test names a device, e.g. 'h200', or 'cpu'")
        require_target_name(target)
        call = prepared_call(function, args, kwargs)
        bytecode, lower_s = lowered_call(call, target)
        return Traced(call, target, bytecode, lower_s, program_digest(bytecode, jax_compat.module_text(bytecode)))

    def report(self, traced: Traced, lines_count: bool = False) -> Report:
        """The report on a traced call.

        Args:
          lines_count: whether names of scopes and source lines have to be those of this call; otherwise they may be
            those of an equal program that was compiled before its source moved.

        Raises:
          CompileError: where the compiler failed, aborted or took too long.
          UserError: where the compiler plugin does not fit.
        """
        name = digest_of(traced.digest, toolchain(traced.target))
        lines = hashlib.sha256(traced.bytecode).hexdigest()
        known = self._known.get(name)
        if known is None and isinstance(known := self._disk.find(name), _Compiled):
            self.found += 1
        if not isinstance(known, _Compiled) or (lines_count and known.bytecode_sha256 != lines):
            known = self._compile(traced, lines)
            self._disk.add(name, known)
        self._known[name] = known
        return report_of(traced.call, known.compilation)

    def _compile(self, traced: Traced, lines: str) -> _Compiled:
        self.compiled += 1
        done = compiler(traced.target).compile(traced.bytecode, traced.target, traced.lower_s, TIMEOUT_S)
        return _Compiled(lines, done)


def structure(traced: Traced, report: Report) -> Structure:
    """What a snapshot keeps of a program."""
    return structure_of(report.compilation.reading, traced.digest[:12], normbench.__version__)
