"""How far a study has come, on standard error."""

import sys
import time
from typing import TypeAlias

from tqdm import tqdm

from normbench.display.units import count


class Lines:
    """A bar for where nobody watches: a line now and then on standard error."""

    EVERY_S = 30.0

    def __init__(self, total: int, problems: int):
        self._total, self._of = total, count(problems, "problem")
        self._count = 0
        self._began_s = self._said_s = time.monotonic()

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *_: object) -> None:
        self._say()

    def update(self, n: int = 1) -> None:
        self._count += n
        if time.monotonic() - self._said_s > self.EVERY_S:
            self._say()

    def _say(self) -> None:
        self._said_s = time.monotonic()
        spent_s = self._said_s - self._began_s
        told = f"study: {self._count} of {count(self._total, 'step')} for {self._of}, {spent_s:.0f} s"
        print(told, file=sys.stderr, flush=True)


Bar: TypeAlias = "tqdm | Lines"


def bar_of(total: int, problems: int) -> Bar:
    """Counts steps: a problem that is compiled for a target, or measured by one process; there are more of these than
    problems."""
    if not sys.stderr.isatty():
        return Lines(total, problems)
    return tqdm(total=total, desc=f"study of {count(problems, 'problem')}", unit="step", file=sys.stderr)
