"""Small runs, complete and not, as a study leaves them: sealed, with a config that can be resumed and a module."""

import hashlib
from pathlib import Path

import zstandard

from normbench.cases.case import Case
from normbench.kernels import Problem
from normbench.study.machine.environment import environment
from normbench.study.schedule.study import StudyConfig
from tests.report.synthetic_runs import accuracy_row, compiled_rows, timing_rows, write_run

CASE = Case(Problem("batch_norm", (2, 4, 3, 5)), "naive", "made up")
MODULE = zstandard.compress(b"a compiled module")
MODULE_NAME = hashlib.sha256(MODULE).hexdigest()
MODULE_FILE = f"hlo/{MODULE_NAME[:2]}/{MODULE_NAME}.pb.zst"


def write_small_run(path: Path, status: str = "complete", imports: tuple[str, ...] = (), folder: str = "") -> Path:
    """One case, compiled for one GPU and measured on the CPU."""
    config = StudyConfig.for_preset("smoke", cases=(CASE,), targets=("cpu", "h200"), out=path.parent, imports=imports)
    row = CASE.row()
    compiled, launches = compiled_rows(row, "h200")
    tables = {
        "cases": [row],
        "compiled": [{**compiled, "module_sha256": MODULE_NAME}],
        "launches": launches,
        "timings": timing_rows(row)[:8],
        "accuracy": [accuracy_row(row)],
    }
    fields = {**config.to_json(), "folder": folder or str(path.parent)}
    file = path / MODULE_FILE
    file.parent.mkdir(parents=True)
    file.write_bytes(MODULE)
    (path / "study.log").write_text("begun\n")
    return write_run(path, tables, status, targets=["cpu", "h200"], environment=environment(), config=fields, cost={})
