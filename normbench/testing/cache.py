"""Compiled programs on disk between sessions, by content, in the user's cache folder.

Many processes may write at once: a file appears whole or not at all. Where nothing can be written, nothing is kept.
Entries are pickles, so only files of the user's own are read.
"""

import contextlib
import os
import pickle
import time
from pathlib import Path
from typing import Any

from normbench.testing.snapshots import write_whole

_KEPT_S = 60 * 24 * 3600.0
"""A program that was asked for at no time in these is removed."""
_SUFFIX = ".pkl.zst"


def cache_folder() -> Path | None:
    """`normbench/programs` in `$XDG_CACHE_HOME` or `~/.cache`; None where there is no home."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    try:
        root = Path(given) if os.path.isabs(given) else Path.home() / ".cache"
    except RuntimeError:
        return None
    return root / "normbench" / "programs"


class DiskCache:
    """Any value by a key of hexadecimal digits; whatever fails is as if the value were not there."""

    def __init__(self, folder: Path | None):
        self._folder = folder
        self._pruned = False

    def find(self, key: str) -> Any:
        """The value, or None."""
        import zstandard

        path = self._path(key)
        if path is None:
            return None
        try:
            if not _is_ours(path):
                return None
            value = pickle.loads(zstandard.decompress(path.read_bytes()))
        except Exception:  # damaged, or written by code that is no more
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return value

    def add(self, key: str, value: Any) -> None:
        """Keeps a value, if it can."""
        import zstandard

        path = self._path(key)
        if path is None:
            return
        with contextlib.suppress(OSError, pickle.PicklingError):
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_whole(path, zstandard.compress(pickle.dumps(value)))
            self._prune(path.parent)

    def _path(self, key: str) -> Path | None:
        return self._folder / f"{key}{_SUFFIX}" if self._folder else None

    def _prune(self, folder: Path) -> None:
        """Removes what nobody has asked for in a long time, once per process."""
        if self._pruned:
            return
        self._pruned = True
        oldest = time.time() - _KEPT_S
        for path in folder.glob(f"*{_SUFFIX}"):
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < oldest:
                    path.unlink()


def _is_ours(path: Path) -> bool:
    return not hasattr(os, "getuid") or path.stat().st_uid == os.getuid()
