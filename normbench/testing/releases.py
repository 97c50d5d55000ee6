"""The checks of a project under several JAX releases, and where each program changed between them."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from normbench.display.units import count
from normbench.errors import UserError
from normbench.goldens.store import version_key
from normbench.testing.changes import SAME, summary, verdict
from normbench.testing.judgement import TOLERANCE
from normbench.testing.structure import Structure, structure_from

Name = tuple[str, str]
"""A check, as "tests/test_block.py::test_forward", and its target."""
_RAN = (0, 1)  # exit statuses of pytest: all passed, some failed
_NO_TESTS = 5


@dataclass(frozen=True)
class Release:
    """What the checks found under one JAX release.

    Attributes:
      jax: its version.
      programs: by check and target.
      failed: whether tests failed.
    """

    jax: str
    programs: dict[Name, Structure]
    failed: bool


def release(python: str, tests: Sequence[str]) -> Release:
    """Runs the tests with an interpreter and takes down what their checks find; nothing is held against a snapshot.

    Raises:
      UserError: for an interpreter that does not run, or lacks JAX, pytest or normbench, and where pytest does not
        come to its end.
    """
    jax = _jax_of(python)
    with tempfile.TemporaryDirectory(prefix="normbench-") as folder:
        record = Path(folder) / "record.json"
        command = [python, "-m", "pytest", "-q", "-p", "normbench.testing.plugin", "--fusion-record", str(record)]
        done = _run([*command, *tests])
        if done.returncode not in (*_RAN, _NO_TESTS) or not record.is_file():
            raise UserError(f"pytest under {python!r} (jax {jax}) ended with {done.returncode}: {_last_line(done)}")
        rows = json.loads(record.read_text(encoding="utf-8"))
    programs = {(_relative(check), target): structure_from(row) for check, target, row in rows}
    return Release(jax, programs, done.returncode == 1)


_ASK = "import jax, pytest, normbench.testing.plugin; print(jax.__version__)"


def _jax_of(python: str) -> str:
    done = _run([python, "-c", _ASK])
    if done.returncode:
        raise UserError(f"python {python!r} lacks JAX, pytest or normbench: {_last_line(done)}")
    return done.stdout.strip().splitlines()[-1]


def _run(command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", "cpu")}
    try:
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    except OSError as error:
        raise UserError(f"python {command[0]!r} cannot be run: {error.strerror or error}") from error


def _last_line(done: "subprocess.CompletedProcess[str]") -> str:
    lines = [line for line in (done.stderr + "\n" + done.stdout).splitlines() if line.strip()]
    errors = [line for line in lines if "rror" in line]
    return (errors or lines or ["it said nothing"])[-1].strip()[:300]


def _relative(check: str) -> str:
    file, _, test = check.partition("::")
    return f"{os.path.relpath(file)}::{test}"


def releases(pythons: Sequence[str], tests: Sequence[str]) -> list[Release]:
    """What the checks find under each interpreter, the oldest JAX first.

    Raises:
      UserError: as `release`, and for two interpreters with the same JAX.
    """
    for path in tests:
        if not Path(path.partition("::")[0]).exists():
            raise UserError(f"tests {path!r} do not exist")
    found: list[Release] = []
    for python in pythons or (sys.executable,):
        one = release(python, tests)
        if any(other.jax == one.jax for other in found):
            raise UserError(f"python {python!r} has jax {one.jax}, as another one has; give one interpreter a release")
        found.append(one)
    return sorted(found, key=lambda one: version_key(one.jax))


def changes(before: Release, after: Release) -> dict[Name, tuple[str, str]]:
    """The verdict and the change in words of each program that both releases have and that differs."""
    found = {}
    for name, then in before.programs.items():
        now = after.programs.get(name)
        if now is None:
            continue
        judged = verdict(then, now, TOLERANCE)
        if judged != SAME:
            found[name] = (judged, summary(then, now))
    return found


def history_text(found: Sequence[Release]) -> str:
    """Where each program changed, release by release, as lines for a terminal."""
    names = list(dict.fromkeys(name for one in found for name in one.programs))
    lines = [f"{one.jax}: {count(len(one.programs), 'program')}{_failed(one)}" for one in found]
    for before, after in pairwise(found):
        changed = changes(before, after)
        both = len(before.programs.keys() & after.programs.keys())
        lines += ["", f"{before.jax} → {after.jax}: {len(changed)} of {count(both, 'program')} changed"]
        lines += [f"  {_name(name, names)}: {words} ({judged})" for name, (judged, words) in changed.items()]
        for one, other in ((before, after), (after, before)):
            missing = [_name(name, names) for name in one.programs if name not in other.programs]
            lines += [f"  {name}: not under {other.jax}" for name in missing]
    return "\n".join(lines)


def _failed(one: Release) -> str:
    return ", and tests that failed" if one.failed else ""


def _name(name: Name, names: Sequence[Name]) -> str:
    check, target = name
    return check if len({target for _, target in names}) == 1 else f"{check} on {target}"
