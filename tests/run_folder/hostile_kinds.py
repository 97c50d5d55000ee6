"""Hostile run folders, generated from tables: each kind is a name and what it does to a sound run."""

import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from normbench.run_folder.parts import encode_part
from normbench.run_folder.tables import arrow_schema
from tests.report.synthetic_runs import UGLY, seal_again
from tests.run_folder.small_runs import MODULE_FILE

Change = Callable[[Path, Path], None]
"""Changes a run; the second folder lies outside of it, and what it holds must stay as it is."""


@dataclass(frozen=True)
class Kind:
    """A hostile folder.

    Attributes:
      state: of the run that is changed, "complete" or "running".
      refused: whether every command has to end with exit status 2.
    """

    name: str
    change: Change
    state: str = "complete"
    refused: bool = False


def kinds() -> list[Kind]:
    return [*_entries(), *_info(), *_documents(), *_parts(), *_tables()]


# What lies where a file or a folder should.


def _fifo(place: Path, outside: Path) -> None:
    os.mkfifo(place)


def _link_to_file(place: Path, outside: Path) -> None:
    place.symlink_to(outside / "secret")


def _link_to_folder(place: Path, outside: Path) -> None:
    place.symlink_to(outside, target_is_directory=True)


def _dangling_link(place: Path, outside: Path) -> None:
    place.symlink_to(outside / "absent" / "file")


def _link_to_itself(place: Path, outside: Path) -> None:
    place.symlink_to(place)


def _link_to_endless_device(place: Path, outside: Path) -> None:
    place.symlink_to("/dev/zero")


def _socket(place: Path, outside: Path) -> None:
    here = os.getcwd()
    os.chdir(place.parent)  # the name of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(place.name)
    finally:
        os.chdir(here)


def _folder(place: Path, outside: Path) -> None:
    place.mkdir()
    (place / "file").write_text("in a folder")


def _deep_folders(place: Path, outside: Path) -> None:
    (place / "/".join("abcdefghij")).mkdir(parents=True)


def _huge_hole(place: Path, outside: Path) -> None:
    with place.open("wb") as file:
        file.truncate(2**43)


def _empty(place: Path, outside: Path) -> None:
    place.touch()


def _garbage(place: Path, outside: Path) -> None:
    place.write_bytes(bytes(range(256)) * 20)


SPECIAL = (_fifo, _link_to_file, _link_to_folder, _dangling_link, _link_to_itself, _link_to_endless_device, _socket)
PLAIN = (_folder, _deep_folders, _huge_hole, _empty, _garbage)
PLACES = {
    "complete": ("run.json", "cases.parquet", "timings.parquet", "hlo", MODULE_FILE, "report.html", "extra", "parts"),
    "running": ("run.json", "parts", "parts/cases.json.zst", "parts/extra.json.zst", "parts/.tmp-1-x", ".lock"),
}


def _entries() -> Iterator[Kind]:
    for state, places in PLACES.items():
        for place in places:
            for make in (*SPECIAL, *PLAIN):
                name = f"{make.__name__.strip('_')} at {place}, {state}"
                yield Kind(name, _instead(place, make), state, make in SPECIAL)


def _instead(place: str, make: Change) -> Change:
    def change(run: Path, outside: Path) -> None:
        path = run / place
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        make(path, outside)

    return change


# What run.json says.

DEEP: Any = json.loads("[" * 200 + "]" * 200)
VALUES: dict[str, Any] = {
    "a negative number": -1, "a huge number": 10**400, "a fraction": 0.5, "true": True, "a text": "text",
    "a path": "../../../etc/passwd", "an absolute path": "/etc/passwd", "a list": [1, None, "x"],
    "a mapping": {"a": [1]},
    "deep nesting": DEEP, "ugly": UGLY, "a zero byte": "a\0b",
}  # fmt: skip
FIELDS = (
    "schema_version", "status", "run_id", "targets", "environment", "config", "cost", "files", "created",
    "environment.packages", "environment.git", "config.cases", "config.imports", "config.targets", "config.processes",
    "files.cases~parquet", "environments",
)  # fmt: skip


def _info() -> Iterator[Kind]:
    for field in FIELDS:
        for name, value in VALUES.items():
            for state in ("complete", "running")[: 2 if field.startswith("config") else 1]:
                yield Kind(f"{field} is {name}, {state}", _saying(field, value), state)


def _saying(field: str, value: Any) -> Change:
    def change(run: Path, outside: Path) -> None:
        info = json.loads((run / "run.json").read_text())
        *above, last = (name.replace("~", ".") for name in field.split("."))
        place = info
        for name in above:
            place = place.setdefault(name, {})
        place[last] = value
        _write_sealed(run, info)

    return change


def _write_sealed(run: Path, info: dict[str, Any]) -> None:
    """As a forger would, who knows how the checksum is made."""
    from normbench.run_folder.info import seal_info

    (run / "run.json").write_bytes(seal_info(info))


DOCUMENTS = {
    "no bytes": b"", "a list": b"[]", "null": b"null", "not UTF-8": b"\xff\xfe{}", "deep": b"[" * 200_000,
    "NaN": b"NaN",
    "endless digits": b'{"schema_version": ' + b"9" * 100_000 + b"}", "a lone brace": b"{", "zeros": b"\0" * 5000,
    "deep objects": b'{"a":' * 100_000, "minus one": b'{"schema_version": -1, "status": "complete"}',
}  # fmt: skip


def _documents() -> Iterator[Kind]:
    for name, data in DOCUMENTS.items():
        yield Kind(f"run.json is {name}", _holding("run.json", data), refused=True)


