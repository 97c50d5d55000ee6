"""A run of 20,000 measured cases fits into memory and a page: in full on request, its constants per case always."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from normbench.report import load_run
from normbench.report.page import packing
from normbench.report.page.report import render
from normbench.schema import TABLES
from normbench.study.schedule import tables
from tests.report.large_runs import unfinished_run

CASES = 20_000
MOST_MEMORY_BYTES, MOST_REPORT_S, MOST_REPORT_BYTES = 1.5e9, 60.0, 15e6
FEW, MANY = 80, 240


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Finished runs by their number of cases."""
    found = {}
    for cases in (FEW, (FEW + MANY) // 2, MANY):
        store = unfinished_run(tmp_path_factory.mktemp("runs"), cases)
        store.finish({})
        found[cases] = store.path
    return found


def test_the_tables_hold_every_row_of_the_parts_of_which_few_are_kept_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "ROWS_AT_ONCE", 500)
    store = unfinished_run(tmp_path, FEW)
    wanted = {name: [row for part in store.parts() for row in part["tables"].get(name, [])] for name in TABLES}
    kept = []
    write = tables.TableWriters._write
    monkeypatch.setattr(
        tables.TableWriters, "_write", lambda self, table: kept.append(len(self._rows[table])) or write(self, table)
    )
    store.finish({})
    for name, rows in wanted.items():
        file = pq.ParquetFile(store.path / f"{name}.parquet")
        found = file.read().to_pylist()
        assert [{key: value for key, value in row.items() if value is not None} for row in found] == [
            {key: value for key, value in row.items() if value is not None} for row in rows
        ]
    assert max(kept) < 1000
    assert len(wanted["timings"]) > 5000


def test_where_the_tables_cannot_be_written_none_is_left_half_written(tmp_path, monkeypatch):
    store = unfinished_run(tmp_path, 8)

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tables.TableWriters, "write_rest", fail)
    with pytest.raises(OSError, match="No space"):
        store.finish({})
    assert not list(store.path.glob("*.parquet*"))
    assert not list(store.path.glob(".tmp-*"))
    monkeypatch.undo()
    store.finish({})
    assert len(load_run(store.path).cases) == 8


def marginal(values):
    """What each case more costs, from the smallest run to the middle one, and from there to the largest."""
    first, second, third = values[FEW], values[(FEW + MANY) // 2], values[MANY]
    step = (MANY - FEW) / 2
    return (second - first) / step, (third - second) / step


def test_a_case_takes_so_much_of_the_report_and_no_more(runs, monkeypatch):
    pages = {}
    for cases, path in runs.items():  # of a large run the same share of the programs is drawn
        monkeypatch.setattr(packing, "MOST_PICTURES", cases * 2 * 8_000 // (2 * CASES))
        pages[cases] = len(render(load_run(path)))
    assert max(marginal(pages)) * CASES < MOST_REPORT_BYTES


def test_a_case_takes_so_much_memory_and_no_more(runs):
    held = {cases: sum(t.memory_usage().sum() for t in load_run(path).tables.values()) for cases, path in runs.items()}
    assert max(marginal(held)) * CASES < 0.2 * MOST_MEMORY_BYTES  # 0.36 where every sample has its words anew


def test_the_work_of_a_report_is_in_proportion_to_the_cases(runs):
    def calls(path):
        count = 0

        def seen(frame, event, argument):
            nonlocal count
            count += event == "call"

        run = load_run(path)
        sys.setprofile(seen)
        try:
            render(run)
        finally:
            sys.setprofile(None)
        return count

    render(load_run(runs[FEW]))  # what is imported and computed once
    first, second = marginal({cases: calls(path) for cases, path in runs.items()})
    assert second < 1.25 * first


def test_of_very_many_programs_those_of_several_launches_are_drawn(runs, monkeypatch):
    run = load_run(runs[FEW])
    everything = packing.fusion_pictures(run)
    assert len(everything) == FEW
    monkeypatch.setattr(packing, "MOST_PICTURES", 30)
    drawn = packing.fusion_pictures(run)
    assert sum(map(len, drawn.values())) == 30
    assert {case.rpartition(".")[2] for case in drawn} == {"naive_promoting"}, "the one that is two launches"


_LIMITED = """
import resource, sys, time
from pathlib import Path
began_s = time.process_time()
from normbench.report import load_run, terminal_answer, write_report
from normbench.study.schedule.store import Store
from normbench.study.unite import unite
action, *paths = sys.argv[1:]
paths = [Path(path) for path in paths]
if action == "finish":
    Store.open(paths[0]).finish({})
elif action == "report":
    run = load_run(paths[0])
    terminal_answer(run, 120)
    write_report(run)
else:
    unite(paths[:-1], paths[-1])
unit = 1 if sys.platform == "darwin" else 1024
print(time.process_time() - began_s, unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def limited(action, *paths):
    """CPU seconds and peak memory of an action in a process of its own."""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", _LIMITED, action, *map(str, paths)], cwd=root, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(root)}, check=True,
    )  # fmt: skip
    seconds, size_bytes = map(float, done.stdout.split())
    print(f"{action}: {seconds:.1f} s of CPU, {size_bytes / 1e9:.2f} GB")
    return seconds, size_bytes


@pytest.mark.torture
def test_twenty_thousand_cases_are_finished_reported_and_merged_within_their_limits(tmp_path):
    halves = [unfinished_run(tmp_path, CASES // 2, skip).path for skip in (0, CASES // 2)]
    for half in halves:
        assert limited("finish", half)[1] < MOST_MEMORY_BYTES
    whole = tmp_path / "whole"
    assert limited("merge", *halves, whole)[1] < MOST_MEMORY_BYTES
    assert pq.ParquetFile(whole / "cases.parquet").metadata.num_rows == CASES
    assert pd.read_parquet(whole / "timings.parquet", columns=["case"])["case"].nunique() == CASES
    seconds, size_bytes = limited("report", whole)
    assert size_bytes < MOST_MEMORY_BYTES
    assert seconds < MOST_REPORT_S
    assert (whole / "report.html").stat().st_size < MOST_REPORT_BYTES
