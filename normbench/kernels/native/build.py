"""Builds the kernels with the C++ compiler of this machine, once for each of its kinds, and hands them to XLA.

The library lies in the user's cache under a name made of all that it depends on: sources, headers, compiler, flags and
CPU. Many processes may build at once: each writes a file of its own, and the last one to rename it wins.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import jax

from normbench.errors import UserError

SOURCES = Path(__file__).parent
TARGETS = ("rows", "segments", "columns", "windows")
FLAGS = (
    "-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fwrapv", "-fno-strict-aliasing",
    "-fPIC", "-shared",
)  # fmt: skip
"""None that lets the compiler reorder sums, or take it that there is no infinity and no NaN; nor that the bits of a
float, which is how bfloat16 is read and rounded, lie apart from the float. It may round a product and a sum at once; a
product that is taken from its own mean is kept from that in the sources (`rounded`)."""
COMPILERS = ("g++", "clang++")


def missing() -> str | None:
    """The reason why the kernels cannot be built here, or None."""
    if _compiler() is None:
        return "no C++ compiler is found: install g++ or clang++, or name one in the environment variable CXX"
    return None


def target_name(kernel: str) -> str:
    """The name under which XLA knows the kernel, one of `TARGETS`, built and registered now where it was not.

    Raises:
      UserError: without a compiler, or where it refuses the sources.
    """
    _register()
    return f"normbench_{kernel}"


@cache
def _register() -> None:
    library = ctypes.CDLL(str(_built()))
    for kernel in TARGETS:
        name = f"normbench_{kernel}"
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(getattr(library, name)), platform="cpu")


@cache
def _compiler() -> str | None:
    given = os.environ.get("CXX")
    return next(filter(None, map(shutil.which, [given] if given else COMPILERS)), None)


def _built() -> Path:
    if reason := missing():
        raise UserError(f"variant 'native' is not to be had: {reason}")
    compiler = str(_compiler())
    path = _folder() / f"native-{_key(compiler)}.so"
    if not path.exists():
        _build(compiler, path)
    return path


def _folder() -> Path:
    given = os.environ.get("XDG_CACHE_HOME", "")
    try:
        folder = (Path(given) if os.path.isabs(given) else Path.home() / ".cache") / "normbench" / "native"
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except (OSError, RuntimeError):
        pass
    return _own_folder()


@cache
def _own_folder() -> Path:
    """For this process alone, where the user has no cache that can be written."""
    return Path(tempfile.mkdtemp(prefix="normbench-native-"))


def _key(compiler: str) -> str:
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout
    parts = [compiler, version, *FLAGS, platform.machine(), _processor()]
    headers = sorted((Path(jax.ffi.include_dir()) / "xla" / "ffi").rglob("*.h"))
    digest = hashlib.sha256("\n".join(parts).encode())
    for path in (*sorted(SOURCES.glob("*.h")), *sorted(SOURCES.glob("*.cc")), *headers):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:32]


def _processor() -> str:
    """What `-march=native` may depend on: the model and the instruction sets."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(dict.fromkeys(line for line in lines if line.startswith(("model name", "flags", "Features"))))


def _build(compiler: str, path: Path) -> None:
    handle, written = tempfile.mkstemp(dir=path.parent, prefix=".building-", suffix=".so")
    os.close(handle)
    try:
        command = [compiler, *FLAGS, f"-I{jax.ffi.include_dir()}", str(SOURCES / "native.cc"), "-o", written]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            first = next((line for line in done.stderr.splitlines() if "error" in line), f"exit {done.returncode}")
            raise UserError(f"variant 'native' is not to be had: {compiler} refuses its sources: {first}")
        os.chmod(written, 0o755)
        os.replace(written, path)
    finally:
        Path(written).unlink(missing_ok=True)
