"""A folder that anybody may have made: every command ends with a line, and nothing is followed, written or executed."""

import os
import shutil

import pytest

from tests.run_folder.commands import COMMANDS, call, no_workers
from tests.run_folder.hostile_kinds import kinds
from tests.run_folder.small_runs import write_small_run

__all__ = ["no_workers"]
KINDS = kinds()
TRACEBACK_HINT = "repeat the command with --debug"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    return {state: write_small_run(folder / state, state) for state in ("complete", "running")}


def outside_of(folder):
    """A folder beside the run, with what must not be read, changed or run."""
    folder.mkdir()
    (folder / "secret").write_text("keep")
    (folder / "evil.py").write_text(f"open({str(folder / 'executed')!r}, 'w').close()\n")
    return folder


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def wrong(outcome, kind):
    """What is wrong with the end of a command, in words."""
    if outcome.status not in (0, 1, 2) or (kind.refused and outcome.status != 2):
        return f"status {outcome.status}"
    if TRACEBACK_HINT in outcome.err or "Traceback" in outcome.err:
        return "a raw exception"
    return (
        "several lines"
        if outcome.status == 2 and len(outcome.err.splitlines()) > 1 + outcome.err.count("set aside:")
        else ""
    )


def test_there_are_at_least_150_kinds():
    assert len({kind.name for kind in KINDS}) == len(KINDS) >= 150


@pytest.mark.torture
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_command_ends_with_a_line(kind, runs, tmp_path, no_workers):
    end_with_a_line(COMMANDS, kind, runs, tmp_path)


@pytest.mark.parametrize("number", range(len(KINDS)), ids=lambda number: KINDS[number].name)
def test_commands_in_turn_end_with_a_line(number, runs, tmp_path, no_workers):
    end_with_a_line([COMMANDS[number % len(COMMANDS)]], KINDS[number], runs, tmp_path)


def end_with_a_line(commands, kind, runs, tmp_path):
    outside = outside_of(tmp_path / "outside")
    before = content(outside)
    for command in commands:
        run = shutil.copytree(runs[kind.state], tmp_path / "run", symlinks=True)
        kind.change(run, outside)
        written = tmp_path / "written"
        written.mkdir()
        outcome = call(command, run, runs["complete"], written)
        assert not wrong(outcome, kind), f"{command}: {outcome}"
        assert content(outside) == before
        assert {path.name for path in tmp_path.iterdir()} == {"outside", "run", "written"}
        assert {path.name for path in written.iterdir()} <= {"report.html", "merged"}
        shutil.rmtree(run)
        shutil.rmtree(written)


def test_a_module_is_imported_only_where_the_user_names_it(tmp_path, monkeypatch, no_workers):
    outside = outside_of(tmp_path / "outside")
    run = write_small_run(tmp_path / "run", "running", imports=("evil",), folder=str(outside))
    monkeypatch.chdir(tmp_path)
    outcome = call("resume", run, run, tmp_path)
    assert outcome.status == 2
    assert "--import evil" in outcome.err
    assert not (outside / "executed").exists()


def test_a_lock_that_is_a_link_creates_nothing(tmp_path, runs, no_workers):
    run = shutil.copytree(runs["running"], tmp_path / "run")
    os.symlink(tmp_path / "created", run / ".lock")
    assert call("resume", run, run, tmp_path).status == 2
    assert not (tmp_path / "created").exists()
