"""A run on disk, as data frames: one per table of `normbench.schema.TABLES`, typed even where it is empty."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from normbench import __version__
from normbench.errors import UserError
from normbench.schema import LATER_TABLES, SCHEMA_VERSION, TABLES

_ARROW = {"string": pa.string(), "int64": pa.int64(), "float64": pa.float64(), "bool": pa.bool_()}
_PANDAS = {pa.string(): pd.StringDtype(), pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}


@dataclass(frozen=True, eq=False)
class Run:
    """One run, read.

    Attributes:
      path: its folder.
      info: what run.json holds.
      tables: a data frame per table of the schema, by name.
    """

    path: Path
    info: Mapping[str, Any]
    tables: Mapping[str, pd.DataFrame]

    @property
    def cases(self) -> pd.DataFrame:
        return self.tables["cases"]

    @property
    def compiled(self) -> pd.DataFrame:
        return self.tables["compiled"]

    @property
    def launches(self) -> pd.DataFrame:
        return self.tables["launches"]

    @property
    def timings(self) -> pd.DataFrame:
        return self.tables["timings"]

    @property
    def accuracy(self) -> pd.DataFrame:
        return self.tables["accuracy"]

    @property
    def ceilings(self) -> pd.DataFrame:
        return self.tables["ceilings"]

    @property
    def launch_times(self) -> pd.DataFrame:
        return self.tables["launch_times"]

    @property
    def aa(self) -> pd.DataFrame:
        return self.tables["aa"]

    @property
    def notes(self) -> pd.DataFrame:
        return self.tables["notes"]

    @property
    def device_states(self) -> pd.DataFrame:
        return self.tables["device_states"]

    @property
    def run_id(self) -> str:
        return str(self.info.get("run_id") or self.path.name)

    @property
    def complete(self) -> bool:
        return self.info.get("status") == "complete"

    @property
    def targets(self) -> tuple[str, ...]:
        """Targets in the order in which the study was asked for them, then any others that have rows."""
        asked = [str(target) for target in self.info.get("targets") or ()]
        found = [str(target) for target in self.compiled["target"].dropna().unique()]
        return tuple(dict.fromkeys(asked + found))


def load_run(path: Path) -> Run:
    """Reads a run folder; of an unfinished run, the parts that were written so far.

    Raises:
      UserError: for a folder that is not a run, is damaged, or was written by a newer normbench.
    """
    path = Path(path)
    info = _read_info(path)
    tables = _read_tables(path) if info.get("status") == "complete" else _read_parts(path / "parts")
    return Run(path, MappingProxyType(info), MappingProxyType(tables))


def _read_info(path: Path) -> dict[str, Any]:
    file = path / "run.json"
    if not path.is_dir():
        raise UserError(f"run {str(path)!r} is not a folder; give the folder that holds run.json")
    if not file.is_file():
        raise UserError(f"run {str(path)!r} has no run.json; give the folder of a run, e.g. results/runs/<run id>")
    try:
        info = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{str(file)!r} cannot be read as JSON: {_one_line(error)}") from error
    if not isinstance(info, dict):
        raise UserError(f"{str(file)!r} holds a {type(info).__name__} where an object is expected")
    version = info.get("schema_version")
    if not isinstance(version, int) or isinstance(version, bool):
        raise UserError(f"{str(file)!r} has schema_version {version!r}; a whole number is expected")
    if version > SCHEMA_VERSION:
        writer = info.get("normbench_version") or (info.get("environment") or {}).get("normbench")
        needed = f"normbench {writer}" if writer else "a newer normbench"
        raise UserError(
            f"run {str(path)!r} has schema version {version}; normbench {__version__} reads up to {SCHEMA_VERSION}: "
            f"read it with {needed} or later"
        )
    return info


def _read_tables(path: Path) -> dict[str, pd.DataFrame]:
    return {name: _to_pandas(_read_parquet(path / f"{name}.parquet", name), name) for name in TABLES}


def _read_parquet(file: Path, name: str) -> pa.Table:
    try:
        table = pq.ParquetFile(file).read()
        return _conform(table, name)
    except FileNotFoundError as error:
        if name in LATER_TABLES:
            return _schema(name).empty_table()
        raise UserError(f"table {str(file)!r} is missing, though run.json says that the run is complete") from error
    except (OSError, pa.ArrowException, ValueError) as error:
        raise UserError(f"table {str(file)!r} cannot be read: {_one_line(error)}") from error


def _read_parts(folder: Path) -> dict[str, pd.DataFrame]:
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}
    for file in sorted(folder.glob("*.json.zst")):
        if file.name.startswith("."):  # still being written
            continue
        for name, part in _read_part(file).items():
            if name in rows:
                rows[name] += part
    return {name: _to_pandas(_from_rows(part, name, folder), name) for name, part in rows.items()}


def _read_part(file: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        with zstandard.open(file, "rt", encoding="utf-8") as stream:
            tables = json.load(stream)["tables"]
        return {name: list(rows) for name, rows in tables.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zstandard.ZstdError) as error:
        raise UserError(f"part {str(file)!r} cannot be read: {_one_line(error)}") from error


def _from_rows(rows: list[dict[str, Any]], name: str, folder: Path) -> pa.Table:
    try:
        return pa.Table.from_pylist(rows, schema=_schema(name))
    except (pa.ArrowException, TypeError, AttributeError) as error:
        raise UserError(f"parts in {str(folder)!r} do not fit table {name!r}: {_one_line(error)}") from error


def _schema(name: str) -> pa.Schema:
    return pa.schema([(column, _ARROW[kind]) for column, kind in TABLES[name].items()])


def _conform(table: pa.Table, name: str) -> pa.Table:
    """The schema's columns in its order and types; a column that an older writer did not know is null."""
    if "predicted_s" in table.column_names and "bytes_s" not in table.column_names:
        # Before predictions were made from the compiled code, the prediction was what is now `bytes_s`.
        table = table.rename_columns({"predicted_s": "bytes_s"})
    columns = []
    for field in _schema(name):
        if field.name in table.column_names:
            columns.append(table.column(field.name).cast(field.type))
        else:
            columns.append(pa.nulls(table.num_rows, field.type))
    return pa.table(columns, schema=_schema(name))


def _to_pandas(table: pa.Table, name: str) -> pd.DataFrame:
    frame = table.to_pandas(types_mapper=_PANDAS.get)
    return frame.astype({column: "float64" for column, kind in TABLES[name].items() if kind == "float64"})


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
