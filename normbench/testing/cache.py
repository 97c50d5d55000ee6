"""Compiled programs between sessions: pickles in the cache of compilations, so only the user's own files are read."""

import contextlib
import pickle
from pathlib import Path
from typing import Any

from normbench.cache.store import Cache

_KIND = "pickle"


class DiskCache:
    """Any value by a key of hexadecimal digits; whatever fails is as if the value were not there."""

    def __init__(self, folder: Path | None):
        self._cache = Cache(folder)

    def find(self, key: str) -> Any:
        """The value, or None."""
        written = self._cache.find(key, _KIND, own=True)
        try:
            return None if written is None else pickle.loads(written)
        except Exception:  # written by code that is no more
            return None

    def add(self, key: str, value: Any) -> None:
        """Keeps a value, if it can."""
        with contextlib.suppress(pickle.PicklingError):
            self._cache.add(key, _KIND, pickle.dumps(value))
