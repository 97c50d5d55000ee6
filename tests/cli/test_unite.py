"""`normbench merge A B --into C`: runs of several hosts, or shards of one study, become one run."""

import hashlib
import json
import shutil

import pandas as pd
import pytest

from normbench.cli import main as cli
from normbench.report import load_run, write_report
from normbench.run_folder import check_run
from normbench.schema import TABLES
from normbench.study import unite as uniting
from normbench.study.schedule.store import module_path
from tests.report.synthetic_runs import full_tables, seal_again, write_run

SHAPES = ("8x16x32x32", "1x64x56x56", "4x8x28x28")


def environment(host, **packages):
    return {"host": host, "normbench": "1", "packages": {"jax": "0.10.2", "jaxlib": "0.10.2", **packages}}


def write(folder, shape, host, status="complete", packages=None, **info):
    """A made-up run of one shape; its rows do not tell the host, as those of an older run."""
    found = environment(host, **(packages or {}))
    run = write_run(
        folder, full_tables(shapes=(shape,), dtypes=("float32",)), status,
        environment=found, environments={host: found}, created=f"2026-01-0{len(host)}T00:00:00", **info,
    )  # fmt: skip
    for module in (b"same", host.encode()):
        place = module_path(run, hashlib.sha256(module).hexdigest())
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(module)
    return run


@pytest.fixture
def shards(tmp_path):
    """Three shards of one study, of three hosts."""
    return [
        write(tmp_path / host, shape, host, config={"cases": [shape], "shard": f"{number}/3"})
        for number, (host, shape) in enumerate(zip(("a", "bb", "ccc"), SHAPES, strict=True), 1)
    ]


