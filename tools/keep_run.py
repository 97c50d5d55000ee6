"""Copies a finished run into results/runs under a name of its own, to be committed: the tables and run.json, without
the compiled modules and the report, which `normbench study` and `normbench report` make again.

    python tools/keep_run.py results/runs/<run id> standard
"""

import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from normbench.run_folder import read_run, seal_run
from normbench.schema import SCHEMA_VERSION, TABLES

_KEPT = Path(__file__).resolve().parents[1] / "results" / "runs"


def keep(run: Path, name: str) -> Path:
    """Writes results/runs/<name>; raises SystemExit where `run` is not complete."""
    found = read_run(run)
    info = dict(found.info)
    if not found.complete:
        raise SystemExit(f"run {str(run)!r} has status {info.get('status')!r}; only a complete run is kept")
    folder = _KEPT / name
    folder.mkdir(parents=True, exist_ok=True)
    info["run_id"] = info.get("run_id") or run.name
    for left_out in ("cases", "models", "folder"):  # the cases are in cases.parquet, the folder is of this machine
        info.get("config", {}).pop(left_out, None)
    info = _without_paths(info)
    for table in TABLES:
        pq.write_table(pq.read_table(run / f"{table}.parquet"), folder / f"{table}.parquet", compression="zstd",
                       compression_level=19, use_dictionary=True)  # fmt: skip
    for extra in ("gpu_target_config.pbtxt", "left_out.txt"):  # of a session on a GPU
        if (run / extra).is_file():
            shutil.copy(run / extra, folder / extra)
    seal_run(folder, {**info, "schema_version": SCHEMA_VERSION})
    return folder


def _without_paths(value: Any) -> Any:
    """Commands as they would be typed anywhere: the folders of this machine are left out."""
    if isinstance(value, dict):
        return {name: _without_paths(one) for name, one in value.items()}
    if isinstance(value, str) and " study " in value:
        return re.sub(r" --out \S+", "", re.sub(r"^\S+", "normbench", value))
    return value


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    print(keep(Path(sys.argv[1]), sys.argv[2]))
