"""run.json: the record that makes a folder one of a run, sealed with its own checksum and checked when it is read."""

import hashlib
import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any

from normbench import __version__
from normbench.errors import UserError
from normbench.run_folder.files import MAX_INFO_BYTES, Unreadable, read_bytes
from normbench.schema import SCHEMA_VERSION

STATES = ("running", "complete")
FIRST_CHECKED_VERSION = 2
"""Runs of an earlier schema version have no checksums."""
_SEAL = b',\n "sha256": "'
_SEALED_END = re.compile(rb'[0-9a-f]{64}"\n}\n')
_SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+@=,-]{0,254}")
_HEX = re.compile(r"[0-9a-f]{64}")

_TEXT, _NUMBER, _WHOLE = (str,), (int, float), (int,)
_COST = {"*": {"*": _NUMBER}}
_SHAPE: dict[str, Any] = {
    "run_id": _TEXT, "preset": _TEXT, "command": _TEXT, "created": _TEXT, "finished": _TEXT, "targets": [_TEXT],
    "normbench_version": _TEXT,
    "environment": {
        "normbench": _TEXT, "python": _TEXT, "packages": {"*": _TEXT}, "platform": _TEXT, "libc": _TEXT,
        "cpu_model": _TEXT, "cpu": {"cache_bytes": {"*": _WHOLE}}, "nvidia_driver": _TEXT, "variables": {"*": _TEXT},
        "git": {"revision": _TEXT, "dirty": (bool,)}, "command": _TEXT, "gpu_models": [_TEXT],
        "devices": [{"*": (str, int)}],
    },
    "config": {
        "cases": [_TEXT], "models": [_TEXT], "targets": [_TEXT], "preset": _TEXT, "command": _TEXT, "imports": [_TEXT],
        "folder": _TEXT, "executor": _TEXT, "processes": _WHOLE, "case_timeout_s": _NUMBER, "minimum_samples": _WHOLE,
        "maximum_samples": _WHOLE, "relative_noise": _NUMBER, "time_limit_s": _NUMBER, "workers": _WHOLE,
        "seed": _WHOLE, "attribution": (bool,), "shard": _TEXT, "own_targets": [{"*": (str, int, float)}],
    },
    "environments": {"*": {}}, "mixed": {"*": [_TEXT]},
    "cost": {"compile": _COST, "measure": _COST, "attribute": _COST},
    "files": {"*": {"bytes": _WHOLE, "sha256": _TEXT}},
}  # fmt: skip
"""What the fields of run.json must be where they are there; null is as good as absent, and others may come with them.
A tuple: types of a value; a list: of its entries; a mapping: of its fields, "*" of any."""


def seal_info(info: dict[str, Any]) -> bytes:
    """The bytes of run.json: the object, and in its last field the SHA-256 of all that stands before that field."""
    plain = {name: value for name, value in info.items() if name != "sha256"}
    body = json.dumps(plain, indent=1, allow_nan=False).encode().removesuffix(b"\n}")
    return body + _SEAL + hashlib.sha256(body).hexdigest().encode() + b'"\n}\n'


def read_info(path: Path) -> dict[str, Any]:
    """Reads the run.json of a run's folder.

    Raises:
      UserError: for a folder that is not a run, is damaged, or was written by a newer normbench.
    """
    file = path / "run.json"
    if not path.is_dir():
        raise UserError(f"run {str(path)!r} is not a folder; give the folder that holds run.json")
    if not file.is_symlink() and not file.exists():
        raise UserError(f"run {str(path)!r} has no run.json; give the folder of a run, e.g. results/runs/<run id>")
    try:
        data = read_bytes(file, MAX_INFO_BYTES)
    except Unreadable as error:
        raise UserError(f"{str(file)!r} {error}") from error
    sealed = _is_sealed(file, data)
    info = _parse(file, data)
    _check_version(path, file, info)
    if info["schema_version"] >= FIRST_CHECKED_VERSION and not sealed:
        raise UserError(f"{str(file)!r} is damaged: it does not end with its checksum; restore it from a copy")
    if info.get("status") not in STATES:
        raise UserError(f"{str(file)!r} has status {_short(info.get('status'))}; allowed: {', '.join(STATES)}")
    _check_fields(file, info)
    info.pop("sha256", None)
    return info


