"""Reads the folder of a run and holds every file in it against its checksum: for report, compare, merge and resume.

What is sealed how: run.json by its last field; each table, and whatever else belongs to a complete run, in the field
"files" of run.json; a part of an unfinished run by its own last 32 bytes; a compiled module by its name, which is the
SHA-256 of the file. Not sealed, for they are made again from the others: report.html, comparison.html, plots, and the
log of a study that is not finished.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from normbench.errors import UserError
from normbench.run_folder.files import MAX_FILE_BYTES, TEMPORARY, Unreadable, digest, read_bytes, walk
from normbench.run_folder.info import FIRST_CHECKED_VERSION, read_info
from normbench.run_folder.parts import SUFFIX, check_part, read_part
from normbench.run_folder.tables import unpack_table
from normbench.schema import LATER_TABLES, TABLES

SET_ASIDE = "damaged"
"""The folder within a run's in which damaged files are kept; nothing reads them."""
_MODULE = re.compile(r"hlo/([0-9a-f]{2})/(\1[0-9a-f]{62})\.pb\.zst")
_OLD_MODULE = re.compile(r"hlo/[0-9a-f]+\.pb\.zst")
"""As schema version 1 named them: by a digest of the program, which cannot be checked."""


@dataclass(frozen=True)
class Damage:
    """A file that is not as it was written.

    Attributes:
      file: its path within the run's folder.
      what: what is wrong with it, as the end of a sentence about it.
    """

    file: str
    what: str

    def __str__(self) -> str:
        return f"{self.file} {self.what}"


@dataclass(frozen=True)
class RunFolder:
    """A folder that was read and checked.

    Attributes:
      path: the folder.
      info: what run.json holds, its fields of the types that they must have.
      damaged: the files that are not as they were written.
      parts: names of the units whose parts are sound; none in a complete run.
      modules: names of the compiled modules that are sound.
    """

    path: Path
    info: Mapping[str, Any]
    damaged: tuple[Damage, ...]
    parts: tuple[str, ...]
    modules: frozenset[str]

    @property
    def complete(self) -> bool:
        return self.info["status"] == "complete"

    @property
    def checked(self) -> bool:
        """False for a run that was made before there were checksums."""
        return self.info["schema_version"] >= FIRST_CHECKED_VERSION

    @property
    def note(self) -> str | None:
        """A sentence on a run that could not be checked."""
        if self.checked:
            return None
        return f"run {str(self.path)!r} has schema version 1, which has no checksums: its files are read unchecked"

    def table(self, name: str, categories: Collection[str] = ()) -> pa.Table:
        """A table of a complete run as it was written; without rows where the run was made before there was such a
        table.

        Args:
          name: of the table.
          categories: columns of words that are read as Arrow's dictionaries: each word once, and its number a row.

        Raises:
          UserError: where it is missing or cannot be read.
        """
        file = self.path / f"{name}.parquet"
        try:
            return unpack_table(read_bytes(file, MAX_FILE_BYTES), categories)
        except Unreadable as error:
            if name in LATER_TABLES and not file.is_symlink() and not file.exists():
                return pa.table({})
            raise UserError(f"table {str(file)!r} {error}") from error

    def read_parts(self) -> Iterator[dict[str, Any]]:
        """Each sound part of an unfinished run: {"unit": ..., "tables": {table: [row, ...]}, "cost": {...}}, one at a
        time, in the order of their names.

        Raises:
          UserError: where one cannot be unpacked.
        """
        return map(self.part, self.parts)

    def part(self, unit: str) -> dict[str, Any]:
        """The part of one unit; raises as `read_parts`."""
        file = self.path / "parts" / f"{unit}{SUFFIX}"
        try:
            return read_part(file, self.checked)
        except Unreadable as error:
            raise UserError(f"part {str(file)!r} {error}") from error


def read_run(path: Path) -> RunFolder:
    """Reads a run of which every file is as it was written.

    Raises:
      UserError: for a folder that is not a run, was written by a newer normbench, or holds a damaged file: names it,
        and says how to go on without losing data.
    """
    found = check_run(path)
    if found.damaged:
        first, *more = found.damaged
        also = f", and {len(more)} more of its files are damaged" if more else ""
        raise UserError(
            f"run {str(path)!r} is damaged: {first}{also}; normbench verify lists them, and normbench study --resume "
            "sets them aside and carries out their cases again"
        )
    return found


