"""A run on disk: parts while it grows, Parquet tables when it is complete. Killed at any instant, it can be resumed.

Every file is written beside its place and renamed into it, so it is there whole or not at all. A part is what one
unit of work found: `parts/<unit>.json.zst` holds {"unit": ..., "tables": {table: [row, ...]}, "cost": {...}}.
A unit whose part exists is done.
"""

import fcntl
import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from normbench.errors import UserError
from normbench.run_folder import arrow_schema, read_info
from normbench.schema import SCHEMA_VERSION, STATUSES, TABLES
from normbench.study.schedule.tables import tables_of

Row = dict[str, Any]
Tables = dict[str, list[Row]]

_TEMPORARY = ".tmp-"


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
        try:
            out.mkdir(parents=True, exist_ok=True)
            info["run_id"] = _unused_name(out, f"{created:%Y%m%dT%H%M%S}-{info['preset']}")
            growing = out / f"{_TEMPORARY}{info['run_id']}-{os.getpid()}"
            (growing / "parts").mkdir(parents=True)
            (growing / "hlo").mkdir()
            store = cls(growing, info)
            store.write_part("cases", tables)
            store._write_info()
            store.path = growing.rename(out / info["run_id"])
        except OSError as error:
            raise UserError(f"out {str(out)!r} cannot be written: {error.strerror}; give another folder") from error
        return store

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
            descriptor = os.open(self.path / ".lock", os.O_CREAT | os.O_RDWR, 0o666)
        except OSError as error:
            raise UserError(f"run {str(self.path)!r} cannot be written: {error.strerror}") from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise UserError(f"run {str(self.path)!r} is being worked on by another process") from error
            for folder in (self.path, self.path / "parts", self.path / "hlo"):
                for left in folder.glob(f"{_TEMPORARY}*"):
                    left.unlink()
            yield
        finally:
            os.close(descriptor)

    @property
    def complete(self) -> bool:
        return self.info["status"] == "complete"

    def done(self) -> set[str]:
        """Names of the units whose parts exist."""
        return {path.name.removesuffix(".json.zst") for path in (self.path / "parts").glob("*.json.zst")}

    def is_done(self, unit: str) -> bool:
        """Whether a unit's part exists, without a look at all the others."""
        return self._part_path(unit).exists()

    def write_part(self, unit: str, tables: Tables, cost: Row | None = None) -> None:
        """Writes what a unit found; numbers that are not finite become absent."""
        part = {"unit": unit, "tables": {name: [_checked(name, row) for row in rows] for name, rows in tables.items()}}
        if cost:
            part["cost"] = cost
        text = json.dumps(part, allow_nan=False)
        write_atomically(self._part_path(unit), zstandard.compress(text.encode()))

    def read_part(self, unit: str) -> dict[str, Any]:
        """Reads a part back.

        Raises:
          UserError: where it cannot be read.
        """
        path = self._part_path(unit)
        try:
            part = json.loads(zstandard.decompress(path.read_bytes()))
            if part["unit"] != unit or not isinstance(part["tables"], dict):
                raise ValueError(f"it says {part['unit']!r}")
        except (OSError, ValueError, KeyError, TypeError, zstandard.ZstdError) as error:
            raise UserError(
                f"run {str(self.path)!r} is damaged: {path.relative_to(self.path)} cannot be read ({error}); "
                "remove that file to measure it again"
            ) from error
        return part

    def parts(self) -> Iterator[dict[str, Any]]:
        for unit in sorted(self.done()):
            yield self.read_part(unit)

    def finish(self, cost: Row) -> None:
        """Writes the tables, marks the run as complete, and removes the parts."""
        with tables_of(self.path, _TEMPORARY) as tables:
            for part in self.parts():
                for name, rows in part["tables"].items():
                    tables.add(name, rows)
        os.sync()  # the modules, which were not waited for one by one
        self.info |= {"status": "complete", "finished": datetime.now(UTC).isoformat(), "cost": cost}
        self._write_info()
        self.remove_parts()

    def tell(self, **fields: Any) -> None:
        """Adds to what run.json says."""
        self.info |= fields
        self._write_info()

    def remove_parts(self) -> None:
        shutil.rmtree(self.path / "parts", ignore_errors=True)

    def _write_info(self) -> None:
        write_atomically(self.path / "run.json", json.dumps(self.info, indent=1).encode())

    def _part_path(self, unit: str) -> Path:
        return self.path / "parts" / f"{unit}.json.zst"


def write_hlo(run: Path, module: bytes, digest: str) -> None:
    """Stores a serialized module once per content, as `digest` tells contents apart."""
    path = run / "hlo" / f"{digest}.pb.zst"
    if not path.exists():
        write_atomically(path, zstandard.compress(module), wait=False)  # there may be 100,000: `finish` waits for all


def write_hlo_file(run: Path, name: str, data: bytes) -> None:
    """Stores a module that another host has compressed, under the name that `write_hlo` gave it there."""
    path = run / "hlo" / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data, wait=False)


def write_atomically(path: Path, data: bytes, wait: bool = True) -> None:
    """Writes a file so that at any instant it is there whole, old or new, or not at all.

    Args:
      wait: until it would outlast a failure of the power. The death of a process is outlasted in any case.
    """
    growing = _temporary(path)
    with growing.open("wb") as file:
        file.write(data)
        file.flush()
        if wait:
            os.fsync(file.fileno())
    os.replace(growing, path)


def _temporary(path: Path) -> Path:
    """A name in the same folder that no pattern for finished files matches."""
    return path.with_name(f"{_TEMPORARY}{os.getpid()}-{path.name}~")


def _unused_name(out: Path, name: str) -> str:
    taken = (name if count == 1 else f"{name}-{count}" for count in range(1, 10_000))
    return next(candidate for candidate in taken if not (out / candidate).exists())


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
    growing = _temporary(path)
    pq.write_table(pa.Table.from_arrays(columns, schema=schema), growing, compression="zstd")
    with growing.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(growing, path)
