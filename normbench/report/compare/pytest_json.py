"""What pytest-benchmark saved, as a run that can be compared: each file is one process."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

from normbench.errors import UserError
from normbench.report.data.frames import Run, _from_rows, _to_pandas, load_run
from normbench.schema import TABLES

_KNOWN_BY_COMMIT = ("id", "dirty")
Rows = dict[str, list[dict[str, Any]]]


def load_any(path: Path) -> Run:
    """Reads the folder of a run, a file of pytest-benchmark, or a folder of such files.

    Raises:
      UserError: where it is none of these, or damaged.
    """
    path = Path(path)
    if path.is_file() or (path.is_dir() and not (path / "run.json").exists() and any(path.rglob("*.json"))):
        return load_pytest(path)
    return load_run(path)


def load_pytest(path: Path) -> Run:
    """Reads what `pytest --benchmark-only benchmarks/pytest --benchmark-autosave` saved.

    Args:
      path: a file, or a folder of files that were saved under the same conditions: how much processes differ is known
        only from several.

    Raises:
      UserError: for a file of something else, or one without samples.
    """
    files = [path] if path.is_file() else sorted(path.rglob("*.json"))
    saved = [_read(file) for file in files]
    rows: Rows = {name: [] for name in TABLES}
    seen: set[str] = set()
    for process, (file, document) in enumerate(zip(files, saved, strict=True)):
        for bench in document["benchmarks"]:
            _add(rows, bench, process, file, seen)
        rows["ceilings"] += [{**row, "process": process} for row in document.get("ceilings", [])]
    tables = {name: _to_pandas(_from_rows(part, name, path), name) for name, part in rows.items()}
    info = {"run_id": path.stem, "status": "complete", "environment": _environment(saved[0])}
    return Run(path, MappingProxyType(info), MappingProxyType(tables))


def _read(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{str(file)!r} cannot be read as JSON: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict) or not isinstance(document.get("benchmarks"), list):
        raise UserError(f"{str(file)!r} was not saved by pytest-benchmark: it has no list of benchmarks")
    return document


def _add(rows: Rows, bench: dict[str, Any], process: int, file: Path, seen: set[str]) -> None:
    """Adds the rows of one benchmark; what does not differ between processes is taken from the first."""
    extra = bench.get("extra_info") or {}
    slug = extra.get("slug")
    if not slug:
        raise UserError(f"{str(file)!r} has a benchmark without a case: {bench.get('name')!r}")
    if slug not in seen:
        seen.add(slug)
        rows["cases"].append(_case(slug, extra))
        facts = ("launches", "traffic_ratio", "minimum_bytes", "hlo_sha256")
        rows["compiled"].append(
            {"case": slug, "target": "cpu", "status": "ok", **{name: extra.get(name) for name in facts}}
        )
        rows["accuracy"].append({"case": slug, "device": "cpu", "status": "ok", "max_ulp": extra.get("max_ulp")})
    rows["timings"].extend(_samples(slug, bench, process, file))


def _case(slug: str, extra: dict[str, Any]) -> dict[str, Any]:
    problem, _, variant = slug.rpartition(".")
    return {
        "case": slug, "operator": slug.partition(".")[0], "variant": variant, "problem": problem,
        "baseline": extra.get("baseline"),
    }  # fmt: skip


def _samples(slug: str, bench: dict[str, Any], process: int, file: Path) -> Iterator[dict[str, Any]]:
    samples = (bench.get("stats") or {}).get("data")
    if not samples:
        raise UserError(f"{str(file)!r} holds no samples; save them with --benchmark-save-data")
    key = {"case": slug, "device": "cpu", "stage": "call", "clock": "wall", "cache": "cold", "process": process}
    for index, seconds in enumerate(samples):
        yield {**key, "sample": index, "seconds": seconds, "calls": 1, "status": "ok"}


def _environment(document: dict[str, Any]) -> dict[str, Any]:
    machine = document.get("machine_info") or {}
    commit = document.get("commit_info") or {}
    names = ("packages", "cpu_model", "nvidia_driver", "variables")
    return {
        **{name: machine.get(name) for name in names},
        "python": machine.get("python_version"),
        "git": {name: commit.get(name) for name in _KNOWN_BY_COMMIT},
    }
