"""A study that cannot go on stops cleanly, blames no case and says how to go on; it is taken up where it stopped."""

import errno
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from normbench.cases.case import Case
from normbench.errors import UserError
from normbench.kernels import Problem, registry
from normbench.run_folder import check_run
from normbench.study.machine.mixing import differences
from normbench.study.schedule import study as schedule
from normbench.study.schedule.compiling import Progress, WorkerError
from normbench.study.schedule.store import StorageError, Store, write_hlo
from normbench.study.schedule.study import Resumption, Stopped, StudyConfig, resume, study
from normbench.study.schedule.units import compile_units
from normbench.study.schedule.worker_process import Death, explain_death
from normbench.study.worker.compiled_case import outcome

ROOT = Path(__file__).parents[3]
MODULE = "tests.study.killed_variant"
FILE = "NORMBENCH_TEST_KILLED"  # as in the module, which is not imported here: that would register its variants
TINY = Problem("batch_norm", (2, 4, 3, 5))
NAMED = Resumption(imports=(MODULE,), quiet=True)


@pytest.fixture(autouse=True)
def registry_as_it_was():
    yield
    for found in registry._VARIANTS.values():
        for name in ("killed", "failing"):
            found.pop(name, None)
    sys.modules.pop(MODULE, None)


def config(tmp_path, *variants, **fields):
    cases = tuple(Case(TINY, name) for name in variants)
    defaults = {"cases": cases, "targets": ("h200",), "out": tmp_path / "runs", "imports": (MODULE,), "quiet": True}
    return StudyConfig.for_preset("smoke", **{**defaults, **fields})


def compiled(run):
    """variant -> (status, attempts)"""
    rows = check_run(run).table("compiled").to_pylist()
    return {row["case"].rpartition(".")[2]: (row["status"], row["attempts"]) for row in rows}


def test_what_is_killed_three_times_is_taken_up_and_what_failed_where_asked(tmp_path, monkeypatch):
    """One run through its life: killed again and again, resumed, and its failures tried again."""
    there = tmp_path / "kill"
    there.touch()
    monkeypatch.setenv(FILE, str(there))
    with pytest.raises(
        Stopped, match="1 cases have no result: their processes were killed from outside, 3 times over"
    ) as stopped:
        study(config(tmp_path, "naive", "killed", "failing", "folded"))
    run = stopped.value.run
    (part,) = [one for one in Store.open(run).parts() if one["unit"] != "cases"]
    found = {row["case"].rpartition(".")[2]: row for row in part["tables"]["compiled"]}
    assert (found["killed"]["status"], found["killed"]["attempts"]) == ("killed", 3)
    assert "SIGKILL" in found["killed"]["reason"]
    assert {name: row["status"] for name, row in found.items() if name != "killed"} == {
        "naive": "ok", "failing": "failed", "folded": "ok",
    }  # fmt: skip
    assert "killed from outside" in (run / "study.log").read_text()
    there.unlink()
    resume(run, NAMED)
    assert {name: status for name, (status, _) in compiled(run).items()} == dict.fromkeys(
        ("naive", "killed", "failing", "folded"), "ok"
    )


def test_failures_are_tried_again_where_asked_also_of_a_complete_run(tmp_path, monkeypatch):
    there = tmp_path / "fail"
    there.touch()
    monkeypatch.setenv(FILE, str(there))
    run = study(config(tmp_path, "naive", "failing"))
    assert compiled(run) == {"naive": ("ok", 1), "failing": ("failed", 1)}
    there.unlink()
    resume(run, NAMED)
    assert compiled(run)["failing"] == ("failed", 1)
    resume(run, Resumption(imports=(MODULE,), retry_failed=True, quiet=True))
    assert compiled(run) == {"naive": ("ok", 1), "failing": ("ok", 1)}
    assert check_run(run).damaged == ()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.ENOENT])
def test_a_part_that_cannot_be_written_stops_the_study(tmp_path, monkeypatch, number):
    """The disk is full, or the folder is gone: no row is written, and what is there is resumed."""
    write = Store.write_part

    def full(self, unit, *arguments, **more):
        if unit != "cases":
            raise OSError(number, os.strerror(number))
        write(self, unit, *arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write_part", full)
        with pytest.raises(Stopped, match=os.strerror(number)) as stopped:
            study(config(tmp_path, "naive", imports=()))
    run = stopped.value.run
    assert check_run(run).parts == ("cases",)
    resume(run, Resumption(quiet=True))
    assert compiled(run) == {"naive": ("ok", 1)}


def test_a_worker_that_cannot_write_stops_the_study_and_fails_no_case(tmp_path, monkeypatch):
    """In place of the folder of modules lies a file."""
    create = Store.create

    def without_room(*arguments):
        store = create(*arguments)
        (store.path / "hlo").rmdir()
        (store.path / "hlo").touch()
        return store

    monkeypatch.setattr(schedule.Store, "create", without_room)
    with pytest.raises(Stopped, match="a module in") as stopped:
        study(config(tmp_path, "naive", imports=()))
    assert [one["unit"] for one in Store.open(stopped.value.run).parts()] == ["cases"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("INTERNAL: ptxas: /tmp/x: No space left on device"),
        FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"),
        StorageError(errno.EIO, "a module"),
    ],
)
def test_a_full_or_missing_folder_is_no_outcome_of_a_case(error):
    with pytest.raises(StorageError):
        outcome(error)


