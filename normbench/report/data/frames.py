"""A run on disk, as data frames: one per table of `normbench.schema.TABLES`, typed even where it is empty."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd
import pyarrow as pa

from normbench.errors import UserError
from normbench.run_folder import RunFolder, arrow_schema, read_run
from normbench.schema import TABLES

_PANDAS = {pa.string(): pd.StringDtype(), pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}
_SAMPLES = "timings"
"""The table of a row per sample. Its words are categories: each is held once, where the samples are millions."""
_CATEGORY = pa.dictionary(pa.int32(), pa.string())


@dataclass(frozen=True, eq=False)
class Run:
    """One run, read.

    Attributes:
      path: its folder.
      info: what run.json holds.
      tables: a data frame per table of the schema, by name.
      note: what is to be said of a run whose files could not be checked.
    """

    path: Path
    info: Mapping[str, Any]
    tables: Mapping[str, pd.DataFrame]
    note: str | None = None

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
    """Reads a run folder, every file of which is as it was written; of an unfinished run, the parts so far.

    Raises:
      UserError: for a folder that is not a run, is damaged, or was written by a newer normbench.
    """
    folder = read_run(Path(path))
    tables = _read_tables(folder) if folder.complete else _read_parts(folder)
    _require_names(folder.path, tables["cases"])
    return Run(folder.path, MappingProxyType(dict(folder.info)), MappingProxyType(tables), folder.note)


def _require_names(path: Path, cases: pd.DataFrame) -> None:
    """Raises UserError where a case has no name: nothing could be said of it."""
    for column in ("case", "operator", "variant", "problem", "shape", "layout", "dtype", "pass"):
        if cases[column].isna().any():
            raise UserError(f"run {str(path)!r}: the table of cases has a row without {column!r}")


def _read_tables(folder: RunFolder) -> dict[str, pd.DataFrame]:
    frames = {name: _read_table(folder, name) for name in TABLES}
    pa.default_memory_pool().release_unused()  # Arrow keeps what it read the columns into: more than the frames take
    return frames


def _read_table(folder: RunFolder, name: str) -> pd.DataFrame:
    try:
        return _to_pandas(conform(folder.table(name, _categories(name)), _frame_schema(name)), name)
    except (pa.ArrowException, ValueError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        file = folder.path / f"{name}.parquet"
        raise UserError(f"table {str(file)!r} cannot be read: {_one_line(error)}") from error


def _read_parts(folder: RunFolder) -> dict[str, pd.DataFrame]:
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}
    for part in folder.read_parts():
        for name, found in part["tables"].items():
            if name in rows:
                rows[name] += found
    return {name: _to_pandas(_from_rows(found, name, folder.path / "parts"), name) for name, found in rows.items()}


def _categories(name: str) -> list[str]:
    return [column for column, kind in TABLES[name].items() if kind == "string"] if name == _SAMPLES else []


def _frame_schema(name: str) -> pa.Schema:
    """Arrow's types of the columns of a frame."""
    words = _categories(name)
    return pa.schema([field.with_type(_CATEGORY) if field.name in words else field for field in arrow_schema(name)])


def _from_rows(rows: list[dict[str, Any]], name: str, folder: Path) -> pa.Table:
    try:
        return pa.Table.from_pylist(rows, schema=_frame_schema(name))
    except (pa.ArrowException, TypeError, AttributeError) as error:
        raise UserError(f"parts in {str(folder)!r} do not fit table {name!r}: {_one_line(error)}") from error


def is_ok(statuses: pd.Series) -> pd.Series:
    """Where a row's status is ok, or not told: rows of a version before statuses."""
    return ~(statuses.notna() & (statuses != "ok"))


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The columns of a schema in its order and types; a column that an older writer did not know is null."""
    if "predicted_s" in table.column_names and "bytes_s" not in table.column_names:
        # Before predictions were made from the compiled code, the prediction was what is now `bytes_s`.
        table = table.rename_columns({"predicted_s": "bytes_s"})
    if len(set(table.column_names)) < len(table.column_names):
        raise ValueError("it has several columns of one name")
    columns = []
    for field in schema:
        if field.name in table.column_names:
            columns.append(table.column(field.name).cast(field.type))
        else:
            columns.append(pa.nulls(table.num_rows, field.type))
    return pa.table(columns, schema=schema)


def _to_pandas(table: pa.Table, name: str) -> pd.DataFrame:
    # Column by column, and each of Arrow's freed when it is done: a table of millions of rows is not held twice.
    frame = table.to_pandas(types_mapper=_PANDAS.get, split_blocks=True, self_destruct=True)
    floats = [column for column, kind in TABLES[name].items() if kind == "float64" and frame[column].dtype != "float64"]
    return frame.astype(dict.fromkeys(floats, "float64")) if floats else frame


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
