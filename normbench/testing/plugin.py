"""The pytest plugin: the fixture `fusion`, its options, and what is told at the end of a session.

Nothing here imports JAX or pandas: what needs them is imported when a test first asks for the fixture.
"""

import json
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from normbench.testing.fixture import Fusion
    from normbench.testing.programs import Programs
    from normbench.testing.session import Session

_OUTPUT = "normbench_fusion"
_SESSION: "pytest.StashKey[Session]" = pytest.StashKey()
_PROGRAMS: "pytest.StashKey[Programs]" = pytest.StashKey()
_COLLECTED: pytest.StashKey[dict[Path, list[str]]] = pytest.StashKey()
_TOLD: pytest.StashKey[list[str]] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fusion", "what XLA makes of functions (normbench)")
    for name, words in (
        ("update", "write the snapshots of the checks that run, and remove unused ones"),
        ("strict", "fail where there is no snapshot of this JAX release, instead of skipping"),
        ("exact", "fail for any change, also for one for the better"),
    ):
        group.addoption(f"--fusion-{name}", action="store_true", default=False, help=words)
    group.addoption("--fusion-record", metavar="FILE", help="write what every check finds into FILE; hold nothing")


def pytest_configure(config: pytest.Config) -> None:
    from normbench.testing.session import Session

    config.stash[_SESSION] = Session()
    config.stash[_COLLECTED] = {}
    config.stash[_TOLD] = []


@pytest.fixture
def fusion(request: pytest.FixtureRequest) -> "Fusion":
    """Holds what the compiler makes of a function, for a GPU that need not be there.

    `fusion.check(f, x)` compares with a snapshot; `fusion.check(f, x, launches=1)` with limits; `fusion.report(f, x)`
    returns the report.
    """
    from normbench.cache.store import default_folder
    from normbench.testing.cache import DiskCache
    from normbench.testing.fixture import Fusion
    from normbench.testing.programs import Programs

    config = request.config
    if _PROGRAMS not in config.stash:
        config.stash[_PROGRAMS] = Programs(DiskCache(default_folder()))
    return Fusion(_name(request.node), request.path, config, config.stash[_PROGRAMS], config.stash[_SESSION])


def _name(item: pytest.Item) -> str:
    """A test after its file: TestBlock.test_forward[bf16]. (Its node id has the group of xdist in it.)"""
    return ".".join(node.name for node in item.listchain() if isinstance(node, pytest.Class | pytest.Item))


def pytest_itemcollected(item: pytest.Item) -> None:
    collected = item.config.stash.get(_COLLECTED, None)
    if collected is not None:
        collected.setdefault(item.path, []).append(_name(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Generator[None, Any, Any]:
    from normbench.testing.session import has_snapshots

    if call.when == "call" and call.excinfo is None and has_snapshots(item.path):
        item.config.stash[_SESSION].passed.append([str(item.path), _name(item)])
    return (yield)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """A process of xdist has ended: what its checks did."""
    if text := getattr(node, "workeroutput", {}).get(_OUTPUT):
        node.config.stash[_SESSION].add(text)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Sends what was done to the process that started this one, or else writes it."""
    config = session.config
    own = config.stash[_SESSION]
    if programs := config.stash.get(_PROGRAMS, None):
        own.compiled, own.found = programs.compiled, programs.found
    if _collected_whole(config):
        own.collected = {str(path): tests for path, tests in config.stash[_COLLECTED].items() if _has(path)}
    if hasattr(config, "workeroutput"):
        config.workeroutput[_OUTPUT] = own.to_json()
    elif not _finish(config, own):
        session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED


def _has(path: Path) -> bool:
    from normbench.testing.session import has_snapshots

    return has_snapshots(path)


def _collected_whole(config: pytest.Config) -> bool:
    """Whether of each file that was collected all tests were."""
    narrowed = any("::" in argument for argument in config.args)
    return not narrowed and not any(config.getoption(name, False) for name in ("lf", "stepwise"))


def _finish(config: pytest.Config, session: "Session") -> bool:
    """Writes and tells; False where that fails."""
    from normbench.errors import UserError
    from normbench.testing.session import unused, write

    told = config.stash[_TOLD]
    try:
        if record := config.getoption("--fusion-record"):
            Path(record).write_text(json.dumps(session.recorded), encoding="utf-8")
        elif config.getoption("--fusion-update"):
            made, removed = write(session)
            told.append(f"{made} snapshots written, {removed} unused ones removed")
        elif left := unused(session):
            told.append(f"{len(left)} unused snapshots; pytest --fusion-update removes them:")
            told += [f"  {one.path}: {one.check}, {one.key}" for one in left[:10]]
            told += [f"  and {len(left) - 10} more"] if len(left) > 10 else []
    except (UserError, OSError) as error:
        told.append(f"error: {error}")
        return not config.getoption("--fusion-update") and not config.getoption("--fusion-record")
    return True


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    session, told = config.stash[_SESSION], config.stash[_TOLD]
    if not session.checks and not told:
        return
    terminalreporter.section("fusion")
    terminalreporter.line(
        f"{session.checks} checks, {session.compiled} programs compiled, {session.found} found in the cache"
    )
    for line in session.better:
        terminalreporter.line(f"better: {line}")
    for line in told:
        terminalreporter.line(line)
