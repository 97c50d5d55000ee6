"""A run on disk survives being killed, and bad folders are refused with one line and left alone."""

import hashlib
import json
import multiprocessing

import pyarrow.parquet as pq
import pytest
import zstandard

from normbench.errors import UserError
from normbench.schema import SCHEMA_VERSION, TABLES
from normbench.study.schedule.store import Store, write_atomically, write_hlo

INFO = {"preset": "smoke", "command": "", "targets": ["cpu"], "environment": {}, "config": {}}
COMPILED = {"case": "a", "target": "h200", "launches": 1, "traffic_ratio": 1.0, "status": "ok"}
TIMING = {"case": "a", "device": "cpu", "process": 0, "sample": 0, "seconds": 1e-3, "outlier": False, "status": "ok"}


@pytest.fixture
def store(tmp_path):
    return Store.create(tmp_path / "runs", INFO, {"cases": [{"case": "a", "baseline": True}]})


def snapshot(path):
    return {str(file): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_a_new_run_is_running_and_holds_its_cases(store):
    info = json.loads((store.path / "run.json").read_text())
    assert info["schema_version"] == SCHEMA_VERSION
    assert info["status"] == "running"
    assert info["run_id"] == store.path.name
    assert store.read_part("cases")["tables"]["cases"] == [{"case": "a", "baseline": True}]
    assert not list(store.path.parent.glob(".tmp-*"))


def test_two_runs_in_the_same_second_get_two_folders(tmp_path):
    paths = {Store.create(tmp_path, INFO, {}).path for _ in range(3)}
    assert len(paths) == 3


def test_a_part_is_read_back_and_marks_its_unit_as_done(store):
    assert "unit-1" not in store.done()
    store.write_part("unit-1", {"compiled": [COMPILED]}, {"worker_s": 2.0})
    assert "unit-1" in store.done()
    assert Store.open(store.path).read_part("unit-1") == {
        "unit": "unit-1",
        "tables": {"compiled": [COMPILED]},
        "cost": {"worker_s": 2.0},
    }


def test_numbers_that_are_not_finite_are_absent(store):
    store.write_part("u", {"accuracy": [{"case": "a", "max_abs": float("nan"), "max_rel": float("inf")}]})
    assert store.read_part("u")["tables"]["accuracy"] == [{"case": "a", "max_abs": None, "max_rel": None}]


def test_columns_and_statuses_are_those_of_the_schema(store):
    with pytest.raises(ValueError, match="no column speed"):
        store.write_part("u", {"timings": [{"speed": 1.0}]})
    with pytest.raises(ValueError, match="unknown status"):
        store.write_part("u", {"timings": [{"status": "fine"}]})


def test_finishing_writes_every_table_with_its_types(store):
    store.write_part("u1", {"compiled": [COMPILED]})
    store.write_part("u2", {"timings": [TIMING, {**TIMING, "seconds": None, "status": "failed", "reason": "no"}]})
    store.finish({"compile": {}})
    for name, columns in TABLES.items():
        table = pq.read_table(store.path / f"{name}.parquet")
        assert {field.name: str(field.type).replace("double", "float64") for field in table.schema} == columns
    timings = pq.read_table(store.path / "timings.parquet").to_pylist()
    assert [row["seconds"] for row in timings] == [1e-3, None]
    assert [row["page_faults"] for row in timings] == [None, None]
    assert Store.open(store.path).complete
    assert not (store.path / "parts").exists()


def test_what_a_killed_process_left_half_written_is_ignored_and_removed(store, monkeypatch):
    store.write_part("u1", {"compiled": [COMPILED]})

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        store.write_part("u2", {"compiled": [COMPILED]})
    (half,) = (store.path / "parts").glob(".tmp-*")
    assert store.done() == {"cases", "u1"}
    with store.lock():
        assert not half.exists()
    assert store.done() == {"cases", "u1"}


def test_a_module_is_stored_once_per_content(store):
    names = [write_hlo(store.path, data) for data in (b"one", b"two", b"one")]
    assert names[0] == names[2] != names[1]
    files = [file for file in (store.path / "hlo").rglob("*") if file.is_file()]
    assert {zstandard.decompress(file.read_bytes()) for file in files} == {b"one", b"two"}
    for file in files:
        name = hashlib.sha256(file.read_bytes()).hexdigest()
        assert (file.parent.name, file.name) == (name[:2], f"{name}.pb.zst")


def test_atomic_writing_replaces_the_whole_file(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, b"old and long")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def _hold(path, locked, release):
    with Store.open(path).lock():
        locked.set()
        release.wait(30)


def test_a_second_process_is_refused(store):
    context = multiprocessing.get_context("spawn")
    locked, release = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(store.path, locked, release))
    holder.start()
    try:
        assert locked.wait(60)
        with pytest.raises(UserError, match="another process"), store.lock():
            pass
        holder.kill()
        holder.join()
        with store.lock():
            pass  # a killed process holds no lock
    finally:
        holder.kill()
        holder.join()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "has no run.json; give the folder of a run"),
        ("{", "cannot be read as JSON"),
        ("[]", "an object is expected"),
        ("{}", "schema_version None"),
        ('{"schema_version": 1, "status": "half"}', "status 'half'; allowed: running, complete"),
        (json.dumps({"schema_version": SCHEMA_VERSION + 1, "status": "complete"}), "a newer normbench"),
        ('{"schema_version": 0, "status": "complete"}', "a whole number from 1 is expected"),
    ],
)
def test_a_folder_that_cannot_be_read_is_refused_and_left_alone(tmp_path, content, message):
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    before = snapshot(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        Store.open(tmp_path)
    assert "\n" not in str(caught.value)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("content", [b"", b"garbage", zstandard.compress(b"{}"), zstandard.compress(b"[")])
def test_a_part_that_cannot_be_read_is_named(store, content):
    (store.path / "parts" / "u1.json.zst").write_bytes(content)
    with pytest.raises(UserError, match=r"damaged: parts/u1\.json\.zst"):
        list(store.parts())


def test_an_output_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot be written"):
        Store.create(tmp_path / "file" / "runs", INFO, {})
    with pytest.raises(UserError, match="cannot be written"):
        Store.create(tmp_path / "file", INFO, {})
    assert (tmp_path / "file").read_text() == "in the way"
