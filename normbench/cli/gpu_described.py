"""Compiles what a GPU ran once more without it, for its own description: `python -m normbench.cli.gpu_described RUN`.

RUN is the folder of a run on a GPU that holds `gpu_target_config.pbtxt`. Each of its cases is compiled for that
description and for the packaged target of the same device; the run then has the tables "described",
"described_launches" and "target_differences". To be run with the JAX of the run, by which programs differ, too.
"""

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from normbench.errors import UserError
from normbench.fusion import compile_environment
from normbench.fusion.targets import Target, packaged, read_target
from normbench.predict.program import predicted_rows
from normbench.report import Run, load_run
from normbench.report.model.device_target import (
    DEVICE,
    OWN,
    calls,
    device_structures,
    device_target_lines,
    difference_rows,
)
from normbench.schema import TABLES
from normbench.study.machine.gpu_target import NAME
from normbench.study.schedule.store import Store, Tables, write_parquet
from normbench.study.user_modules import import_modules

Structures = dict[str, dict[str, Any]]
_COUNTS = ("kinds", "rewrites", "refused", "calls")
PART = "described"
"""Of a run that is not finished."""


def describe_run(folder: Path, limit_s: float, workers: int) -> Run:
    """Compiles the cases, writes the tables into the run, and returns it as it is then.

    Raises:
      UserError: where it is no run of a GPU with a description, or without a compiler for GPUs that are not there.
    """
    run = load_run(folder)
    target = read_target(folder / NAME)
    import_modules((run.info.get("config") or {}).get("imports") or ())
    device = device_structures(run)
    if not device:
        raise UserError(f"run {str(folder)!r} has no program that was compiled on a GPU")
    sides = compile_sides(device, target, limit_s, workers)
    write(folder, tables(sides, device))
    return load_run(folder)


def compile_sides(slugs: Iterable[str], target: Target, limit_s: float, workers: int) -> dict[str, Structures]:
    """By configuration, the packaged one first, what it makes of each case, until the time is over.

    The cases come in an order that mixes operators, so that what was left out is no kind of its own.
    """
    from normbench.goldens.make import Pool, lower_case
    from normbench.goldens.program import golden_program

    end = time.monotonic() + limit_s
    known = packaged(target)
    targets = {**({known.name: known} if known else {}), OWN: target}
    pools = {name: Pool(max(1, workers // len(targets)), one, described_structure) for name, one in targets.items()}
    waiting: list[tuple[str, str, Future[Any]]] = []
    sides: dict[str, Structures] = {name: {} for name in targets}
    try:
        for slug in sorted(slugs, key=lambda slug: hashlib.sha256(slug.encode()).digest()):
            if time.monotonic() >= end:
                break
            handed_over = lower_case(slug, target, golden_program)
            for name, pool in pools.items():
                if isinstance(handed_over, dict):
                    sides[name][slug] = handed_over
                elif handed_over is not None:
                    waiting.append((name, slug, pool.submit(slug, *handed_over, None)))
        for name, slug, future in waiting:
            try:
                sides[name][slug] = future.result(max(0.0, end - time.monotonic()))
            except TimeoutError:
                future.cancel()
    finally:
        for pool in pools.values():
            pool.close()
    return sides


def described_structure(compilation: Any) -> dict[str, Any]:
    """What is kept of a compilation: its structure as in the goldens, library calls, prediction and launches."""
    from normbench.goldens.make import structure

    row, launches = predicted_rows(compilation)
    times = {name: row[name] for name in ("bytes_s", "predicted_s")}
    return {**structure(compilation), "calls": calls(launches), **times, "launch_rows": launches}


def tables(sides: dict[str, Structures], device: Structures) -> Tables:
    """The rows of the three tables."""
    own = sides[OWN]
    launches = [
        {"case": case, **{name: row[name] for name in TABLES["described_launches"] if name != "case"}}
        for case, found in own.items()
        for row in found.get("launch_rows", ())
    ]
    described = [_row(case, config, found) for config, side in sides.items() for case, found in side.items()]
    differences: list[dict[str, Any]] = [*difference_rows({**sides, DEVICE: device})]
    return {"described": described, "described_launches": launches, "target_differences": differences}


def _row(case: str, config: str, found: dict[str, Any]) -> dict[str, Any]:
    row = {name: found[name] for name in TABLES["described"] if name in found}
    row |= {name: json.dumps(found[name]) for name in _COUNTS if name in found}
    return {"case": case, "config": config, "status": "ok", **row}


def write(folder: Path, found: Tables) -> None:
    """Puts the tables into the run; those of an earlier call are replaced."""
    store = Store.open(folder)
    if store.complete:
        for name, rows in found.items():
            write_parquet(folder / f"{name}.parquet", name, rows)
        store.seal()
    else:
        store.write_part(PART, found)


def main(arguments: Sequence[str] | None = None) -> int:
    from normbench.goldens.make import default_workers

    parser = argparse.ArgumentParser(
        prog="python -m normbench.cli.gpu_described", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="folder of a run on a GPU")
    parser.add_argument("--limit", type=float, default=3600.0, metavar="SECONDS", help="(default: 3600)")
    parser.add_argument("--workers", type=int, metavar="N", help="compiler processes (default: one per core)")
    parsed = parser.parse_args(arguments)
    os.environ.update(compile_environment())
    try:
        run = describe_run(parsed.run, parsed.limit, parsed.workers or default_workers())
    except UserError as error:
        print(f"gpu_described: error: {error}", file=sys.stderr)
        return 2
    print("\n".join(device_target_lines(run)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
