"""What XLA knows of the GPU that is here: its target configuration, stored with the run."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

NAME = "gpu_target_config.pbtxt"
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
