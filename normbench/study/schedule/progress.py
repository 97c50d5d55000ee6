"""How far a study has come: on standard error, and in a log file in the run."""

import os
import sys
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

from tqdm import tqdm

from normbench.display.units import count

LOG = "study.log"
FINE = ("ok", "unsupported")


class Lines:
    """A bar for where nobody watches: a line now and then on standard error."""

    EVERY_S = 30.0

    def __init__(self, total: int, problems: int):
        self._total, self._of = total, count(problems, "problem")
        self._count = self._before = 0
        self._failed = ""
        self._began_s = self._said_s = time.monotonic()

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *_: object) -> None:
        self._say()

    def update(self, n: int = 1) -> None:
        self._count += n
        if time.monotonic() - self._said_s > self.EVERY_S:
            self._say()

    def skip(self, steps: int) -> None:
        """Counts what was done in an earlier attempt, from which nothing is estimated."""
        self._before += steps
        self.update(steps)

    def set_postfix_str(self, text: str) -> None:
        self._failed = text

    def _say(self) -> None:
        self._said_s = time.monotonic()
        spent_s = self._said_s - self._began_s
        words = [f"study: {self._count} of {count(self._total, 'step')} for {self._of}", f"{spent_s:.0f} s"]
        if self._before < self._count < self._total:
            left_s = spent_s / (self._count - self._before) * (self._total - self._count)
            words.append(f"about {left_s:.0f} s left")
        print(*words, *([self._failed] if self._failed else []), sep=", ", file=sys.stderr, flush=True)


class _Bar(tqdm):
    """The bar of a terminal, with the time that is left."""

    def skip(self, steps: int) -> None:
        """Counts what was done in an earlier attempt, from which nothing is estimated."""
        self.initial += steps
        self.update(steps)


class _Silent(Lines):
    def _say(self) -> None:
        pass


Bar: TypeAlias = "_Bar | Lines"


def bar_of(total: int, problems: int, quiet: bool = False) -> Bar:
    """Counts steps: a problem that is compiled for a target, or measured by one process; there are more of these than
    problems."""
    if quiet:
        return _Silent(total, problems)
    if not sys.stderr.isatty():
        return Lines(total, problems)
    return _Bar(total=total, desc=f"study of {count(problems, 'problem')}", unit="step", file=sys.stderr)


class Log:
    """The file study.log of a run: a line per event, with the time; what cannot be written is left out."""

    def __init__(self, run: Path):
        self._path = run / LOG

    def __call__(self, text: str) -> None:
        line = f"{datetime.now(UTC).isoformat(timespec='seconds')} {' '.join(text.split())}\n"
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with suppress(OSError), open(self._path, "a", opener=lambda name, _: os.open(name, flags, 0o644)) as file:
            file.write(line)


class Failures:
    """Cases that went wrong so far, each counted once, by status."""

    def __init__(self) -> None:
        self._found: dict[str, str] = {}

    def add(self, tables: Mapping[str, list[dict[str, Any]]]) -> list[str]:
        """Takes the rows of a unit; returns a sentence per row that went wrong, the first of each case and table."""
        told: dict[tuple[Any, str], str] = {}
        for table, rows in tables.items():
            for row in rows:
                status = row.get("status") or "ok"
                if status not in FINE and "case" in row:
                    self._found[row["case"]] = status
                    told.setdefault((row["case"], table), f"{row['case']} {status} ({table}): {row.get('reason')}")
        return list(told.values())

    def __str__(self) -> str:
        counts = Counter(self._found.values())
        return ", ".join(f"{number} {status.replace('_', ' ')}" for status, number in counts.most_common())
