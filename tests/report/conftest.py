"""Runs for the tests of the report, written to temporary folders."""

from collections.abc import Callable
from pathlib import Path

import pytest

from normbench.report import Run, load_run, write_report
from tests.report.synthetic_runs import full_tables, write_run

KEPT = Path(__file__).resolve().parents[2] / "results" / "runs"


@pytest.fixture(scope="session")
def full_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run of both operators, measured on the CPU and compiled for the H200."""
    return write_run(tmp_path_factory.mktemp("runs") / "made-up-run", full_tables())


@pytest.fixture(scope="session")
def run(full_run: Path) -> Run:
    """The same, read."""
    return load_run(full_run)


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Writes a run from tables."""
    return lambda tables, **settings: write_run(tmp_path / "run", tables, **settings)


@pytest.fixture(scope="session")
def kept_page(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The report of a kept run, written once: "quick" or "standard"."""
    written: dict[str, Path] = {}

    def page(name: str) -> Path:
        if name not in written:
            written[name] = write_report(load_run(KEPT / name), tmp_path_factory.mktemp("pages") / f"{name}.html")
        return written[name]

    return page
