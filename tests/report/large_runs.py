"""A made-up run of any number of measured cases, part by part as a study writes them; its numbers are invented."""

from collections.abc import Iterable, Iterator
from itertools import islice, product
from pathlib import Path

from normbench.study.schedule.store import Store
from tests.report.synthetic_runs import VARIANTS, Tables, accuracy_row, case_row, compiled_rows, timing_rows

HOST = {"host": "made-up"}
_VARIANTS = tuple(name for name in VARIANTS["batch_norm"] if name != "pallas_triton")


def problems() -> Iterator[list[dict]]:
    """The cases of one problem after the other."""
    sizes = product((1, 2, 4, 8, 16, 32), range(8, 520, 8), range(7, 230, 7), ("float32", "bfloat16"))
    for batch, channels, side, dtype in sizes:
        yield [case_row("batch_norm", name, f"{batch}x{channels}x{side}x{side}", dtype) for name in _VARIANTS]


def parts(groups: Iterable[list[dict]], processes: int = 3) -> Iterator[tuple[str, Tables]]:
    """The parts of a run of these problems: a unit of compilation for each, and one of measurement a process."""
    for group in groups:
        name = group[0]["problem"]
        compiled = [compiled_rows(case, "h200") for case in group]
        launches = [{**row, **HOST} for _, rows in compiled for row in rows]
        yield f"compile-h200-{name}", {"compiled": [{**row, **HOST} for row, _ in compiled], "launches": launches}
        timed = [{**row, **HOST} for case in group for row in timing_rows(case)]
        for process in range(processes):
            tables: Tables = {"timings": [row for row in timed if row["process"] == process]}
            if process == 0:
                tables["accuracy"] = [{**accuracy_row(case), **HOST} for case in group]
                here = [compiled_rows(case, "cpu") for case in group]
                tables["compiled"] = [{**row, **HOST} for row, _ in here]
                tables["launches"] = [{**row, **HOST} for _, rows in here for row in rows]
            yield f"measure-cpu-p{process}-{name}", tables


def unfinished_run(out: Path, cases: int, skip: int = 0) -> Store:
    """A run of so many cases, after the first `skip`, that only has to be finished."""
    groups = list(islice(problems(), skip // len(_VARIANTS), (skip + cases) // len(_VARIANTS)))
    info = {"preset": "made-up", "targets": ["cpu", "h200"], "environment": HOST, "environments": {"made-up": HOST}}
    store = Store.create(out, info, {"cases": [case for group in groups for case in group]})
    for name, tables in parts(groups):
        cost = {"kind": name.partition("-")[0], "target": name.split("-")[1], "cases": len(_VARIANTS), "worker_s": 1.0}
        store.write_part(name, tables, cost)
    return store
