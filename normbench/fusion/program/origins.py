"""Where in the user's program a launch comes from: the scope by names, and the line of Python."""

import re
from pathlib import Path

from normbench.fusion.hlo import Instruction, Module

_WRAPPERS = re.compile(r"^(jvp|transpose|vmap|remat|checkpoint|custom_vjp|custom_jvp|pmap|xmap|shard_map)\((.*)\)$")
_JIT = re.compile(r"^p?jit\(")
_STRUCTURE = frozenset(
    (
        "while", "body", "cond", "closed_call", "checkpoint", "remat2", "rematted_computation", "custom_vjp_call",
        "custom_jvp_call", "custom_lin", "core_call", "shard_map", "jit", "pjit", "scan", "",
    )
)  # fmt: skip
_MAIN = (("dot", "convolution", "custom-call"), ("reduce", "scatter", "gather", "sort", "reduce-window"))
_PACKAGES = re.compile(r"^.*/(?:site|dist)-packages/")
_OWN_CALLS = ("normbench/fusion/compilation.py", "normbench/jax_compat/__init__.py")


def origin(module: Module, inside: tuple[Instruction, ...]) -> tuple[str, str]:
    """Scope and file:line of the main operation of a launch; empty where the compiler kept none.

    The main operation is a matrix product, convolution or call, else a reduction, else the last one that has a name.
    """
    named = [i for i in inside if "/" in i.op_name or i.frame]
    for opcodes in _MAIN:
        if found := [i for i in named if i.opcode in opcodes]:
            return scope(found[-1].op_name), source_line(module, found[-1].frame)
    if not named:
        return "", ""
    return scope(named[-1].op_name), source_line(module, named[-1].frame)


def scope(op_name: str) -> str:
    """The names that the program gave, by "/": "jit(f)/transpose(jvp(Net))/Norm_0/mul" gives "Net/Norm_0"."""
    return "/".join(name for part in op_name.split("/")[:-1] if (name := _unwrapped(part)) not in _STRUCTURE)


def _unwrapped(part: str) -> str:
    while match := _WRAPPERS.match(part):
        part = match[2]
    return "" if _JIT.match(part) else part


def source_line(module: Module, frame: int) -> str:
    """file:line of a frame, the innermost that is not this package's own call; "" where there is none."""
    for file, line in module.frames.get(frame, ()):
        if not file.endswith(_OWN_CALLS):
            return f"{_short(file)}:{line}"
    return ""


def _short(file: str) -> str:
    """The path below the installed packages or the working directory, else the name of the file and its folder."""
    packaged = _PACKAGES.sub("", file)
    if packaged != file:
        return packaged
    path = Path(file)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else "/".join(path.parts[-2:])
