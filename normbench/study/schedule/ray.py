"""Compiles on a Ray cluster: each task carries out a batch of units in a worker process of its own."""

import importlib.util
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from normbench.errors import UserError
from normbench.run_folder.files import write_atomically
from normbench.study.schedule.compiling import Progress, WorkerPool
from normbench.study.schedule.units import Unit
from normbench.study.schedule.worker_process import Settings

BATCH = 20
"""Units per task, so that the start of a worker process, a few seconds, is a small part of it."""


def require_ray() -> Any:
    """Raises UserError where Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise UserError(
            "executor 'ray' needs Ray, which is not installed; install it with: pip install 'normbench[ray]'"
        )
    import ray

    return ray


def compile_on_ray(
    units: Sequence[Unit],
    settings: Callable[[Unit], Settings],
    case_timeout_s: float,
    finished: Callable[[Progress], None],
    run: Path,
) -> None:
    """Carries out compile units as Ray tasks; rows and modules come back to this process, which writes them."""
    ray = require_ray()
    ray.init(ignore_reinit_error=True, log_to_driver=False)
    task = ray.remote(num_cpus=1)(_carry_out)
    batches = [units[start : start + BATCH] for start in range(0, len(units), BATCH)]
    waiting = [task.remote(batch, [settings(unit) for unit in batch], case_timeout_s) for batch in batches]
    while waiting:
        (ready, *_), waiting = ray.wait(waiting)
        found, modules = ray.get(ready)
        for name, data in modules.items():
            (run / "hlo" / name).parent.mkdir(exist_ok=True)
            write_atomically(run / "hlo" / name, data)
        for progress in found:
            finished(progress)


def _carry_out(
    units: Sequence[Unit], settings: Sequence[Settings], case_timeout_s: float
) -> tuple[list[Progress], dict[str, bytes]]:
    """In a Ray task: what was found, and the modules by file name; nothing of it needs a shared file system."""
    found: list[Progress] = []
    with tempfile.TemporaryDirectory(prefix="normbench-") as folder:
        (Path(folder) / "hlo").mkdir()
        here = {unit.name: replace(one, run=folder) for unit, one in zip(units, settings, strict=True)}
        WorkerPool(units, lambda unit: here[unit.name], 1, case_timeout_s, found.append).run()
        modules = Path(folder) / "hlo"
        return found, {str(path.relative_to(modules)): path.read_bytes() for path in modules.rglob("*.pb.zst")}
