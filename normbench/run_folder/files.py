"""Files of a run: read only where they are plain and of a size that is sane, written whole or not at all.

A folder may come from anybody. A link could lead out of it, and a FIFO would never end; neither is opened.
"""

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

TEMPORARY = ".tmp-"
MAX_INFO_BYTES = 64 * 2**20
MAX_PART_BYTES = 2**30
"""Of a part, packed and unpacked; the largest of a real run has some megabytes."""
MAX_FILE_BYTES = 4 * 2**30
MAX_ENTRIES = 2_000_000
MAX_DEPTH = 4
"""Folders within folders: hlo/ab/ is the deepest that a run has."""
_CHUNK_BYTES = 2**20
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Unreadable(Exception):
    """A file that is not read; the text says why, as the end of a sentence about it."""


def read_bytes(path: Path, limit_bytes: int) -> bytes:
    """The content of a plain file.

    Raises:
      Unreadable: where it is none, is larger than `limit_bytes`, or the system refuses.
    """
    return b"".join(_chunks(path, limit_bytes))


def digest(path: Path, limit_bytes: int = MAX_FILE_BYTES) -> tuple[int, str]:
    """Bytes and SHA-256 of a plain file.

    Raises:
      Unreadable: as `read_bytes`.
    """
    found, size = hashlib.sha256(), 0
    for chunk in _chunks(path, limit_bytes):
        found.update(chunk)
        size += len(chunk)
    return size, found.hexdigest()


def _chunks(path: Path, limit_bytes: int) -> Iterator[bytes]:
    try:
        with open(path, "rb", opener=lambda name, _: os.open(name, _FLAGS)) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise Unreadable(f"is {kind(found.st_mode)}, not a file")
            if found.st_size > limit_bytes:
                raise Unreadable(f"has {found.st_size:,} bytes; at most {limit_bytes:,} are read")
            left = limit_bytes
            while chunk := file.read(min(_CHUNK_BYTES, left + 1)):
                left -= len(chunk)
                if left < 0:
                    raise Unreadable(f"has grown beyond {limit_bytes:,} bytes")
                yield chunk
    except FileNotFoundError as error:
        raise Unreadable("is missing") from error
    except OSError as error:
        linked = path.is_symlink()
        raise Unreadable(
            "is a link, which is not followed" if linked else f"cannot be read: {error.strerror}"
        ) from error


def kind(mode: int) -> str:
    """What an entry of a folder is, by its mode."""
    tests = {
        "a link": stat.S_ISLNK, "a FIFO": stat.S_ISFIFO, "a socket": stat.S_ISSOCK, "a folder": stat.S_ISDIR,
        "a device": lambda one: stat.S_ISCHR(one) or stat.S_ISBLK(one), "a file": stat.S_ISREG,
    }  # fmt: skip
    return next((name for name, test in tests.items() if test(mode)), "of an unknown kind")


def walk(folder: Path) -> Iterator[tuple[str, int]]:
    """Every file below a folder, as (path relative to it, mode), folders themselves left out; follows no link.

    Raises:
      Unreadable: where it holds anything but files and folders, too many of them or too deep, or cannot be listed.
    """
    count = 0
    waiting = [(folder, "", 0)]
    while waiting:
        here, prefix, depth = waiting.pop()
        try:
            with os.scandir(here) as entries:
                for entry in entries:
                    count += 1
                    found = entry.stat(follow_symlinks=False)
                    mode = found.st_mode
                    name = f"{prefix}{entry.name}"
                    if count > MAX_ENTRIES:
                        raise Unreadable(f"holds more than {MAX_ENTRIES:,} files")
                    if stat.S_ISDIR(mode):
                        if depth == MAX_DEPTH:
                            raise Unreadable(f"holds {name!r}, which is deeper than a run's folders are")
                        waiting.append((Path(entry.path), f"{name}/", depth + 1))
                    elif stat.S_ISREG(mode) and found.st_size > MAX_FILE_BYTES:
                        raise Unreadable(
                            f"holds {name!r}, which has {found.st_size:,} bytes, more than any file of one"
                        )
                    elif stat.S_ISREG(mode):
                        yield name, mode
                    else:
                        raise Unreadable(f"holds {name!r}, which is {kind(mode)}; nothing is read through it")
        except OSError as error:
            where = f"folder {prefix.rstrip('/')!r} in it " if prefix else ""
            raise Unreadable(f"{where}cannot be listed: {error.strerror}") from error


def write_atomically(path: Path, data: bytes, wait: bool = True) -> None:
    """Writes a file so that at any instant it is there whole, old or new, or not at all.

    Args:
      wait: until it would outlast a failure of the power. The death of a process is outlasted in any case.

    Raises:
      OSError: where the system refuses; nothing half-written is left then.
    """
    growing = temporary(path)
    try:
        with growing.open("wb") as file:
            file.write(data)
            file.flush()
            if wait:
                os.fsync(file.fileno())
        os.replace(growing, path)
    except OSError:
        with suppress(OSError):
            growing.unlink()
        raise


def temporary(path: Path) -> Path:
    """A name in the same folder that no pattern for finished files matches."""
    return path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}~")
