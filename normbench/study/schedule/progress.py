"""How far a study has come, on standard error."""

import sys
import time
from typing import TypeAlias

from tqdm import tqdm


class Lines:
    """A bar for where nobody watches: a line now and then on standard error."""

    EVERY_S = 30.0

    def __init__(self, total: int):
        self._total = total
        self._count = 0
        self._began_s = self._said_s = time.monotonic()

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *_: object) -> None:
        self._say()

    def update(self, count: int = 1) -> None:
        self._count += count
        if time.monotonic() - self._said_s > self.EVERY_S:
            self._say()

    def _say(self) -> None:
        self._said_s = time.monotonic()
        spent_s = self._said_s - self._began_s
        print(f"study: {self._count} of {self._total} problems, {spent_s:.0f} s", file=sys.stderr, flush=True)


Bar: TypeAlias = "tqdm | Lines"


def bar_of(total: int) -> Bar:
    """Counts units: a problem that was compiled for a target, or measured by one process."""
    return tqdm(total=total, desc="study", unit="problem", file=sys.stderr) if sys.stderr.isatty() else Lines(total)
