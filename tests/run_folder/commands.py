"""Runs each command that reads a run, in this process, and stops a resumption before any worker starts."""

import contextlib
import io
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from normbench.cli import main as cli
from normbench.errors import UserError
from normbench.study.schedule import study as schedule

COMMANDS = ("verify", "report", "compare", "merge", "resume")
LIMIT_S = 60
CARRIED_ON = "the units would now be carried out"


@dataclass(frozen=True)
class Outcome:
    status: int
    out: str
    err: str


class Hang(BaseException):
    """A command took longer than LIMIT_S."""


def _hang(signum: int, frame: object) -> None:
    raise Hang


def _stop(*_: object) -> Path:
    raise UserError(CARRIED_ON)


@pytest.fixture(scope="module")
def no_workers() -> Iterator[None]:
    """A resumption that comes to its work says so, and ends; signals are what they were."""
    terminate = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schedule, "_carry_out", _stop)
        yield
    signal.signal(signal.SIGTERM, terminate)


def call(command: str, run: Path, sound: Path, outside: Path) -> Outcome:
    """One command on `run`; what it writes besides goes to `outside`."""
    arguments = {
        "verify": ["verify", run],
        "report": ["report", run, "--html", outside / "report.html"],
        "compare": ["compare", sound, run],
        "merge": ["merge", run, "--into", outside / "merged"],
        "resume": ["study", "--resume", run, "--quiet"],
    }[command]
    out, err = io.StringIO(), io.StringIO()
    before = signal.signal(signal.SIGALRM, _hang)
    signal.alarm(LIMIT_S)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = cli.main([str(word) for word in arguments])
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return Outcome(status, out.getvalue(), err.getvalue())
