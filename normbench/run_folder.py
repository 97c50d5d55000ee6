"""What makes a folder one of a run: `run.json`, and the types of its tables' columns."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from normbench import __version__
from normbench.errors import UserError
from normbench.schema import SCHEMA_VERSION, TABLES

_ARROW = {"string": pa.string(), "int64": pa.int64(), "float64": pa.float64(), "bool": pa.bool_()}
STATES = ("running", "complete")


def arrow_schema(table: str) -> pa.Schema:
    """The columns of a table of `normbench.schema.TABLES`, in their order."""
    return pa.schema([pa.field(name, _ARROW[kind]) for name, kind in TABLES[table].items()])


def read_info(path: Path) -> dict[str, Any]:
    """Reads the run.json of a run's folder.

    Raises:
      UserError: for a folder that is not a run, is damaged, or was written by a newer normbench.
    """
    file = path / "run.json"
    if not path.is_dir():
        raise UserError(f"run {str(path)!r} is not a folder; give the folder that holds run.json")
    if not file.is_file():
        raise UserError(f"run {str(path)!r} has no run.json; give the folder of a run, e.g. results/runs/<run id>")
    try:
        info = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{str(file)!r} cannot be read as JSON: {' '.join(str(error).split())}") from error
    if not isinstance(info, dict):
        raise UserError(f"{str(file)!r} holds a {type(info).__name__} where an object is expected")
    _check_version(path, file, info)
    if info.get("status") not in STATES:
        raise UserError(f"{str(file)!r} has status {info.get('status')!r}; allowed: {', '.join(STATES)}")
    return info


def _check_version(path: Path, file: Path, info: dict[str, Any]) -> None:
    version = info.get("schema_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise UserError(f"{str(file)!r} has schema_version {version!r}; a whole number from 1 is expected")
    if version > SCHEMA_VERSION:
        environment = info.get("environment")
        known = environment.get("normbench") if isinstance(environment, dict) else None
        writer = info.get("normbench_version") or known
        needed = f"normbench {writer}" if writer else "a newer normbench"
        raise UserError(
            f"run {str(path)!r} has schema version {version}; normbench {__version__} reads up to {SCHEMA_VERSION}: "
            f"read it with {needed} or later"
        )
