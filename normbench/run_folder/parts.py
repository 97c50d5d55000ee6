"""A part of an unfinished run: what one unit of work found, packed, with its checksum.

The file is a Zstandard frame with the JSON, and a skippable frame with the SHA-256 of all before it: `zstd -d` and
every reader of the format unpack it, and no bit of it can change unseen. Sizes are checked before anything is unpacked.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import zstandard

from normbench.run_folder.files import MAX_PART_BYTES, Unreadable, read_bytes

SUFFIX = ".json.zst"
_SKIPPABLE = (0x184D2A50).to_bytes(4, "little") + (32).to_bytes(4, "little")
_SEAL_BYTES = len(_SKIPPABLE) + 32


def encode_part(part: dict[str, Any]) -> bytes:
    """Packs a part and seals it; raises ValueError for numbers that are not finite."""
    packed = zstandard.compress(json.dumps(part, allow_nan=False).encode())
    return packed + _SKIPPABLE + hashlib.sha256(packed).digest()


def decode_part(data: bytes, sealed: bool = True) -> dict[str, Any]:
    """Unpacks a part.

    Args:
      sealed: whether it must have its checksum; parts of schema version 1 have none.

    Raises:
      Unreadable: where it is not as it was written, or is no part.
    """
    packed = _unsealed(data) if sealed else data
    try:
        size = zstandard.frame_content_size(packed)
        if not 0 <= size <= MAX_PART_BYTES:
            raise Unreadable(f"unpacks to {size:,} bytes; at most {MAX_PART_BYTES:,} are read")
        unpacked = zstandard.ZstdDecompressor().decompress(packed, allow_extra_data=False)
        part = json.loads(unpacked, parse_int=_whole)
    except (ValueError, RecursionError, MemoryError, zstandard.ZstdError) as error:
        raise Unreadable(f"cannot be unpacked: {_one_line(error)}") from error
    if not isinstance(part, dict) or not isinstance(part.get("unit"), str):
        raise Unreadable("is no part: it names no unit")
    tables = part.get("tables")
    if not isinstance(tables, dict) or not all(_are_rows(rows) for rows in tables.values()):
        raise Unreadable("is no part: it has no tables of rows")
    return part


def read_part(path: Path, sealed: bool = True) -> dict[str, Any]:
    """Reads the part of the unit that the file is named after.

    Raises:
      Unreadable: as `decode_part`; or it is another unit's.
    """
    part = decode_part(read_bytes(path, MAX_PART_BYTES), sealed)
    if part["unit"] != unit_of(path.name):
        raise Unreadable(f"is the part of {part['unit'][:100]!r}")
    return part


def unit_of(file_name: str) -> str:
    return file_name.removesuffix(SUFFIX)


def check_part(path: Path) -> None:
    """Holds a sealed part against its checksum, without unpacking it.

    Raises:
      Unreadable: where it is not as it was written.
    """
    _unsealed(read_bytes(path, MAX_PART_BYTES))


def _unsealed(data: bytes) -> bytes:
    packed, seal = data[:-_SEAL_BYTES], data[-_SEAL_BYTES:]
    if seal != _SKIPPABLE + hashlib.sha256(packed).digest():
        raise Unreadable("is not as it was written: its checksum differs")
    return packed


def _whole(digits: str) -> int:
    """A whole number of 64 bits, which is what a table holds."""
    number = int(digits)
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"a whole number of {len(digits)} digits")
    return number


def _are_rows(rows: object) -> bool:
    return isinstance(rows, list) and all(isinstance(row, dict) for row in rows)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
