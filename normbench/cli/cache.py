"""`normbench cache stats` and `normbench cache prune`: the compilations that are kept on disk."""

import argparse
from pathlib import Path

from normbench.cache.store import Cache, default_folder
from normbench.errors import UserError

DAY_S = 24 * 3600.0


def cache_folder(given: str | None) -> Path | None:
    """The folder of the cache: the one given, or the user's own; None where there is no home.

    Raises:
      UserError: where something else is there.
    """
    if given is None:
        return default_folder()
    folder = Path(given)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"cache {given!r} is not a folder")
    return folder.resolve()


def run(parsed: argparse.Namespace) -> int:
    folder = cache_folder(parsed.cache)
    if folder is None:
        raise UserError("cache: there is no home folder; give one with --cache DIR")
    cache = Cache(folder)
    if parsed.action == "prune":
        return _prune(cache, parsed)
    if parsed.days is not None or parsed.megabytes is not None:
        raise UserError("--days and --megabytes are for: normbench cache prune")
    found = cache.stats()
    print(folder)
    for kind, number in sorted(found.entries.items()):
        print(f"{kind:>8}  {number:>8,} entries  {found.size_bytes[kind] / 1e6:>10,.1f} MB")
    if not found.entries:
        print("empty")
    else:
        print(f"all of them were used in the last {found.oldest_use_s / DAY_S:.1f} days")
    return 0


def _prune(cache: Cache, parsed: argparse.Namespace) -> int:
    for name in ("days", "megabytes"):
        value = getattr(parsed, name)
        if value is not None and not 0 <= value < float("inf"):
            raise UserError(f"{name} {value:g}; allowed: 0 and more")
    days, megabytes = parsed.days, parsed.megabytes
    if days is None and megabytes is None:
        raise UserError("cache prune needs --days N, --megabytes N or both")
    removed, size_bytes = cache.prune(
        None if days is None else days * DAY_S, None if megabytes is None else int(megabytes * 1e6)
    )
    print(f"{removed:,} removed, {size_bytes / 1e6:,.1f} MB")
    return 0
