"""What XLA knows of the GPU that is here: its target configuration, stored with the run and compiled for without it."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from analysis.fusion import compile_environment
from analysis.fusion.targets import Target, deviceless_target, target_from_config
from normbench.errors import UserError
from normbench.schema import DEVICELESS_TARGETS

NAME = "gpu_target_config.pbtxt"
DESCRIBE_LIMIT_S = 60.0
"""For compiling the cases of a run without the GPU, at the end of a session on one; what is left over is told."""
_START_AND_END_S = 60.0
_ROOT = Path(__file__).resolve().parents[1]
_PROGRAM = "import jax; jax.jit(lambda x: x * 2 + 1)(jax.numpy.ones(8)).block_until_ready()"


def dump_target_config(run: Path) -> Path | None:
    """Compiles a small program in a process of its own and keeps the configuration that XLA writes beside its dump.

    Returns where it lies in the run's folder; None where XLA wrote none, as on a CPU.

    Raises:
      subprocess.SubprocessError: the process failed, or took longer than two minutes.
    """
    with tempfile.TemporaryDirectory() as folder:
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_dump_to={folder}".strip()
        variables = {**os.environ, "XLA_FLAGS": flags, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        subprocess.run([sys.executable, "-c", _PROGRAM], env=variables, check=True, capture_output=True, timeout=120)
        found = sorted(Path(folder).rglob(f"*{NAME}"))
        if not found:
            return None
        return Path(shutil.copy(found[0], run / NAME))


def read_target(path: Path) -> Target:
    """The facts in a dumped configuration; its name is that of the packaged target of the same device, else "gpu".

    Raises:
      UserError: where it cannot be read, or lacks a fact.
    """
    try:
        found = target_from_config("gpu", path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"target configuration {str(path)!r} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"{str(path)!r} is no target configuration as XLA dumps it: {error}") from error
    same = packaged(found)
    return target_from_config(same.name, found.config) if same else found


def packaged(target: Target) -> Target | None:
    """The target that comes with the package and names the same device, or None."""
    known = (deviceless_target(name) for name in DEVICELESS_TARGETS)
    return next((one for one in known if one.device_name == target.device_name), None)


def describe(run: Path, limit_s: float = DESCRIBE_LIMIT_S) -> None:
    """Compiles the cases of a run for its GPU's own description, in a process that does not see the GPU.

    Raises:
      subprocess.SubprocessError: the process failed, or took much longer than `limit_s`.
    """
    command = [sys.executable, "-m", "benchmarks.gpu_described", str(run.resolve()), "--limit", f"{limit_s:g}"]
    path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH", "")]))
    variables = {**os.environ, **compile_environment(), "PYTHONPATH": path}
    subprocess.run(command, env=variables, check=True, timeout=limit_s + _START_AND_END_S)
