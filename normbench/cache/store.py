"""A folder of values by key: many may write and read at once, and what is read is what was written, or nothing.

An entry is `<first two digits>/<key>.<kind>`: a line with the SHA-256 of key, kind and body, then the body, compressed.
It appears whole or not at all, and is checked each time that it is read; a damaged one is removed. Where nothing can
be read or written, nothing is kept: a cache is never the reason why something fails.
"""

import contextlib
import hashlib
import os
import re
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

UNUSED_S = 60 * 24 * 3600.0
"""An entry that was asked for at no time in these is removed."""
LARGEST_BYTES = 2**29
"""Of an entry, read; larger than that no program's is."""
_MAGIC = b"normbench cache 1 "
_HEADER_BYTES = len(_MAGIC) + 64 + 1
_ENTRY = re.compile(r"[0-9a-f]{16,}\.[a-z]+")
_FOLDER = re.compile(r"[0-9a-f]{2}")
_TOUCHED_S = 3600.0
"""How exactly the time of an entry's last use is known."""


def default_folder() -> Path | None:
    """`normbench/programs` in `$XDG_CACHE_HOME` or `~/.cache`; None where there is no home."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    try:
        root = Path(given) if os.path.isabs(given) else Path.home() / ".cache"
    except RuntimeError:
        return None
    return root / "normbench" / "programs"


@dataclass(frozen=True)
class Stats:
    """What a cache holds.

    Attributes:
      entries, size_bytes: by kind.
      oldest_use_s: how long ago the entry was used that was used last of all; 0 for an empty cache.
    """

    entries: dict[str, int] = field(default_factory=dict)
    size_bytes: dict[str, int] = field(default_factory=dict)
    oldest_use_s: float = 0.0


class Cache:
    """Bytes by a key of hexadecimal digits and a kind of lower-case letters.

    Args:
      folder: where the entries lie; None for a cache that keeps nothing.
    """

    def __init__(self, folder: Path | None):
        self.folder = folder
        self._pruned = False

    def find(self, key: str, kind: str, own: bool = False) -> bytes | None:
        """The value, or None.

        Args:
          own: whether only files of this user's are read: for what must not come from somebody else.
        """
        path = self._path(key, kind)
        if path is None:
            return None
        try:
            with path.open("rb") as stream:
                state = os.fstat(stream.fileno())
                if own and hasattr(os, "getuid") and state.st_uid != os.getuid():
                    return None
                written = stream.read(LARGEST_BYTES)
        except OSError:
            return None
        body = _checked(key, kind, written)
        if body is None:
            with contextlib.suppress(OSError):
                path.unlink()
        elif time.time() - state.st_mtime > _TOUCHED_S:
            with contextlib.suppress(OSError):
                os.utime(path)
        return body

    def add(self, key: str, kind: str, value: bytes) -> None:
        """Keeps a value, if it can."""
        import zstandard

        path = self._path(key, kind)
        if path is None or self.folder is None or len(value) > LARGEST_BYTES:
            return
        body = zstandard.compress(value)
        with contextlib.suppress(OSError):
            if not self.folder.exists():
                self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.parent.mkdir(exist_ok=True)
            write_whole(path, _header(key, kind, body) + body)
            if not self._pruned:
                self._pruned = True
                self.prune(UNUSED_S)

    def stats(self) -> Stats:
        """How many entries there are, and how large they are."""
        found, now = Stats(), time.time()
        oldest_s = now
        for path, state in self._entries():
            kind = path.suffix[1:]
            found.entries[kind] = found.entries.get(kind, 0) + 1
            found.size_bytes[kind] = found.size_bytes.get(kind, 0) + state.st_size
            oldest_s = min(oldest_s, state.st_mtime)
        return Stats(found.entries, found.size_bytes, now - oldest_s)

    def prune(self, unused_s: float | None = None, largest_bytes: int | None = None) -> tuple[int, int]:
        """Removes what was used at no time in `unused_s`, then what was used longest ago until no more than
        `largest_bytes` are left; and what a killed writer left half-written. Returns how many, and their bytes."""
        entries = sorted(self._entries(leftovers=True), key=lambda one: one[1].st_mtime)
        left_bytes = sum(state.st_size for _, state in entries)
        removed, removed_bytes, now = 0, 0, time.time()
        for path, state in entries:
            old = unused_s is not None and now - state.st_mtime > unused_s
            leftover = path.name.startswith(".") and now - state.st_mtime > _TOUCHED_S
            if not (old or leftover or (largest_bytes is not None and left_bytes > largest_bytes)):
                continue
            with contextlib.suppress(OSError):
                path.unlink()
                removed, removed_bytes = removed + 1, removed_bytes + state.st_size
            left_bytes -= state.st_size
        return removed, removed_bytes

    def _path(self, key: str, kind: str) -> Path | None:
        return self.folder / key[:2] / f"{key}.{kind}" if self.folder else None

    def _entries(self, leftovers: bool = False) -> Iterator[tuple[Path, os.stat_result]]:
        """The files of this cache and no others, whatever else lies in its folder."""
        if self.folder is None:
            return
        with contextlib.suppress(OSError):
            for folder in sorted(path for path in self.folder.iterdir() if _FOLDER.fullmatch(path.name)):
                if folder.is_symlink() or not folder.is_dir():
                    continue
                for path in folder.iterdir():
                    name = path.name
                    if _ENTRY.fullmatch(name) or (leftovers and name[0] == "." and _ENTRY.match(name[1:])):
                        with contextlib.suppress(OSError):  # another prunes, too
                            yield path, path.lstat()


def _header(key: str, kind: str, body: bytes) -> bytes:
    digest = hashlib.sha256(f"{key}.{kind}\n".encode() + body).hexdigest()
    return _MAGIC + digest.encode() + b"\n"


def _checked(key: str, kind: str, written: bytes) -> bytes | None:
    """The value in an entry as it was written; None where it is not whole, or another's."""
    import zstandard

    header, body = written[:_HEADER_BYTES], written[_HEADER_BYTES:]
    if header != _header(key, kind, body):
        return None
    try:
        if not 0 <= zstandard.frame_content_size(body) <= LARGEST_BYTES:
            return None
        return zstandard.decompress(body)
    except zstandard.ZstdError:
        return None


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file so that nobody ever reads a part of it, however many write it."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
