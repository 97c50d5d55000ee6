"""One finding of `normbench doctor`."""

from dataclasses import dataclass

STATUSES = ("ok", "warn", "missing")
JAX_RANGE = (0, 10, 2), (0, 13)
"""The lowest supported version of JAX and the first that is not; pyproject.toml says the same."""


@dataclass(frozen=True, slots=True)
class Check:
    """One finding.

    Attributes:
      name: what was looked at.
      status: "ok", "warn" (numbers may mislead) or "missing" (something cannot be measured here).
      found: what is there.
      advice: what to do about it; empty where nothing is to be done.
    """

    name: str
    status: str
    found: str
    advice: str = ""


def version_tuple(version: str) -> tuple[int, ...]:
    """Reads the leading numbers of "0.10.2rc1"."""
    numbers = []
    for part in version.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
        if digits != part:
            break
    return tuple(numbers)