def merge(capsys, *arguments):
    status = cli.main(["merge", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def rows(run, host=True):
    """The rows of every table, in no order."""
    found = {}
    for name in TABLES:
        table = pd.read_parquet(run / f"{name}.parquet").astype(object)
        table = table if host else table.drop(columns="host", errors="ignore")
        found[name] = sorted(map(repr, table.where(table.notna(), None).itertuples(index=False, name=None)))
    return found


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_united_run_has_every_row_and_module_and_tells_each_host(shards, tmp_path, capsys):
    into = tmp_path / "runs" / "all"
    status, out, _ = merge(capsys, *shards, "--into", into)
    assert (status, out) == (0, f"{into}\n")
    each = [rows(run, host=False) for run in shards]
    assert rows(into, host=False) == {name: sorted(row for one in each for row in one[name]) for name in TABLES}
    run = load_run(into)
    assert run.complete
    assert run.timings.groupby("host")["case"].nunique().to_dict() == {"a": 8, "bb": 8, "ccc": 8}
    assert set(run.info["environments"]) == {"a", "bb", "ccc"}
    assert run.info["config"]["cases"] == list(SHAPES)
    assert {path.read_bytes() for path in (into / "hlo").rglob("*.zst")} == {b"same", b"a", b"bb", b"ccc"}
    assert write_report(run).stat().st_size > 0


def test_uniting_again_in_any_order_or_step_by_step_changes_nothing(shards, tmp_path, capsys):
    at_once, by_steps = tmp_path / "at-once", tmp_path / "by-steps"
    merge(capsys, *shards, "--into", at_once)
    before = files(at_once)
    for again in (shards, shards[::-1], shards[:1], [at_once, shards[1]]):
        status, out, _ = merge(capsys, *again, "--into", at_once)
        assert status == 0
        assert "holds them already" in out
        assert files(at_once) == before
    _, out, _ = merge(capsys, *shards[:2], "--into", by_steps)
    assert "(without the shards 3/3)" in out
    merge(capsys, shards[2], "--into", by_steps)
    assert rows(by_steps) == rows(at_once)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "at-once", "bb", "by-steps", "ccc"]


def test_a_run_that_was_only_renamed_or_copied_is_not_added_twice(shards, tmp_path, capsys):
    shutil.copytree(shards[0], tmp_path / "copy")
    merge(capsys, *shards[:2], "--into", tmp_path / "all")
    assert "holds them already" in merge(capsys, tmp_path / "copy", "--into", tmp_path / "all")[1]


def refused(capsys, folders, into, *words):
    there = files(into) if into.exists() else None
    status, out, err = merge(capsys, *folders, "--into", into)
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert all(word in err for word in words), err
    assert (files(into) if into.exists() else None) == there
    assert not list(into.parent.glob(".*"))


def test_two_measurements_of_one_case_are_not_mixed(shards, tmp_path, capsys):
    other = write(tmp_path / "again", SHAPES[0], "dddd", extra=1)
    table = pd.read_parquet(other / "timings.parquet")
    table["seconds"] *= 2
    table.to_parquet(other / "timings.parquet")
    seal_again(other)
    refused(capsys, [shards[0], other], tmp_path / "all", "both hold batch_norm", "normbench compare")


def test_runs_of_different_releases_are_not_mixed(shards, tmp_path, capsys):
    other = write(tmp_path / "other", SHAPES[1], "dddd", packages={"jax": "0.11.2"})
    refused(capsys, [shards[0], other], tmp_path / "all", "jax is 0.10.2 in one and 0.11.2 in the other")


def test_an_unfinished_run_is_to_be_finished_first(shards, tmp_path, capsys):
    other = write(tmp_path / "other", SHAPES[1], "dddd", status="running")
    refused(capsys, [shards[0], other], tmp_path / "all", "not finished", "--resume")


def test_what_is_there_is_not_overwritten(shards, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    refused(capsys, shards, tmp_path / "mine", "is no run")
    refused(capsys, shards[1:], shards[0], "was measured")
    assert merge(capsys, *shards)[0] == 2


@pytest.mark.parametrize("at", ["rename", "seal_run"])
def test_a_union_that_is_cut_short_leaves_what_was_there(shards, tmp_path, capsys, monkeypatch, at):
    into = tmp_path / "all"
    merge(capsys, *shards[:2], "--into", into)
    before = files(into)

    def fail(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        if at == "rename":
            real = type(into).rename
            patch.setattr(
                type(into), "rename", lambda path, to: fail() if path.name.startswith(".tmp-") else real(path, to)
            )
        else:
            patch.setattr(uniting, at, fail)
        status, _, err = merge(capsys, shards[2], "--into", into)
    assert status == 2
    assert "No space left" in err
    assert files(into) == before
    assert merge(capsys, shards[2], "--into", into)[0] == 0
    assert not list(tmp_path.glob(".*"))


def test_a_kill_between_two_renames_is_mended_the_next_time(shards, tmp_path, capsys):
    into = tmp_path / "all"
    merge(capsys, *shards[:2], "--into", into)
    into.rename(tmp_path / ".all.before")
    assert "holds them already" in merge(capsys, *shards[:2], "--into", into)[1]


def test_links_in_a_run_are_refused(shards, tmp_path, capsys):
    (tmp_path / "secret").write_text("secret")
    (shards[0] / "hlo" / "more").symlink_to(tmp_path)
    refused(capsys, shards, tmp_path / "all", "more")


def test_a_damaged_run_is_refused_and_a_united_one_is_sealed(shards, tmp_path, capsys):
    merge(capsys, *shards[:2], "--into", tmp_path / "all")
    assert not check_run(tmp_path / "all").damaged
    written = bytearray((shards[2] / "timings.parquet").read_bytes())
    written[100] ^= 1
    (shards[2] / "timings.parquet").write_bytes(written)
    refused(capsys, shards, tmp_path / "all", "timings.parquet")


def test_a_time_that_no_member_tells_is_not_told(shards, tmp_path, capsys):
    merge(capsys, *shards, "--into", tmp_path / "all")
    info = load_run(tmp_path / "all").info
    assert info["created"] == "2026-01-01T00:00:00"
    assert "finished" not in info


def test_costs_add_up(shards, tmp_path, capsys):
    for run, seconds in zip(shards, (1.0, 2.0, 4.0), strict=True):
        cost = {"workers": 1, "compile": {"h200": {"cases": 3, "worker_s": seconds, "seconds_per_case": 0.3}}}
        seal_again(run, cost=cost)
    merge(capsys, *shards, "--into", tmp_path / "all")
    info = json.loads((tmp_path / "all" / "run.json").read_text())
    assert info["cost"]["compile"] == {"h200": {"cases": 9, "worker_s": 7.0}}
    assert info["cost"]["workers"] == 3
