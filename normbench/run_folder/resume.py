"""How to call this program, and how to finish a run that was stopped."""

import os
import shlex
import shutil
import sys
from pathlib import Path

from normbench.errors import UserError
from normbench.run_folder.info import read_info

_SET_BY_ITSELF = (("JAX_PLATFORMS", "cpu"), ("XLA_PYTHON_CLIENT_PREALLOCATE", "false"))
"""Environment variables that this program sets where nobody else does."""


def resume_command(run: Path) -> str:
    """The command that finishes a run, from whatever folder, with the modules that it needs and where they lie, and
    the environment variables without which it would not be the same environment."""
    try:
        info = read_info(run)
    except UserError:  # its folder is gone
        info = {}
    config, environment = info.get("config") or {}, info.get("environment") or {}
    imports = config.get("imports") or []
    call = program()
    variables = {
        name: value
        for name, value in (environment.get("variables") or {}).items()
        if name.startswith(("JAX_", "XLA_")) and (name, value) not in _SET_BY_ITSELF
    }
    if os.environ.get("PYTHONPATH") and (imports or "-m" in call):
        variables["PYTHONPATH"] = os.environ["PYTHONPATH"]
    options = [word for name in imports for word in ("--import", name)]
    command = shlex.join((*call, "study", "--resume", str(run.resolve()), *options))
    given = " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())
    place = f"cd {shlex.quote(str(config['folder']))} && " if imports and config.get("folder") else ""
    return f"{place}{given} {command}" if given else f"{place}{command}"


def program() -> tuple[str, ...]:
    """How to call this program: by its name, where a shell finds this one under it."""
    beside = Path(sys.executable).with_name("normbench")
    found = shutil.which("normbench")
    if found is not None and beside.exists() and Path(found).resolve() == beside.resolve():
        return ("normbench",)
    return (str(beside),) if beside.exists() else (sys.executable, "-m", "normbench.cli.main")
