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

from normbench.errors import UserError
from normbench.run_folder import arrow_schema, read_info
from normbench.schema import LATER_TABLES, TABLES

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
    info = read_info(path)
    tables = _read_tables(path) if info.get("status") == "complete" else _read_parts(path / "parts")
    return Run(path, MappingProxyType(info), MappingProxyType(tables))


def _read_tables(path: Path) -> dict[str, pd.DataFrame]:
    return {name: _to_pandas(_read_parquet(path / f"{name}.parquet", name), name) for name in TABLES}


def _read_parquet(file: Path, name: str) -> pa.Table:
    try:
        table = pq.ParquetFile(file).read()
        return conform(table, name)
    except FileNotFoundError as error:
        if name in LATER_TABLES:
            return arrow_schema(name).empty_table()
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
        return pa.Table.from_pylist(rows, schema=arrow_schema(name))
    except (pa.ArrowException, TypeError, AttributeError) as error:
        raise UserError(f"parts in {str(folder)!r} do not fit table {name!r}: {_one_line(error)}") from error


def conform(table: pa.Table, name: str) -> pa.Table:
    """The schema's columns in its order and types; a column that an older writer did not know is null."""
    if "predicted_s" in table.column_names and "bytes_s" not in table.column_names:
        # Before predictions were made from the compiled code, the prediction was what is now `bytes_s`.
        table = table.rename_columns({"predicted_s": "bytes_s"})
    columns = []
    for field in arrow_schema(name):
        if field.name in table.column_names:
            columns.append(table.column(field.name).cast(field.type))
        else:
            columns.append(pa.nulls(table.num_rows, field.type))
    return pa.table(columns, schema=arrow_schema(name))


def _to_pandas(table: pa.Table, name: str) -> pd.DataFrame:
    # Column by column, and each of Arrow's freed when it is done: a table of millions of rows is not held twice.
    frame = table.to_pandas(types_mapper=_PANDAS.get, split_blocks=True, self_destruct=True)
    floats = [column for column, kind in TABLES[name].items() if kind == "float64" and frame[column].dtype != "float64"]
    return frame.astype(dict.fromkeys(floats, "float64")) if floats else frame


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
