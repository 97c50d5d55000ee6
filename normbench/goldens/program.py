"""What JAX hands to the compiler for a case: as bytecode, and as a digest that is equal for equal programs."""

import hashlib
import re
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax

from normbench.cases.case import Case
from normbench.fusion.compilation import lower_with_text
from normbench.fusion.targets import Target
from normbench.jax_compat.embedded import without_source_lines

_CONSTRAINT = re.compile(r"^\s*(%\S+) = sdy\.sharding_constraint (%[\w#]+) .*$", re.MULTILINE)
_MESH = re.compile(r"^\s*sdy\.mesh .*\n", re.MULTILINE)
_VALUE = re.compile(r"%\w+")
_DECLARED = re.compile(rb"declared_read_\d+_write_\d+_bytes|wide_outputs\w*")
"""What a program declares in the names of its scopes, which only the bytecode holds: see `normbench.declared`."""


def golden_program(slug: str, target: str) -> Any:
    """The program of a case.

    Raises:
      NotImplementedError: with the reason why it is not supported on `target`.
    """
    from normbench import kernels

    case = Case.from_slug(slug)
    if reason := kernels.get(case.operator, case.variant).supports(case.problem, target):
        raise NotImplementedError(reason)
    return kernels.program(case.problem, case.variant)


def wide(slug: str) -> AbstractContextManager:
    """JAX's 64-bit mode for a case that needs it."""
    case = Case.from_slug(slug)
    return jax.enable_x64(True) if "float64" in (case.dtype, case.param_dtype) else nullcontext()


def lowered(program: Any, target: str | Target) -> tuple[bytes, str]:
    """The StableHLO module of a program, and a digest of it in which source lines do not count."""
    bytecode, text = lower_with_text(program.function, program.inputs, target)
    return bytecode, program_digest(bytecode, text)[:12]


def program_digest(bytecode: bytes, text: str) -> str:
    """The SHA-256 of a StableHLO module in which source lines and names of scopes do not count.

    Args:
      bytecode, text: the module as bytecode, and as text without source lines.
    """
    plain = plain_text(without_source_lines(text)) + str(sorted(set(_DECLARED.findall(bytecode))))
    return hashlib.sha256(plain.encode()).hexdigest()


def plain_text(text: str) -> str:
    """A module without sharding constraints, its values numbered anew.

    From JAX 0.11 every value of a program that is lowered for a described device is constrained to that one device.
    """
    functions = re.split(r"(?=^ *func\.func)", _MESH.sub("", text), flags=re.MULTILINE)
    return "".join(_plain_function(function) for function in functions)


def _plain_function(text: str) -> str:
    aliases = dict(_CONSTRAINT.findall(text))
    names: dict[str, str] = {}

    def rename(match: re.Match[str]) -> str:
        name = match[0]
        while name in aliases:
            name = aliases[name]
        return names.setdefault(name, f"%v{len(names)}")

    kept = _VALUE.sub(rename, _CONSTRAINT.sub("", text))
    return "".join(f"{line}\n" for line in kept.split("\n") if line.strip())
