"""Reading a run: what is there is read, typed; what is damaged is named."""

import json

import pandas as pd
import pytest

from normbench.errors import UserError
from normbench.report import load_run
from normbench.schema import SCHEMA_VERSION, TABLES
from tests.report.synthetic_runs import (
    accuracy_row,
    case_row,
    full_tables,
    seal_again,
    timing_rows,
    write_part,
    write_run,
)


def test_complete_run_has_every_row_and_column(full_run):
    tables = full_tables()
    run = load_run(full_run)
    for name, rows in tables.items():
        assert list(run.tables[name].columns) == list(TABLES[name])
        assert len(run.tables[name]) == len(rows)
    assert run.complete
    assert run.targets == ("cpu", "h200")


def test_empty_tables_are_typed_like_full_ones(full_run, make_run):
    empty, full = load_run(make_run({})), load_run(full_run)
    for name in TABLES:
        assert len(empty.tables[name]) == 0
        assert empty.tables[name].dtypes.map(str).to_dict() == full.tables[name].dtypes.map(str).to_dict()


def test_what_was_not_measured_is_null(full_run):
    compiled = load_run(full_run).compiled
    unsupported = compiled[compiled["status"] == "unsupported"]
    assert len(unsupported) == 4
    assert unsupported[["launches", "compile_s", "hints"]].isna().all(axis=None)


def test_unfinished_run_is_the_sum_of_its_parts(make_run):
    tables = full_tables(shapes=("8x16x32x32",), dtypes=("float32",))
    path = make_run(tables, status="running")
    extra = case_row("batch_norm", "naive", "4x4x4x4")
    write_part(path, "later", {"cases": [extra], "timings": timing_rows(extra), "accuracy": [accuracy_row(extra)]})
    (path / "parts" / ".tmp-17-next.json.zst").write_bytes(b"half a part")
    (path / "parts" / "next.json.zst.tmp").write_bytes(b"half a part")
    run = load_run(path)
    assert not run.complete
    assert len(run.cases) == len(tables["cases"]) + 1
    assert len(run.timings) == len(tables["timings"]) + len(timing_rows(extra))
    assert run.timings["seconds"].dtype == "float64"


def test_unfinished_run_without_parts_is_empty(tmp_path):
    path = write_run(tmp_path / "run", {}, status="running")
    for file in (path / "parts").iterdir():
        file.unlink()
    assert all(table.empty for table in load_run(path).tables.values())


def test_column_that_an_older_writer_did_not_know_is_null(make_run):
    path = make_run(full_tables())
    whole = pd.read_parquet(path / "accuracy.parquet")
    whole.drop(columns="max_ulp").to_parquet(path / "accuracy.parquet")
    assert load_run(seal_again(path)).accuracy["max_ulp"].isna().all()


def _damage_json(path):
    (path / "run.json").write_text("{ not json")


def _not_an_object(path):
    (path / "run.json").write_text("[]")


def _no_json(path):
    (path / "run.json").unlink()


def _no_version(path):
    (path / "run.json").write_text(json.dumps({"status": "complete"}))


def _no_table(path):
    (path / "timings.parquet").unlink()


def _damaged_table(path):
    (path / "launches.parquet").write_bytes(b"PAR1 and then nothing of the kind")


def _wrong_type(path):
    table = pd.read_parquet(path / "compiled.parquet")
    table["launches"] = "many"
    table.to_parquet(path / "compiled.parquet")


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (_damage_json, "run.json"),
        (_not_an_object, "run.json"),
        (_no_json, "run.json"),
        (_no_version, "schema_version"),
        (_no_table, "timings.parquet"),
        (_damaged_table, "launches.parquet"),
        (_wrong_type, "compiled.parquet"),
    ],
)
def test_damage_is_one_line_that_names_the_file(make_run, damage, named):
    path = make_run(full_tables())
    damage(path)
    with pytest.raises(UserError, match=named) as raised:
        load_run(path)
    assert "\n" not in str(raised.value)


def test_damaged_part_is_named(make_run):
    path = make_run({}, status="running")
    (path / "parts" / "compile-3.json.zst").write_bytes(b"no zstd")
    with pytest.raises(UserError, match=r"compile-3\.json\.zst"):
        load_run(path)


def test_folder_that_is_no_run(tmp_path):
    with pytest.raises(UserError, match=r"run\.json"):
        load_run(tmp_path)
    with pytest.raises(UserError, match="not a folder"):
        load_run(tmp_path / "absent")


def test_newer_schema_says_which_normbench_is_needed(make_run):
    path = make_run({}, schema_version=SCHEMA_VERSION + 1, environment={"normbench": "7.8.9"})
    with pytest.raises(UserError, match=r"normbench 7\.8\.9"):
        load_run(path)
