"""The fixture `fusion`: checks of one test."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from normbench.errors import UserError
from normbench.testing.judgement import TOLERANCE, judged, one_line
from normbench.testing.limits import exceeded, limits, message
from normbench.testing.session import Session
from normbench.testing.snapshots import Entries, read_entries, snapshot_path, target_of

if TYPE_CHECKING:
    from normbench.explanation.explain import Report
    from normbench.testing.programs import Programs, Traced


class FusionWarning(UserWarning):
    """A program that could not be compared with a snapshot of this JAX release, or is better than its snapshot."""


class Fusion:
    """Holds what the compiler makes of functions, by snapshots and by limits.

    Args:
      test: its name after its file: "TestBlock.test_forward[bf16]".
      file: its test file.
    """

    def __init__(self, test: str, file: Path, config: pytest.Config, programs: "Programs", session: Session):
        self._test, self._file = test, file
        self._update, self._strict, self._exact, self._record = (
            config.getoption(f"--fusion-{name}") for name in ("update", "strict", "exact", "record")
        )
        self._programs, self._session = programs, session
        self._checks = 0

    def check(
        self,
        function: Callable,
        /,
        *args: Any,
        target: str = "h200",
        launches: int | None = None,
        max_ratio: float | None = None,
        max_bytes: float | None = None,
        max_predicted_s: float | None = None,
        no_hint: str | Sequence[str] = (),
        collectives: int | None = None,
        tolerance: float = TOLERANCE,
        **kwargs: Any,
    ) -> "Report":
        """Compiles `function(*args, **kwargs)` for a target that need not be there, and holds it.

        Without limits it is compared with its snapshot; with limits, each of which says what it may be at most, with
        these alone. Keywords of the function that are called as one of these: give a `functools.partial`.

        Args:
          function, args, kwargs: as for `normbench.explain`: arrays or `jax.ShapeDtypeStruct`s.
          launches, max_ratio, max_bytes, max_predicted_s, no_hint, collectives: see `normbench.testing.limits.Limits`.
          tolerance: share of the bytes by which it may differ from its snapshot.

        Returns:
          the report, as `normbench.explain` returns it.
        """
        try:
            allowed = limits(launches, max_ratio, max_bytes, max_predicted_s, no_hint, collectives)
            traced = self._traced(function, args, kwargs, target)
            report = self._programs.report(traced)
            self._session.checks += 1
            if self._record:
                self._note(traced, report)
            elif allowed:
                if failures := exceeded(report, allowed):
                    report = self._programs.report(traced, lines_count=True)
                    _fail(message(self._test, report, failures))
            else:
                self._snapshot(traced, report, tolerance)
            return report
        except (UserError, _compile_error()) as error:
            _fail(f"{self._test} on {target}: {error}")

    def report(self, function: Callable, /, *args: Any, target: str = "h200", **kwargs: Any) -> "Report":
        """What `normbench.explain` returns, compiled once and kept: for assertions of one's own."""
        try:
            return self._programs.report(self._traced(function, args, kwargs, target), lines_count=True)
        except (UserError, _compile_error()) as error:
            _fail(f"{self._test} on {target}: {error}")

    def _traced(self, function: Callable, args: Sequence[Any], kwargs: dict[str, Any], target: str) -> "Traced":
        from normbench.fusion.targets import check_target, require_compilers

        check_target(target)
        try:
            require_compilers(target)
        except UserError as error:
            pytest.skip(str(error))
        return self._programs.traced(function, args, kwargs, target)

    def _next_name(self) -> str:
        """test_block, and test_block.1 for the second check of the test, as syrupy counts."""
        name = f"{self._test}.{self._checks}" if self._checks else self._test
        self._checks += 1
        return name

    def _note(self, traced: "Traced", report: "Report") -> None:
        from normbench.testing.programs import structure

        row = structure(traced, report).row()
        self._session.recorded.append([f"{self._file}::{self._next_name()}", traced.target, row])

    def _snapshot(self, traced: "Traced", report: "Report", tolerance: float) -> None:
        from normbench.testing.programs import structure

        name, key = self._next_name(), traced.key
        self._session.used.append([str(self._file), name, key])
        known = self._known().get(name, {})
        if self._update:
            now = structure(traced, report)
            if known.get(key) != now:
                self._session.made.append([str(self._file), name, key, now.row()])
        elif key not in known:
            self._no_snapshot(name, key, sorted(known))
        else:
            found = judged(name, known[key], traced, self._programs, tolerance)
            if found.fails(self._exact):
                _fail(found.message)
            if found.verdict == "better":
                self._session.better.append(one_line(found.message))

    def _known(self) -> Entries:
        path = snapshot_path(self._file)
        if not self._update:
            return read_entries(path)
        try:
            return read_entries(path)
        except UserError:  # it is written anew
            return {}

    def _no_snapshot(self, name: str, key: str, others: list[str]) -> NoReturn:
        words = f"{name} has no snapshot for {key}"
        others = [other for other in others if target_of(other) == target_of(key)]
        if others and not self._strict:
            text = f"{words}, only for {'; '.join(others)}: pytest --fusion-update makes one"
            warnings.warn(FusionWarning(text), stacklevel=4)
            pytest.skip(text)
        has = f" (it has {'; '.join(others)})" if others else ""
        _fail(f"{words}{has}: pytest --fusion-update makes one")


def _compile_error() -> type[Exception]:
    from normbench.fusion.isolation import CompileError

    return CompileError


def _fail(text: str) -> NoReturn:
    pytest.fail(text, pytrace=False)