def _holding(place: str, data: bytes) -> Change:
    def change(run: Path, outside: Path) -> None:
        (run / place).write_bytes(data)

    return change


# What a part says, with a checksum that is right.


def _sealed(packed: bytes) -> bytes:
    import hashlib

    from normbench.run_folder import parts

    return packed + parts._SKIPPABLE + hashlib.sha256(packed).digest()


def _declares(size: int) -> bytes:
    """A frame that says it unpacks to `size` bytes."""
    return b"\x28\xb5\x2f\xfd" + bytes([0b11100000]) + size.to_bytes(8, "little") + b"\x01\x00\x00"


PART_CONTENTS: dict[str, bytes] = {
    "a bomb": _sealed(zstandard.compress(bytes(2**30 + 1), 1)),
    "a size of exabytes": _sealed(_declares(2**60)),
    "a size of a gigabyte, and nothing": _sealed(_declares(2**30)),
    "no size": _sealed(zstandard.ZstdCompressor(write_content_size=False).compress(b'{"unit": "x", "tables": {}}')),
    "no frame": _sealed(b"no frame"),
    "two frames": _sealed(zstandard.compress(b"{}") * 2),
    "deep nesting": _sealed(zstandard.compress(b"[" * 300_000)),
    "no object": encode_part([]),  # type: ignore[arg-type]
    "another unit": encode_part({"unit": "../../../outside", "tables": {}}),
    "tables that are a list": encode_part({"unit": "extra", "tables": []}),
    "rows that are numbers": encode_part({"unit": "extra", "tables": {"timings": [1, 2]}}),
    "an unknown table": encode_part({"unit": "extra", "tables": {"../outside": [{"case": "x"}]}}),
    "an unknown column": encode_part({"unit": "extra", "tables": {"timings": [{"speed": 1}]}}),
    "an unknown status": encode_part({"unit": "extra", "tables": {"timings": [{"case": "x", "status": "fine"}]}}),
    "texts for numbers": encode_part({"unit": "extra", "tables": {"timings": [{"case": "x", "seconds": "fast"}]}}),
    "a case that is a list": encode_part({"unit": "extra", "tables": {"cases": [{"case": [1]}]}}),
    "a whole number beyond 64 bits": encode_part({"unit": "extra", "tables": {"launches": [{"index": 10**30}]}}),
    "a case without a slug": encode_part({"unit": "extra", "tables": {"cases": [{"operator": "x"}]}}),
    "a slug that is none": encode_part({"unit": "extra", "tables": {"cases": [{"case": UGLY, "problem": UGLY}]}}),
    "a module elsewhere": encode_part(
        {"unit": "extra", "tables": {"compiled": [{"case": "x", "target": "h200", "module_sha256": "../../secret"}]}}
    ),
    "an environment that is a list": encode_part({"unit": "extra", "tables": {}, "environment": [1], "cost": [1]}),
    "a cost of texts": encode_part({"unit": "extra", "tables": {}, "cost": {"kind": "x", "cases": "y"}}),
}


def _parts() -> Iterator[Kind]:
    for name, data in PART_CONTENTS.items():
        yield Kind(f"a part holds {name}", _holding("parts/extra.json.zst", data), "running")


# What a table says, with a checksum that is right.


def _as(kind: pa.DataType, value: Any) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        columns = {name: table.column(name) for name in table.column_names}
        last = table.column_names[-1]
        return pa.table({**columns, "case": table.column("case"), last: pa.array([value] * table.num_rows, kind)})

    return change


def _first_column(value: Any) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        return table.set_column(0, table.column_names[0], pa.array([value] * table.num_rows, pa.string()))

    return change


TABLE_CHANGES: dict[str, Callable[[pa.Table], pa.Table]] = {
    "no column": lambda table: pa.table({}),
    "no row": lambda table: table.slice(0, 0),
    "one column": lambda table: table.select(table.column_names[:1]),
    "another column": lambda table: table.append_column("extra", pa.array([1] * table.num_rows)),
    "each row twice": lambda table: pa.concat_tables([table, table]),
    "nulls alone": lambda table: pa.table([pa.nulls(len(table), field.type) for field in table.schema], table.schema),
    "cases without a name": _first_column(None),
    "names that are none": _first_column(UGLY),
    "names of paths": _first_column("../../../etc/passwd"),
    "empty names": _first_column(""),
    "a column of lists": _as(pa.list_(pa.int64()), [1, 2]),
    "a column of bytes": _as(pa.binary(), b"\xff\xfe"),
    "a column of times": _as(pa.timestamp("ns"), 0),
    "a column of texts": _as(pa.string(), UGLY),
    "five million equal rows": lambda table: pa.table(
        {name: pa.DictionaryArray.from_arrays(pa.array([0] * 5_000_000, pa.int32()), pa.array(["x"])) for name in ("case",)}  # noqa: E501
    ),
    "columns of one name": lambda table: pa.Table.from_arrays([table.column(0)] * 2, names=[table.column_names[0]] * 2),
}  # fmt: skip
TABLES_CHANGED = ("cases", "compiled", "timings")


def _tables() -> Iterator[Kind]:
    for table in TABLES_CHANGED:
        for name, change in TABLE_CHANGES.items():
            yield Kind(f"{table} has {name}", _table(table, change))


def _table(name: str, change: Callable[[pa.Table], pa.Table]) -> Change:
    def write(run: Path, outside: Path) -> None:
        file = run / f"{name}.parquet"
        table = pq.ParquetFile(file).read().select(arrow_schema(name).names)
        pq.write_table(change(table), file, compression="zstd")
        seal_again(run)

    return write
