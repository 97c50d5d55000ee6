"""Runs the checks in processes of their own: one that hangs, or faults and loses the device, costs its case alone."""

import json
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import IO, Any

from normbench import start
from normbench.study.hardware.checks import CHECKS, Check
from normbench.study.hardware.runs import Outcome, line_of
from normbench.study.hardware.worker import GIVEN_UP
from normbench.study.schedule.worker_process import explain_death

WORKER = "normbench.study.hardware.worker"
MOST_AT_ONCE = 4
"""Processes that share the device."""
LIMIT_S = 120.0
"""For the start of a process, and for each case, compiled twice and launched ten times: what hangs takes forever."""
ENVIRONMENT = {"JAX_PLATFORMS": "cuda,cpu", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
"""The float64 reference of the gradients runs on the CPU."""


@dataclass(frozen=True, slots=True)
class Found:
    """What came of a check: an outcome for each of its cases."""

    check: Check
    outcomes: tuple[Outcome, ...]

    @property
    def line(self) -> str:
        return line_of(self.check.name, self.outcomes)

    @property
    def failed(self) -> set[tuple[str, str]]:
        """Operators and variants that were wrong."""
        pairs = zip(self.check.cases, self.outcomes, strict=True)
        return {(case.problem.operator, case.variant) for case, outcome in pairs if outcome.trouble}


def checked(
    checks: Sequence[Check] = CHECKS, environment: Mapping[str, str] = ENVIRONMENT, limit_s: float = LIMIT_S,
    command: Sequence[str] = (),
) -> Iterator[Found]:  # fmt: skip
    """Yields what came of each check, in their order; some run at once, as most of the time is the compiler's.

    Args:
      environment: of the processes, on top of this one's.
      limit_s: after which a case is given up.
      command: what is started, with the cases as its arguments; by default `WORKER`.
    """
    one = partial(_of_check, command=command or start.command(WORKER), environment=environment, limit_s=limit_s)
    with ThreadPoolExecutor(max(1, min(MOST_AT_ONCE, (os.cpu_count() or 1) // 2))) as threads:
        try:
            yield from threads.map(one, checks)
        finally:
            threads.shutdown(cancel_futures=True)


def _of_check(check: Check, command: Sequence[str], environment: Mapping[str, str], limit_s: float) -> Found:
    waiting = [f"{check.name}:{index}" for index in range(len(check.cases))]
    found: list[Outcome] = []
    while len(found) < len(waiting):
        found += _one_process(command, waiting[len(found) :], environment, limit_s)
    return Found(check, tuple(found))


def _one_process(
    command: Sequence[str], keys: Sequence[str], environment: Mapping[str, str], limit_s: float
) -> Iterator[Outcome]:
    """The outcomes of one process, of which the last is that of the case which ended it."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [*command, *keys], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
            env={**os.environ, **start.environment(), **environment}, start_new_session=True,
        )  # fmt: skip
        try:
            done = 0
            for message in _messages(process, limit_s):
                done += 1
                yield Outcome(**message)
            if done < len(keys) and not (_ended_itself(process) and done):
                yield Outcome(None, _why(process, errors, limit_s))
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def _messages(process: subprocess.Popen, limit_s: float) -> Iterator[dict[str, Any]]:
    """Lines of JSON until the process ends, or keeps silent for too long."""
    assert process.stdout is not None
    descriptor, unread, deadline_s = process.stdout.fileno(), b"", time.monotonic() + 2 * limit_s
    while select.select([descriptor], [], [], max(0.0, deadline_s - time.monotonic()))[0]:
        data = os.read(descriptor, 1 << 16)
        if not data:
            return
        *lines, unread = (unread + data).split(b"\n")
        for line in lines:
            if line.startswith(b"{"):  # a compiler may print, too
                yield json.loads(line)
                deadline_s = time.monotonic() + limit_s


def _ended_itself(process: subprocess.Popen) -> bool:
    """Whether the worker has said what was wrong, and ended for it."""
    try:
        return process.wait(1.0) == GIVEN_UP
    except subprocess.TimeoutExpired:
        return False


def _why(process: subprocess.Popen, errors: IO[bytes], limit_s: float) -> str:
    """Why a process has said nothing of a case."""
    code = process.poll()
    if code is None:
        return f"no answer within {limit_s:g} s: a barrier that is never passed hangs so"
    errors.seek(0)
    return explain_death(code, errors.read().decode(errors="replace"), None)[1]
