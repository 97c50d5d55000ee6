"""A run on disk: parts while it grows, Parquet tables when it is complete. Killed at any instant, it can be resumed.

Every file is written beside its place and renamed into it, so it is there whole or not at all, and each has a checksum:
see `normbench.run_folder.check`. A part is what one unit of work found: `parts/<unit>.json.zst` holds {"unit": ...,
"tables": {table: [row, ...]}, "cost": {...}}. A unit whose part exists is done, unless it is to be done again.
"""

import errno
import fcntl
import hashlib
import math
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from normbench.errors import UserError
from normbench.run_folder.check import SET_ASIDE
from normbench.run_folder.files import TEMPORARY, Unreadable, temporary, write_atomically
from normbench.run_folder.info import FIRST_CHECKED_VERSION, read_info
from normbench.run_folder.parts import SUFFIX, encode_part, read_part
from normbench.run_folder.seal import seal_run, write_info
from normbench.run_folder.tables import arrow_schema
from normbench.schema import SCHEMA_VERSION, STATUSES, TABLES
from normbench.study.schedule.tables import tables_of

Row = dict[str, Any]
Tables = dict[str, list[Row]]

_AGAIN = ".again"
"""End of the name of an empty file beside a part, whose unit is to be done again."""


class StorageError(OSError):
    """The run's folder, or the folder of temporary files, cannot be written: a study stops, and no case has failed."""


