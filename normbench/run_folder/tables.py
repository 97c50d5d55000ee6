"""The tables of a complete run: their columns, and reading one whose size was checked before it is unpacked."""

from collections.abc import Collection

import pyarrow as pa
import pyarrow.parquet as pq

from normbench.run_folder.files import Unreadable
from normbench.schema import TABLES

_ARROW = {"string": pa.string(), "int64": pa.int64(), "float64": pa.float64(), "bool": pa.bool_()}
ROWS_AT_LEAST, ROWS_PER_BYTE = 100_000, 8
"""No row of a real table packs into less than an eighth of a byte: each has a number or a name of its own."""
MAX_TABLE_BYTES = 8 * 2**30
_BATCH_ROWS = 16_384


def arrow_schema(table: str) -> pa.Schema:
    """The columns of a table of `normbench.schema.TABLES`, in their order."""
    return pa.schema([pa.field(name, _ARROW[kind]) for name, kind in TABLES[table].items()])


def unpack_table(data: bytes, categories: Collection[str] = ()) -> pa.Table:
    """Reads a Parquet file from memory; `categories` are the columns that become dictionaries.

    Raises:
      Unreadable: where it is none, or unpacks to more than a table of its size can hold.
    """
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        rows = file.metadata.num_rows
        if rows > max(ROWS_AT_LEAST, ROWS_PER_BYTE * len(data)):
            raise Unreadable(f"says that it has {rows:,} rows in {len(data):,} bytes, more than a table can")
        named = [name for name in file.schema_arrow.names if name in categories]
        if named:
            file = pq.ParquetFile(pa.BufferReader(data), read_dictionary=named)
        size, batches = 0, []
        for batch in file.iter_batches(_BATCH_ROWS):
            size += batch.nbytes
            if size > MAX_TABLE_BYTES:
                raise Unreadable(f"unpacks to more than {MAX_TABLE_BYTES:,} bytes")
            batches.append(batch)
        return pa.Table.from_batches(batches, schema=file.schema_arrow)
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError, MemoryError) as error:
        raise Unreadable(f"cannot be read: {' '.join(str(error).split())[:200] or type(error).__name__}") from error