def _parse(file: Path, data: bytes) -> dict[str, Any]:
    try:
        info = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{str(file)!r} cannot be read as JSON: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(info, dict):
        raise UserError(f"{str(file)!r} holds a {type(info).__name__} where an object is expected")
    return info


def _is_sealed(file: Path, data: bytes) -> bool:
    """Whether it has a checksum; raises UserError where it is not that of what stands before it."""
    body, separator, end = data.rpartition(_SEAL)
    if not separator:
        return False
    if not _SEALED_END.fullmatch(end) or end[:64] != hashlib.sha256(body).hexdigest().encode():
        raise UserError(
            f"{str(file)!r} is damaged: it is not as it was written, its checksum differs; restore it from a copy"
        )
    return True


def _check_version(path: Path, file: Path, info: dict[str, Any]) -> None:
    version = info.get("schema_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise UserError(f"{str(file)!r} has schema_version {_short(version)}; a whole number from 1 is expected")
    if version > SCHEMA_VERSION:
        environment = info.get("environment")
        known = environment.get("normbench") if isinstance(environment, dict) else None
        writer = info.get("normbench_version") or known
        needed = f"normbench {writer}" if isinstance(writer, str) else "a newer normbench"
        raise UserError(
            f"run {str(path)!r} has schema version {_short(version)}; normbench {__version__} reads up to "
            f"{SCHEMA_VERSION}: read it with {needed} or later"
        )


def _check_fields(file: Path, info: dict[str, Any]) -> None:
    if wrong := _mismatch(info, _SHAPE, ""):
        raise UserError(f"{str(file)!r} is damaged: {wrong}")
    name = info.get("run_id")
    if name is not None and not _SAFE_NAME.fullmatch(name):
        raise UserError(f"{str(file)!r} has the run_id {_short(name)}; allowed: the name of a folder")
    for name, seal in (info.get("files") or {}).items():
        if not _SAFE_NAME.fullmatch(name):
            raise UserError(f"{str(file)!r} lists the file {_short(name)}; allowed: names within the run's folder")
        if seal is None or (seal.get("bytes") or 0) < 0 or not _HEX.fullmatch(seal.get("sha256") or ""):
            raise UserError(f"{str(file)!r} has no checksum of {name!r} that could be one")
    for field in ("created", "finished"):
        if info.get(field) is not None and not _is_time(info[field]):
            raise UserError(
                f"{str(file)!r} has {field} {_short(info[field])}; a time such as 2026-01-31T12:00:00+00:00"
            )


def _mismatch(value: Any, shape: Any, where: str) -> str | None:
    """What of a value is of another type than `shape` says, in words; None where nothing is."""
    if value is None:
        return None
    if isinstance(shape, tuple):
        fits = isinstance(value, shape) and (bool in shape or not isinstance(value, bool))
        names = " or ".join(one.__name__ for one in shape)
        return None if fits else f"{where} is {_short(value)} where {names} is expected"
    if isinstance(shape, list):
        if not isinstance(value, list) or any(one is None for one in value):
            return f"{where} is {_short(value)} where a list is expected"
        return next((wrong for one in value if (wrong := _mismatch(one, shape[0], f"an entry of {where}"))), None)
    if not isinstance(value, dict):
        return f"{where} is {_short(value)} where an object is expected"
    fields = ((name, shape.get(name, shape.get("*"))) for name in value)
    checked = (
        _mismatch(value[name], inner, f"{where}.{name[:80]}" if where else name)
        for name, inner in fields
        if inner is not None
    )
    return next((wrong for wrong in checked if wrong), None)


def _is_time(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _short(value: object) -> str:
    try:
        text = ascii(value)
    except (ValueError, RecursionError):  # a number of thousands of digits, nesting without end
        return f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."
