"""Writes run.json with its own checksum and, once a run is complete, those of the files beside it."""

from pathlib import Path
from typing import Any

from normbench.run_folder.files import digest, write_atomically
from normbench.run_folder.info import seal_info

MADE_AGAIN = (".html", ".svg", ".json")
"""Ends of names of what is made from a run, and of run.json itself: they have no checksum in it."""


def write_info(folder: Path, info: dict[str, Any]) -> None:
    """Writes run.json, whole or not at all; raises OSError where the system refuses."""
    write_atomically(folder / "run.json", seal_info(info))


def seal_run(folder: Path, info: dict[str, Any]) -> dict[str, Any]:
    """Writes run.json with the checksum of every file beside it, and returns what it holds then.

    To be called when the tables of a complete run were written, and after whatever is added to one.

    Raises:
      OSError: where the system refuses.
    """
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and not path.is_symlink())
    sealed = [name for name in names if not name.startswith(".") and not name.endswith(MADE_AGAIN)]
    found = {name: digest(folder / name) for name in sealed}
    info = {**info, "files": {name: {"bytes": size, "sha256": sha256} for name, (size, sha256) in found.items()}}
    write_info(folder, info)
    return info
