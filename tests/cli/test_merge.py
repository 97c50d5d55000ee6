"""`normbench merge`: a run's folder that was copied from another machine becomes one of the results."""

import hashlib

import pytest

from normbench.cli import main as cli
from normbench.report import load_run
from tests.report.synthetic_runs import full_tables, seal_again, write_run

TABLES = full_tables(shapes=("8x16x32x32",), dtypes=("float32",))


@pytest.fixture
def copied(tmp_path):
    """A made-up run as it was carried here, with what a GPU's run holds besides."""
    run = write_run(tmp_path / "usb-stick" / "20260101T000000-standard", TABLES)
    (run / "gpu_target_config.pbtxt").write_text("gpu_device_info {}")
    name = hashlib.sha256(b"0").hexdigest()
    (run / "hlo" / name[:2]).mkdir(parents=True)
    (run / "hlo" / name[:2] / f"{name}.pb.zst").write_bytes(b"0")
    (run / ".lock").touch()
    return run


def merge(capsys, *arguments):
    status = cli.main(["merge", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_a_merged_run_is_whole_and_readable(copied, tmp_path, capsys):
    into = tmp_path / "results" / "runs"
    status, out, _ = merge(capsys, copied, "--into", into)
    place = into / copied.name
    assert (status, out) == (0, f"{place}\n")
    assert {str(path.relative_to(place)) for path in place.rglob("*")} == {
        str(path.relative_to(copied)) for path in copied.rglob("*") if path.name != ".lock"
    }
    before, after = load_run(copied), load_run(place)
    assert all(before.tables[name].equals(after.tables[name]) for name in before.tables)
    assert copied.exists(), "it is copied, not moved"
    assert [path.name for path in into.iterdir()] == [copied.name]


def test_merging_twice_changes_nothing_and_says_so(copied, tmp_path, capsys):
    merge(capsys, copied, "--into", tmp_path / "runs")
    (tmp_path / "runs" / copied.name / "report.html").write_text("written anew")
    status, out, _ = merge(capsys, copied, "--into", tmp_path / "runs")
    assert status == 0
    assert "is there already" in out
    assert (tmp_path / "runs" / copied.name / "report.html").read_text() == "written anew"


def test_another_run_of_the_same_name_is_never_overwritten(copied, tmp_path, capsys):
    merge(capsys, copied, "--into", tmp_path / "runs")
    before = (tmp_path / "runs" / copied.name / "run.json").read_bytes()
    other = write_run(tmp_path / "other" / copied.name, TABLES, preset="another")
    status, out, err = merge(capsys, other, "--into", tmp_path / "runs")
    assert (status, out) == (2, "")
    assert "another run is at" in err
    assert (tmp_path / "runs" / copied.name / "run.json").read_bytes() == before


def test_a_damaged_or_foreign_folder_is_refused_and_leaves_nothing(copied, tmp_path, capsys):
    (copied / "timings.parquet").write_bytes(b"half of it")
    for folder in (copied, tmp_path):
        status, _, err = merge(capsys, folder, "--into", tmp_path / "runs")
        assert status == 2
        assert len(err.splitlines()) == 1
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.parametrize("name", ["../outside", ".hidden", "a/b", ".."])
def test_a_run_cannot_choose_a_place_outside(copied, tmp_path, capsys, name):
    seal_again(copied, run_id=name)
    status, _, err = merge(capsys, copied, "--into", tmp_path / "runs")
    assert status == 2
    assert "run_id" in err
    assert list((tmp_path / "runs").iterdir()) == []


def test_an_unfinished_run_is_taken_and_named_so(tmp_path, capsys):
    run = write_run(tmp_path / "cut-short", TABLES, status="running")
    status, out, _ = merge(capsys, run, "--into", tmp_path / "runs")
    assert status == 0
    assert "not finished" in out
    assert not load_run(tmp_path / "runs" / "cut-short").complete
