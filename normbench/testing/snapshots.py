"""Snapshots on disk, in syrupy's manner: `__snapshots__/<test file>.fusion.json` beside each test file.

One file per test file, an entry per check and, in it, one per target, JAX release and the XLA flags that matter; a line
per kind of launch.
"""

import json
from pathlib import Path
from typing import Any

from normbench.cache.store import write_whole
from normbench.cache.toolchain import flags_that_matter
from normbench.errors import UserError
from normbench.testing.structure import Structure, structure_from

FOLDER = "__snapshots__"
SUFFIX = ".fusion.json"
VERSION = 1
_VERSION = "normbench_fusion"
Entries = dict[str, dict[str, Structure]]
"""By name of the check, and by key."""


def snapshot_path(test_file: Path) -> Path:
    """Where the snapshots of a test file lie."""
    return test_file.parent / FOLDER / f"{test_file.stem}{SUFFIX}"


def key(target: str, jax_version: str, xla_flags: str) -> str:
    """What a program depends on beside the source: "h200, jax 0.10.2", and the XLA flags that matter for the target."""
    return ", ".join([target, f"jax {jax_version}", *flags_that_matter(target, xla_flags)])


def target_of(key: str) -> str:
    """The target in a key."""
    return key.partition(",")[0]


def read_entries(path: Path) -> Entries:
    """The entries of a snapshot file; none where there is no such file.

    Raises:
      UserError: for a file that is damaged or was written by a later normbench.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from error
    version = found.get(_VERSION) if isinstance(found, dict) else None
    if isinstance(version, int) and version > VERSION:
        raise UserError(f"snapshot {str(path)!r} has version {version}; this normbench reads up to {VERSION}")
    try:
        if version is None:
            raise ValueError(f"it has no {_VERSION!r}")
        return {name: {key: structure_from(row) for key, row in keys.items()} for name, keys in found["checks"].items()}
    except (ValueError, KeyError, AttributeError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> UserError:
    words = " ".join(str(error).split())
    return UserError(
        f"snapshot {str(path)!r} is damaged ({words}): take it from version control again, or write it anew with "
        "--fusion-update"
    )


def write_entries(path: Path, entries: Entries) -> None:
    """Writes a snapshot file at once, whole; removes it where nothing is left to be kept.

    Raises:
      UserError: where the folder cannot be written to.
    """
    try:
        if not any(entries.values()):
            path.unlink(missing_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, to_text(entries).encode())
    except OSError as error:
        raise UserError(f"snapshot {str(path)!r} cannot be written: {error.strerror or error}") from error


def to_text(entries: Entries) -> str:
    """The entries as JSON, sorted, a line per kind of launch."""
    checks = ",\n".join(
        f"  {json.dumps(name)}: {{\n{_keys_text(keys)}\n  }}" for name, keys in sorted(entries.items()) if keys
    )
    return f'{{\n "{_VERSION}": {VERSION},\n "checks": {{\n{checks}\n }}\n}}\n'


def _keys_text(keys: dict[str, Structure]) -> str:
    return ",\n".join(f"   {json.dumps(key)}: {_structure_text(keys[key].row())}" for key in sorted(keys))


def _structure_text(row: dict[str, Any]) -> str:
    each = ",\n".join(f"     {json.dumps(line)}" for line in row["each"])
    lines = [f"    {json.dumps(name)}: {json.dumps(value)}" for name, value in row.items() if name != "each"]
    return "{\n" + ",\n".join([*lines, '    "each": [\n' + each + "\n    ]"]) + "\n   }"