def test_a_module_that_cannot_be_written_is_said_so(tmp_path):
    with pytest.raises(StorageError):
        write_hlo(tmp_path / "absent", b"module")


def test_deaths_from_outside_are_told_from_a_crash():
    assert explain_death(-signal.SIGKILL, "", None)[0] == "killed"
    assert explain_death(-signal.SIGTERM, "", None)[0] == "killed"
    assert explain_death(-signal.SIGKILL, "", None, out_of_memory=True)[0] == "out_of_memory"
    assert explain_death(-signal.SIGSEGV, "", None)[0] == "crashed"
    assert explain_death(-signal.SIGKILL, "", "too long")[0] == "timeout"


def test_a_worker_killed_while_it_starts_is_started_again_twice():
    progress = Progress(compile_units((Case(TINY, "naive"),), ("h200",))[0])
    killed = Death(None, "killed", "SIGKILL", from_outside=True)
    progress.lose_start(killed)
    progress.lose_start(killed)
    with pytest.raises(WorkerError, match="3 times over"):
        progress.lose_start(killed)
    with pytest.raises(WorkerError, match="did not start: no module"):
        Progress(progress.unit).lose_start(Death(None, "crashed", "no module"))


def test_another_environment_is_refused_or_recorded(tmp_path, monkeypatch):
    run = study(config(tmp_path, "naive", imports=()))
    (run / "launches.parquet").write_bytes(b"")
    real = schedule.environment

    def other():
        record = real()
        return {**record, "packages": {**record["packages"], "jax": "9.9.9"}}

    monkeypatch.setattr(schedule, "environment", other)
    with pytest.raises(UserError, match=r"jax was .* and is 9\.9\.9; go on there, or here with --mixed"):
        resume(run, Resumption(quiet=True))
    assert (run / "launches.parquet").read_bytes() == b"", "what is refused changes nothing"
    resume(run, Resumption(quiet=True, mixed=True))
    info = check_run(run).info
    (name,) = info["environments"].keys() - {real()["host"]}
    assert info["environments"][name]["packages"]["jax"] == "9.9.9"
    assert list(info["mixed"]) == [name]
    assert all(unit.startswith("compile-h200") for unit in info["mixed"][name])


def test_facts_that_a_record_does_not_tell_are_no_difference():
    assert differences({}, {"normbench": "1", "gpu_models": ["x"]}) == []
    assert differences({"variables": {}}, {"variables": {"XLA_FLAGS": "a"}}) == [
        "variable XLA_FLAGS was not set and is a"
    ]


def test_sigterm_leaves_no_worker_and_names_a_line_that_finishes_the_run_from_anywhere(tmp_path):
    """The line is run as it stands, from another folder, by a shell."""
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "my_variant.py").write_text(Path(ROOT / "tests/study/killed_variant.py").read_text())
    variables = {name: value for name, value in os.environ.items() if name != FILE}
    variables |= {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    words = [
        sys.executable, "-m", "normbench.cli.main", "study", "--preset", "smoke", "--operator", "batch_norm",
        "--variant", "naive", "failing", "--target", "h200", "--import", "my_variant", "--out", str(tmp_path / "runs"),
    ]  # fmt: skip
    child = subprocess.Popen(words, cwd=mine, env=variables, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    deadline_s = time.monotonic() + 120
    while not list((tmp_path / "runs").glob("[!.]*/parts/compile*")) and time.monotonic() < deadline_s:
        assert child.poll() is None, child.stderr.read()
        time.sleep(0.02)
    child.send_signal(signal.SIGTERM)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 130, errors
    (line,) = re.findall(r"interrupted; (?:resume|the report again) with: (.*)", errors)
    assert "--import my_variant" in line
    listed = subprocess.run(["ps", "-ww", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert f"--parent={child.pid}" not in listed
    clean = {name: value for name, value in variables.items() if name not in ("PYTHONPATH", "JAX_PLATFORMS")}
    done = subprocess.run(["bash", "-c", line], cwd="/", env=clean, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    run = Path(shlex.split(line)[shlex.split(line).index("--resume") + 1])
    assert check_run(run).complete
