"""Goldens on disk: what each JAX version makes of each case, `<jax>/<target>/<operator>.csv`, a line per case.

The columns: `case`; `launches`; `kinds`, `rewrites` and `refused` as "name=count" joined by "; " (see
`normbench.fusion.changes.launch_facts`); `bytes` across the boundaries of the launches; `traffic_ratio`, bytes
over the minimum; `program`, the start of the SHA-256 of what JAX handed to the compiler, as text without source lines;
`reason` where it does not compile, as "status: words", with nothing in the other columns.
"""

import csv
import io
import os
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from normbench.errors import UserError
from normbench.fusion.changes import Structure, program_changes

FOLDER = Path("results/golden")
COLUMNS = ("case", "launches", "traffic_ratio", "bytes", "kinds", "rewrites", "refused", "program", "reason")
_COUNTS = ("kinds", "rewrites", "refused")
Goldens = dict[str, Structure]
"""By case."""


def to_csv(goldens: Goldens) -> str:
    """The lines of one file, sorted by case."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for case, row in sorted(goldens.items()):
        writer.writerow([case, *(_cell(row, name) for name in COLUMNS[1:])])
    return stream.getvalue()


def _cell(row: Structure, name: str) -> Any:
    if name == "reason":
        return f"{row['status']}: {row['reason']}" if row.get("status") else ""
    value = row.get(name)
    return "; ".join(f"{key}={number}" for key, number in value.items()) if isinstance(value, dict) else value


def from_csv(text: str) -> Goldens:
    """The inverse of `to_csv`."""
    return {row["case"]: _structure(row) for row in csv.DictReader(io.StringIO(text))}


def _structure(row: dict[str, str]) -> Structure:
    if row["reason"]:
        status, _, reason = row["reason"].partition(": ")
        return {"status": status, "reason": reason, "program": row["program"]}
    ratio = row["traffic_ratio"]
    return {
        "launches": int(row["launches"]),
        **{name: _counts(row[name]) for name in _COUNTS},
        "bytes": int(row["bytes"]),
        "traffic_ratio": float(ratio) if ratio else None,
        "program": row["program"],
    }


def _counts(text: str) -> dict[str, int]:
    pairs = (item.rpartition("=") for item in text.split("; ") if item)
    return {name: int(number) for name, _, number in pairs}


def read_folder(folder: Path) -> Goldens:
    """All cases of one JAX version and target; empty where there is no such folder."""
    found: Goldens = {}
    for path in sorted(folder.glob("*.csv")):
        found |= from_csv(path.read_text(encoding="utf-8"))
    return found


def read_all(folder: Path = FOLDER) -> dict[str, dict[str, Goldens]]:
    """By JAX version, the oldest first, and by target."""
    paths = sorted(folder.glob("*/*/"), key=lambda path: (version_key(path.parent.name), path.name))
    return _by_version((path.parent.name, path.name, read_folder(path)) for path in paths)


def read_revision(revision: str, folder: Path = FOLDER) -> dict[str, dict[str, Goldens]]:
    """The same as of a commit of the repository in the current folder.

    Raises:
      UserError: for an unknown revision, or one without goldens.
    """
    names = _git("ls-tree", "-r", "--name-only", "--end-of-options", revision, f"{folder}/").split("\n")
    paths = [Path(name) for name in names if name.endswith(".csv") and len(Path(name).relative_to(folder).parts) == 3]
    if not paths:
        raise UserError(f"revision {revision!r} has no goldens in {str(folder)!r}")
    paths.sort(key=lambda path: (version_key(path.parts[-3]), path))
    return _by_version((p.parts[-3], p.parts[-2], from_csv(_git("show", f"{revision}:{p}"))) for p in paths)


def _git(*arguments: str) -> str:
    command = ("git", *arguments)
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except OSError as error:
        raise UserError(f"git cannot be run: {error.strerror}") from error
    if done.returncode:
        if b"not a git repository" in done.stderr:
            raise UserError(
                f"golden: the current folder {os.getcwd()!r} is no checkout of normbench, where commits and the "
                f"releases in {str(FOLDER)!r} can be compared; go to one"
            )
        words = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["it said nothing"]
        raise UserError(f"git {arguments[0]}: {words[0]}")
    return done.stdout.decode("utf-8")


def _by_version(parts: Iterable[tuple[str, str, Goldens]]) -> dict[str, dict[str, Goldens]]:
    found: dict[str, dict[str, Goldens]] = {}
    for version, target, goldens in parts:
        found.setdefault(version, {}).setdefault(target, {}).update(goldens)
    return found


def version_key(version: str) -> tuple[tuple[int, str], ...]:
    """Sorts versions as numbers: 0.9 before 0.10."""
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in version.split("."))


def case_name(case: str, target: str) -> str:
    """A case in words: "layer_norm two_pass backward on h200"."""
    operator, variant = case.split(".")[0], case.rpartition(".")[2]
    return f"{operator} {variant} {_pass(case)} on {target}"


def _pass(case: str) -> str:
    return next((word for word in case.split(".") if word in ("forward", "backward", "forward_backward")), "")


def differences(before: Goldens, after: Goldens) -> Iterator[tuple[str, list[str]]]:
    """Yields (case, what changed in words) for the cases of both that differ."""
    for case, row in before.items():
        if case in after and (changes := program_changes(row, after[case])):
            yield case, changes
