"""What the checks of one pytest session did, gathered from its processes: snapshots used, made and left over."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from normbench.testing.snapshots import FOLDER, SUFFIX, Entries, read_entries, snapshot_path, write_entries
from normbench.testing.structure import Structure, structure_from


@dataclass
class Session:
    """Filled by the checks of one process; those of other processes are added to it.

    Attributes:
      used: [test file, check, key] of the snapshots that were looked for.
      made: [test file, check, key, structure] of what `--fusion-update` writes.
      recorded: [node, target, structure] of every check, for `normbench history`.
      passed: [test file, test] of the tests that ran to their end.
      collected: tests of the files that were collected whole.
      better: sentences about programs that are better than their snapshot.
      checks, compiled, found: how many checks there were, and programs compiled and found on disk.
    """

    used: list[list[str]] = field(default_factory=list)
    made: list[list[Any]] = field(default_factory=list)
    recorded: list[list[Any]] = field(default_factory=list)
    passed: list[list[str]] = field(default_factory=list)
    collected: dict[str, list[str]] = field(default_factory=dict)
    better: list[str] = field(default_factory=list)
    checks: int = 0
    compiled: int = 0
    found: int = 0

    def to_json(self) -> str:
        """For another process."""
        return json.dumps(asdict(self))

    def add(self, text: str) -> None:
        """Adds what another process did."""
        other = Session(**json.loads(text))
        for name in ("used", "made", "recorded", "passed", "better"):
            getattr(self, name).extend(getattr(other, name))
        for name in ("checks", "compiled", "found"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.collected |= other.collected


def has_snapshots(test_file: Path) -> bool:
    """Whether snapshots lie beside a test file, its own or those of a file that may be gone."""
    return (test_file.parent / FOLDER).is_dir()


def test_of(check: str) -> str:
    """The test that a check belongs to: the second of test_a is test_a.1."""
    name, dot, number = check.rpartition(".")
    return name if dot and number.isdigit() else check


@dataclass(frozen=True)
class Unused:
    """An entry that nothing asked for."""

    path: Path
    check: str
    key: str


def unused(session: Session) -> list[Unused]:
    """Entries of tests that are gone, of checks that a test which passed did not make, and of targets that it named no
    more; those of other JAX releases and flags stay. What a session did not run, it does not judge.

    Raises:
      UserError: for a damaged snapshot.
    """
    files = {Path(file) for file, _ in session.passed} | {Path(file) for file in session.collected}
    found = [one for file in sorted(files) for one in _unused_of(file, session)]
    for folder in sorted({Path(file).parent for file in session.collected}):
        found += _of_gone_files(folder)
    return found


def _unused_of(file: Path, session: Session) -> list[Unused]:
    path, own = snapshot_path(file), str(file)
    used = [(check, key) for test_file, check, key in session.used if test_file == own]
    conditions = {key.partition(", ")[2] for _, key in used}
    passed = {test for test_file, test in session.passed if test_file == own}
    there = session.collected.get(own)
    found = []
    for check, keys in read_entries(path).items():
        test = test_of(check)
        gone = there is not None and test not in there
        asked = {key for name, key in used if name == check}
        for key in keys:
            changed = key not in asked and (not asked or key.partition(", ")[2] in conditions)
            if gone or (test in passed and changed):
                found.append(Unused(path, check, key))
    return found


def _of_gone_files(folder: Path) -> list[Unused]:
    found = []
    for path in sorted((folder / FOLDER).glob(f"*{SUFFIX}")):
        if not (folder / f"{path.name.removesuffix(SUFFIX)}.py").exists():
            found += [Unused(path, check, key) for check, keys in read_entries(path).items() for key in keys]
    return found


def write(session: Session) -> tuple[int, int]:
    """Writes what was made and removes what is unused; returns how many of each.

    A damaged file is written anew.

    Raises:
      UserError: where it cannot be written.
    """
    made: dict[Path, list[tuple[str, str, Structure]]] = {}
    for file, check, key, row in session.made:
        made.setdefault(snapshot_path(Path(file)), []).append((check, key, structure_from(row)))
    left_over = _readable_unused(session)
    for path in sorted({*made, *(one.path for one in left_over)}):
        entries = _entries(path)
        for one in left_over:
            if one.path == path:
                entries[one.check].pop(one.key, None)
        for check, key, found in made.get(path, ()):
            entries.setdefault(check, {})[key] = found
        write_entries(path, entries)
    return sum(map(len, made.values())), len(left_over)


def _entries(path: Path) -> Entries:
    try:
        return read_entries(path)
    except ValueError:  # damaged, and to be written anew
        return {}


def _readable_unused(session: Session) -> list[Unused]:
    try:
        return unused(session)
    except ValueError:
        return []
