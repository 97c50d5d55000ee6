"""Writes the tables of a run from its parts, of which it holds few rows at a time."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from normbench.run_folder import arrow_schema
from normbench.schema import TABLES

Row = dict[str, Any]
ROWS_AT_ONCE = 50_000
"""Of a table, kept until they are written as one group of rows."""


class TableWriters:
    """Takes rows of all tables, in any order of the tables; each table's in the order in which they come."""

    def __init__(self, files: dict[str, pq.ParquetWriter]):
        self._files = files
        self._rows: dict[str, list[Row]] = {name: [] for name in files}

    def add(self, table: str, rows: list[Row]) -> None:
        """Writes rows; what a row does not say is absent."""
        waiting = self._rows[table]
        waiting += rows
        if len(waiting) >= ROWS_AT_ONCE:
            self._write(table)

    def write_rest(self) -> None:
        """Writes what is left."""
        for table in self._rows:
            self._write(table)

    def _write(self, table: str) -> None:
        rows, self._rows[table] = self._rows[table], []
        schema = arrow_schema(table)
        columns = [pa.array([row.get(field.name) for row in rows], field.type) for field in schema]
        self._files[table].write_table(pa.Table.from_arrays(columns, schema=schema))


@contextmanager
def tables_of(run: Path, temporary: str) -> Iterator[TableWriters]:
    """Writes the Parquet files of a run, each whole once all rows have been added, or none of them.

    Args:
      temporary: what the names of files begin with that are still being written.
    """
    growing = {name: run / f"{temporary}{os.getpid()}-{name}.parquet~" for name in TABLES}
    try:
        with ExitStack() as open_files:
            writers = TableWriters(
                {
                    name: open_files.enter_context(pq.ParquetWriter(path, arrow_schema(name), compression="zstd"))
                    for name, path in growing.items()
                }
            )
            yield writers
            writers.write_rest()
        for name, path in growing.items():
            with path.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(path, run / f"{name}.parquet")
    finally:
        for path in growing.values():
            path.unlink(missing_ok=True)