def check_run(path: Path) -> RunFolder:
    """Reads run.json and checks all files; what is damaged is listed.

    Raises:
      UserError: for a folder that is not a run, whose run.json is damaged, that was written by a newer normbench, or
        that holds links, FIFOs or whatever else a run does not.
    """
    path = Path(path)
    info = read_info(path)
    try:
        names = sorted(name for name, _ in walk(path) if not _is_ours_alone(name))
    except Unreadable as error:
        raise UserError(f"run {str(path)!r} {error}") from error
    for folder in ("parts", "hlo"):
        if folder in names:
            raise UserError(f"run {str(path)!r} holds {folder!r}, which is a file where a folder is expected")
    checked = info["schema_version"] >= FIRST_CHECKED_VERSION
    complete = info["status"] == "complete"
    damaged = [*_check_sealed(path, info)] if checked else []
    parts, modules = [], set()
    for name in names:
        if name.startswith("parts/") and name.endswith(SUFFIX) and not complete:
            damage = _damage_of_part(path, name) if checked else None
            parts += [] if damage else [name.removeprefix("parts/").removesuffix(SUFFIX)]
        elif name.startswith("hlo/"):
            damage = _damage_of_module(path, name, checked)
            modules |= set() if damage else {Path(name).name.partition(".")[0]}
        elif complete and checked and _is_table(name) and name not in (info.get("files") or {}):
            damage = Damage(name, "is not listed in run.json")
        else:
            damage = None
        damaged += [damage] if damage else []
    return RunFolder(path, info, tuple(damaged), tuple(parts), frozenset(modules))


def missing_modules(folder: RunFolder) -> Iterator[Damage]:
    """The compiled modules that rows name and that are not there; none of a run that is kept without its modules.

    Raises:
      UserError: where the rows cannot be read.
    """
    told = {damage.file for damage in folder.damaged}
    if not folder.checked or not (folder.path / "hlo").is_dir() or "compiled.parquet" in told:
        return
    for name in sorted(_named_modules(folder) - folder.modules):
        if _MODULE.fullmatch(file := f"hlo/{name[:2]}/{name}.pb.zst") and file not in told:
            yield Damage(file, "is missing")


def _named_modules(folder: RunFolder) -> set[str]:
    column = "module_sha256"
    if folder.complete:
        table = folder.table("compiled")
        return (
            {str(name) for name in table.column(column).to_pylist() if name} if column in table.column_names else set()
        )
    rows = (row for part in folder.read_parts() for row in part["tables"].get("compiled", ()))
    return {str(row[column]) for row in rows if row.get(column)}


def _check_sealed(path: Path, info: Mapping[str, Any]) -> Iterator[Damage]:
    files = info.get("files") or {}
    for name, seal in files.items():
        try:
            size, found = digest(path / name)
        except Unreadable as error:
            yield Damage(name, str(error))
            continue
        if size != seal["bytes"]:
            yield Damage(name, f"has {size:,} bytes where {seal['bytes']:,} were written")
        elif found != seal["sha256"]:
            yield Damage(name, "is not as it was written: its checksum differs")
    if info["status"] == "complete":
        for name in TABLES:
            if f"{name}.parquet" not in files:
                yield Damage(f"{name}.parquet", "has no checksum in run.json")


def _damage_of_part(path: Path, name: str) -> Damage | None:
    try:
        check_part(path / name)
    except Unreadable as error:
        return Damage(name, str(error))
    return None


def _damage_of_module(path: Path, name: str, checked: bool) -> Damage | None:
    found = _MODULE.fullmatch(name)
    if found is None:
        old = not checked and _OLD_MODULE.fullmatch(name)
        return None if old else Damage(name, "is no module that is named by its content")
    try:
        _, actual = digest(path / name)
    except Unreadable as error:
        return Damage(name, str(error))
    return None if actual == found[2] else Damage(name, "is not what it is named by: its checksum differs")


def _is_table(name: str) -> bool:
    return name.removesuffix(".parquet") in TABLES and name.endswith(".parquet")


def _is_ours_alone(name: str) -> bool:
    """What a killed process left half-written, and what was set aside."""
    return name.startswith((f"{SET_ASIDE}/", TEMPORARY)) or f"/{TEMPORARY}" in name or name == ".lock"
