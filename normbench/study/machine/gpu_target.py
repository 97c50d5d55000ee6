"""What XLA knows of the GPU that is here: its target configuration, stored with the run and compiled for without it."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from normbench import start
from normbench.fusion import compile_environment

NAME = "gpu_target_config.pbtxt"
DESCRIBE_LIMIT_S = 60.0
"""For compiling the cases of a run without the GPU, at the end of a session on one; what is left over is told."""
_START_AND_END_S = 60.0
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


def describe(run: Path, limit_s: float = DESCRIBE_LIMIT_S) -> None:
    """Compiles the cases of a run for its GPU's own description, in a process that does not see the GPU.

    Raises:
      subprocess.SubprocessError: the process failed, or took much longer than `limit_s`.
    """
    command = start.command("normbench.cli.gpu_described", str(run.resolve()), "--limit", f"{limit_s:g}")
    variables = {**os.environ, **compile_environment(), **start.environment()}
    subprocess.run(command, env=variables, check=True, timeout=limit_s + _START_AND_END_S)