class Store:
    """The folder of one run. `create` and `open` make one; writing needs the lock."""

    def __init__(self, path: Path, info: dict[str, Any]):
        self.path = path
        self.info = info

    @classmethod
    def create(cls, out: Path, info: dict[str, Any], tables: Tables) -> "Store":
        """Makes the folder `out`/<run id> with run.json and a first part named "cases", all at once.

        Raises:
          UserError: where `out` cannot be written.
        """
        created = datetime.now(UTC)
        info = {"schema_version": SCHEMA_VERSION, "status": "running", "created": created.isoformat(), **info}
        growing = out / f"{TEMPORARY}{created:%Y%m%dT%H%M%S%f}-{os.getpid()}"
        try:
            out.mkdir(parents=True, exist_ok=True)
            (growing / "parts").mkdir(parents=True)
            (growing / "hlo").mkdir()
            store = cls(growing, info)
            store.write_part("cases", tables)
            store._settle(out, f"{created:%Y%m%dT%H%M%S}-{info['preset']}")
        except OSError as error:
            shutil.rmtree(growing, ignore_errors=True)
            raise UserError(f"out {str(out)!r} cannot be written: {error.strerror}; give another folder") from error
        return store

    def _settle(self, out: Path, name: str) -> None:
        """Moves the folder to the first name that no other run has, also one that begins in this very second."""
        for count in range(1, 10_000):
            self.info["run_id"] = name if count == 1 else f"{name}-{count}"
            if os.path.lexists(out / self.info["run_id"]):
                continue
            write_info(self.path, self.info)
            try:
                self.path = self.path.rename(out / self.info["run_id"])
                return
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise
        raise OSError(errno.EEXIST, f"there are too many runs named {name}")

    @classmethod
    def open(cls, path: Path) -> "Store":
        """Opens the folder of a run.

        Raises:
          UserError: where it is none, is damaged, or was written by another version of the schema.
        """
        return cls(path, read_info(path))

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps other processes from working on the run; removes what a killed one left half-written.

        Raises:
          UserError: where another process works on it, or it cannot be written.
        """
        try:
            flags = os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(self.path / ".lock", flags, 0o666)
        except OSError as error:
            raise UserError(f"run {str(self.path)!r} cannot be written: its .lock: {error.strerror}") from error
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise UserError(f"run {str(self.path)!r} cannot be written: its .lock is not a file")
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise UserError(f"run {str(self.path)!r} is being worked on by another process") from error
            self._remove_half_written()
            yield
        finally:
            os.close(descriptor)

    def _remove_half_written(self) -> None:
        for folder in (self.path, self.path / "parts", *_folders(self.path / "hlo")):
            if folder.is_symlink():
                continue
            for left in folder.glob(f"{TEMPORARY}*"):
                if not left.is_dir() or left.is_symlink():
                    left.unlink(missing_ok=True)

    @property
    def complete(self) -> bool:
        return self.info["status"] == "complete"

    def set_aside(self, name: str) -> None:
        """Moves a damaged file into the folder "damaged" of the run, where nobody reads it; nothing is deleted.

        Raises:
          UserError: where it cannot be moved.
        """
        place = self.path / SET_ASIDE / name.replace("/", "__")
        if not os.path.lexists(self.path / name):
            return
        count = 0
        while os.path.lexists(place):
            count += 1
            place = place.with_name(f"{name.replace('/', '__')}.{count}")
        try:
            place.parent.mkdir(exist_ok=True)
            os.rename(self.path / name, place)
        except OSError as error:
            raise UserError(f"run {str(self.path)!r}: {name} cannot be set aside: {error.strerror}") from error

    def do_again(self, units: Iterable[str]) -> None:
        """Has these units count as not done, also after a kill; what they found stays until it is replaced."""
        for unit in units:
            (self.path / "parts" / f"{unit}{_AGAIN}").touch()

    def done(self) -> set[str]:
        """Names of the units whose parts exist, and which are not to be done again."""
        return self._units(SUFFIX) - self._units(_AGAIN)

    def _units(self, suffix: str) -> set[str]:
        return {path.name.removesuffix(suffix) for path in (self.path / "parts").glob(f"*{suffix}")}

    def is_done(self, unit: str) -> bool:
        """As `done`, of one unit, without a look at all the others."""
        return self._part_path(unit).exists() and not (self.path / "parts" / f"{unit}{_AGAIN}").exists()

    def write_part(self, unit: str, tables: Tables, cost: Row | None = None, **more: Any) -> None:
        """Writes what a unit found; numbers that are not finite become absent."""
        part = {"unit": unit, "tables": {name: [_checked(name, row) for row in rows] for name, rows in tables.items()}}
        if cost:
            part["cost"] = cost
        write_atomically(self._part_path(unit), encode_part({**part, **more}))
        (self.path / "parts" / f"{unit}{_AGAIN}").unlink(missing_ok=True)

    def read_part(self, unit: str) -> dict[str, Any]:
        """Reads a part back.

        Raises:
          UserError: where it cannot be read.
        """
        try:
            return read_part(self._part_path(unit), self.info["schema_version"] >= FIRST_CHECKED_VERSION)
        except Unreadable as error:
            raise UserError(
                f"run {str(self.path)!r} is damaged: parts/{unit}{SUFFIX} {error}; normbench study --resume sets it "
                "aside and carries out its cases again"
            ) from error

    def parts(self) -> Iterator[dict[str, Any]]:
        for unit in sorted(self._units(SUFFIX)):
            yield self.read_part(unit)

    def finish(self, cost: Row) -> None:
        """Writes the tables, marks the run as complete, and removes the parts."""
        once: Tables = {"ceilings": [], "notes": []}
        with tables_of(self.path, TEMPORARY) as tables:
            for part in self.parts():
                for name, rows in part["tables"].items():
                    if name in once:
                        once[name] += rows
                    else:
                        tables.add(name, rows)
            for name, rows in once.items():
                tables.add(name, _each_once(rows))
        os.sync()  # the modules, which were not waited for one by one
        self.info |= {"status": "complete", "finished": datetime.now(UTC).isoformat(), "cost": cost}
        self.seal()
        self.remove_parts()

    def seal(self) -> None:
        """Writes run.json anew with the checksum of every file, after one of a complete run was added or replaced."""
        self.info = seal_run(self.path, self.info)

    def update(self, **fields: Any) -> None:
        """Changes fields of run.json."""
        self.info |= fields
        write_info(self.path, self.info)

    def remove_parts(self) -> None:
        shutil.rmtree(self.path / "parts", ignore_errors=True)

    def _part_path(self, unit: str) -> Path:
        return self.path / "parts" / f"{unit}{SUFFIX}"


def _folders(folder: Path) -> list[Path]:
    """The folder and those in it."""
    if folder.is_symlink() or not folder.is_dir():
        return []
    return [folder, *(one for one in folder.iterdir() if one.is_dir() and not one.is_symlink())]


def _each_once(rows: list[Row]) -> list[Row]:
    """The rows without those that differ from an earlier one in their time alone: what a worker measures once was
    measured again where the worker had to be replaced, or the study was resumed."""
    found: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        found.setdefault(tuple(row.get(name) for name in sorted(row.keys() - {"seconds"})), row)
    return list(found.values())


def write_hlo(run: Path, module: bytes) -> str:
    """Stores a serialized module under the name of its content and returns it: the SHA-256 of the file.

    Raises:
      StorageError: where it cannot be written.
    """
    packed = zstandard.compress(module)
    name = hashlib.sha256(packed).hexdigest()
    path = module_path(run, name)
    try:
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            write_atomically(path, packed, wait=False)  # there may be 100,000: `finish` waits for all
    except OSError as error:
        raise StorageError(error.errno, f"{error.strerror or error}: a module in {str(run / 'hlo')!r}") from error
    return name


def write_hlo_file(run: Path, name: str, data: bytes) -> None:
    """Stores a module that another host has compressed, under the name that `write_hlo` gave it there.

    Raises:
      UserError: where the name is not that of its content.
    """
    sha256 = hashlib.sha256(data).hexdigest()
    path = module_path(run, sha256)
    if path != run / "hlo" / name:
        raise UserError(f"module {name!r} has the content {sha256}: it was damaged on its way from another host")
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data, wait=False)


def module_path(run: Path, name: str) -> Path:
    """Where a compiled module lies, by the SHA-256 of its file."""
    return run / "hlo" / name[:2] / f"{name}.pb.zst"


def _checked(table: str, row: Row) -> Row:
    unknown = row.keys() - TABLES[table].keys()
    if unknown:
        raise ValueError(f"table {table} has no column {', '.join(sorted(unknown))}")
    if row.get("status", "ok") not in STATUSES:
        raise ValueError(f"unknown status {row['status']!r}")
    return {name: value if _is_known(value) else None for name, value in row.items()}


def _is_known(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def write_parquet(path: Path, table: str, rows: list[Row]) -> None:
    """Writes a table of the schema, whole or not at all; what a row does not say is absent."""
    schema = arrow_schema(table)
    columns = [pa.array([row.get(field.name) for row in rows], field.type) for field in schema]
    growing = temporary(path)
    try:
        pq.write_table(pa.Table.from_arrays(columns, schema=schema), growing, compression="zstd")
        with growing.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(growing, path)
    except OSError:
        growing.unlink(missing_ok=True)
        raise
