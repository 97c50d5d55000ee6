"""What beside the program decides what comes out of a compilation: packages, flags, the device, the code that reads."""

import hashlib
import json
import os
import re
import subprocess
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import normbench
from normbench.fusion.ptx import find_ptxas
from normbench.fusion.targets import compile_environment, compiler_versions, facts_of, platform_of
from normbench.schema import TPU_TARGETS

READERS = ("fusion", "jax_compat", "declared.py")
"""The code that reads what the compiler made."""
PREDICTORS = (*READERS, "predict")
"""The same with the code that predicts times of it."""
_NOT_MATTERING = re.compile(
    r"xla_(dump_|force_host_platform_device_count|hlo_profile|gpu_force_compilation_parallelism|gpu_autotune_level=0)"
)


def flags_that_matter(target: str, xla_flags: str) -> list[str]:
    """The flags of XLA_FLAGS that may change the program of a target, sorted; of a TPU those of LIBTPU_INIT_ARGS."""
    if target in TPU_TARGETS:
        return sorted(os.environ.get("LIBTPU_INIT_ARGS", "").split())
    others = "--xla_gpu_" if target == "cpu" else "--xla_cpu_"
    flags = {flag for flag in xla_flags.split() if flag.startswith("--") and not flag.startswith(others)}
    return sorted(flag[2:] for flag in flags if not _NOT_MATTERING.match(flag[2:]))


@cache
def toolchain(target: str, code: tuple[str, ...] = READERS) -> str:
    """A digest of all but the program that decides what comes out: packages, flags, the device, the assembler, and the
    files and folders of this package in `code`."""
    facts = facts_of(target)
    versions = compiler_versions(platform_of(target))
    flags = flags_that_matter(target, compile_environment()["XLA_FLAGS"])
    machine = list(os.uname())[-1:] if facts is None and hasattr(os, "uname") else []
    digest = hashlib.sha256(json.dumps([versions, flags, target, machine, _assembler()]).encode())
    digest.update(facts.config.encode() if facts else b"")
    digest.update(code_digest(code).encode())
    return digest.hexdigest()


@cache
def code_digest(code: tuple[str, ...] = (".",)) -> str:
    """A digest of files and folders of this package, all of them by default: code and the tables that it reads."""
    folder = Path(normbench.__file__).parent
    digest = hashlib.sha256()
    for path in _files(folder / name for name in code):
        digest.update(f"{path.relative_to(folder).as_posix()}\n".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _files(places: Iterable[Path]) -> Iterable[Path]:
    for place in places:
        found = [place] if place.is_file() else sorted(place.rglob("*"))
        yield from (path for path in found if path.is_file() and path.suffix != ".pyc")


def _assembler() -> str:
    """What ptxas says of its version; empty where there is none: registers and spills are then unknown."""
    path = find_ptxas()
    if path is None:
        return ""
    try:
        return subprocess.run([path, "--version"], capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired):
        return path


def digest_of(*parts: str) -> str:
    """A key made of several."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
