"""Sizes and lists as they stand in sentences."""

from collections.abc import Sequence

_NAMED = 3


def megabytes(size: float) -> str:
    """ "1.5 MB"; below 0.1 MB in kB."""
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


def some(names: Sequence[str]) -> str:
    """The first few, and how many more there are."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
