"""Unites runs of several hosts, or shards of one study, into one run. Uniting them again changes nothing.

A run that was united knows its members by their content, so that a member that is there already is not added twice. A
case that two runs hold for the same target is refused: two measurements of one thing are compared, not mixed.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from normbench.errors import UserError
from normbench.report.data.frames import conform
from normbench.run_folder.check import read_run
from normbench.run_folder.info import read_info
from normbench.run_folder.seal import seal_run
from normbench.run_folder.tables import arrow_schema
from normbench.schema import LATER_TABLES, SCHEMA_VERSION, TABLES

MUST_AGREE = ("jax", "jaxlib", "jax-cuda13-plugin", "jax-cuda13-pjrt")
"""Packages of which all members have the same version: they decide what the programs are."""
_BATCH_ROWS = 100_000
_PLACES = {"compiled": "target", "timings": "device", "accuracy": "device", "launch_times": "device"}
"""The column that says, with the case, what a row is about."""


@dataclass(frozen=True)
class Source:
    """A finished run that becomes part of another.

    Attributes:
      folder: where it lies.
      info: of its run.json.
      members: what it was united from, itself if from nothing, by the digest of their tables.
    """

    folder: Path
    info: dict[str, Any]
    members: dict[str, dict[str, Any]]

    @classmethod
    def read(cls, folder: Path) -> "Source":
        """Reads what a run says of itself.

        Raises:
          UserError: where it is no run, is damaged or is not finished.
        """
        info = dict(read_run(folder).info)
        if info["status"] != "complete":
            raise UserError(
                f"run {str(folder)!r} is not finished; finish it first: normbench study --resume {str(folder)!r}"
            )
        members = info.get("members")
        if members is None:
            run_id = str(info.get("run_id") or folder.name)
            members = {_digest(folder): {"run_id": run_id, "shard": (info.get("config") or {}).get("shard") or None}}
        return cls(folder, info, members)

    @property
    def environments(self) -> dict[str, Any]:
        """By host; of an older run, which did not tell its host, by the run."""
        known = self.info.get("environments")
        return dict(known) if known else {self.folder.name: self.info.get("environment") or {}}

    def batches(self, table: str) -> Iterator[pa.Table]:
        """The rows of a table, some at a time, each with its host.

        Raises:
          UserError: where they cannot be read.
        """
        file = self.folder / f"{table}.parquet"
        if table in LATER_TABLES and not file.exists():
            return
        try:
            for batch in pq.ParquetFile(file).iter_batches(_BATCH_ROWS):
                rows = conform(pa.Table.from_batches([batch]), arrow_schema(table))
                yield _with_host(rows, next(iter(self.environments)) if len(self.environments) == 1 else None)
        except (OSError, pa.ArrowException, ValueError) as error:
            raise UserError(f"table {str(file)!r} cannot be read: {' '.join(str(error).split())[:200]}") from error

    def places(self) -> set[tuple[str, str]]:
        """The cases that it has rows of, each with the target or device."""
        found: set[tuple[str, str]] = set()
        for table, column in _PLACES.items():
            for rows in self.batches(table):
                pairs = rows.select(["case", column]).group_by(["case", column]).aggregate([]).to_pydict()
                found |= set(zip(pairs["case"], pairs[column], strict=True))
        return found


def unite(folders: Sequence[Path], into: Path) -> bool:
    """Makes `into` a run that holds the rows of all these runs, and of itself where it is one already.

    Returns:
      Whether anything was added.

    Raises:
      UserError: for a folder that is no finished run, runs that do not fit together, or a place that is taken.
    """
    _restore(into)
    if into.exists() and not (into / "run.json").is_file() and (not into.is_dir() or any(into.iterdir())):
        raise UserError(f"into {str(into)!r} is there and is no run; give a new folder, or a run to add to")
    before = [Source.read(into)] if (into / "run.json").is_file() else []
    if before and "members" not in before[0].info:
        raise UserError(f"into {str(into)!r} is a run that was measured; give a new folder, or a run that was united")
    sources, known = list(before), {digest for one in before for digest in one.members}
    for source in sorted(map(Source.read, folders), key=lambda one: str(one.info.get("created"))):
        if not source.members.keys() <= known:
            sources.append(source)
            known |= source.members.keys()
    if len(sources) == len(before):
        return False
    _check_versions(sources)
    _check_apart(sources)
    _write(sources, into)
    return True


def missing_shards(run: Path) -> list[str]:
    """The shards of the study that no member is: "2/3", ..."""
    found = [one["shard"] for one in (read_info(run).get("members") or {}).values() if one.get("shard")]
    counts = {shard.partition("/")[2] for shard in found}
    if len(counts) != 1:
        return []
    (count,) = counts
    return [shard for number in range(int(count)) if (shard := f"{number + 1}/{count}") not in found]


def _digest(folder: Path) -> str:
    """Of all its tables: what was measured, and nothing of how the folder is called."""
    digest = hashlib.sha256()
    for table in sorted(TABLES):
        file = folder / f"{table}.parquet"
        if file.is_file():
            with file.open("rb") as stream:
                digest.update(table.encode() + hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _check_versions(sources: Sequence[Source]) -> None:
    first: dict[str, tuple[Any, Path]] = {}
    for source in sources:
        for environment in source.environments.values():
            packages = environment.get("packages") or {}
            for name, found in (
                ("normbench", environment.get("normbench")),
                *((n, packages.get(n)) for n in MUST_AGREE),
            ):
                known, where = first.setdefault(name, (found, source.folder))
                if known != found:
                    raise UserError(
                        f"runs {str(where)!r} and {str(source.folder)!r} do not fit together: {name} is {known} in one "
                        f"and {found} in the other; compare them instead: normbench compare"
                    )


def _check_apart(sources: Sequence[Source]) -> None:
    seen: dict[tuple[str, str], Path] = {}
    for source in sources:
        for place in sorted(source.places()):
            if place in seen:
                case, target = place
                raise UserError(
                    f"runs {str(seen[place])!r} and {str(source.folder)!r} both hold {case} on {target}; what was done "
                    "twice is compared, not united: normbench compare"
                )
            seen[place] = source.folder


def _write(sources: Sequence[Source], into: Path) -> None:
    growing = into.with_name(f".tmp-{into.name}-{os.getpid()}")
    try:
        (growing / "hlo").mkdir(parents=True)
        for table in TABLES:
            _write_table(sources, table, growing / f"{table}.parquet")
        for source in sources:
            _copy_modules(source.folder / "hlo", growing / "hlo")
        seal_run(growing, _united_info(sources, into.name))
        if into.exists():
            into.rename(_set_aside(into))
        growing.rename(into)
        shutil.rmtree(_set_aside(into), ignore_errors=True)
    except OSError as error:
        raise UserError(f"into {str(into)!r} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(growing, ignore_errors=True)
        _restore(into)


def _set_aside(into: Path) -> Path:
    return into.with_name(f".{into.name}.before")


def _restore(into: Path) -> None:
    """Puts back what a killed union had set aside."""
    if _set_aside(into).is_dir() and not into.exists():
        _set_aside(into).rename(into)


def _write_table(sources: Sequence[Source], table: str, file: Path) -> None:
    cases: set[str] = set()
    with pq.ParquetWriter(file, arrow_schema(table), compression="zstd") as writer:
        for source in sources:
            for rows in source.batches(table):
                if table == "cases":  # of which two members may hold the same for different targets
                    rows = rows.filter(pa.array([case not in cases for case in rows["case"].to_pylist()], pa.bool_()))
                    cases |= set(rows["case"].to_pylist())
                writer.write_table(rows)


def _with_host(rows: pa.Table, host: str | None) -> pa.Table:
    """Rows that do not tell their host get the only one that their run knows."""
    if host is None or "host" not in rows.column_names or not rows["host"].null_count:
        return rows
    at = rows.schema.get_field_index("host")
    return rows.set_column(at, rows.schema.field(at), rows["host"].fill_null(host))


def _copy_modules(source: Path, place: Path) -> None:
    """Copies what is named by its content and is not there; links are not followed."""
    for folder, folders, names in os.walk(source):
        folders[:] = [name for name in folders if not (Path(folder) / name).is_symlink()]
        for name in names:
            file = Path(folder) / name
            wanted = place / file.relative_to(source)
            if file.is_symlink() or not file.is_file() or wanted.exists():
                continue
            wanted.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, wanted)


def _united_info(sources: Sequence[Source], name: str) -> dict[str, Any]:
    infos = [source.info for source in sources]
    presets = list(dict.fromkeys(str(info.get("preset")) for info in infos))
    configs = [info.get("config") or {} for info in infos]
    cases = list(dict.fromkeys(case for config in configs for case in config.get("cases") or ()))
    environments: dict[str, Any] = {}
    for source in sources:
        environments = {**source.environments, **environments}
    return {
        "schema_version": SCHEMA_VERSION,
        "status": "complete",
        **{name: choose(times) for name, choose, times in _times(infos) if times},
        "preset": "+".join(presets),
        "command": "; ".join(dict.fromkeys(str(info["command"]) for info in infos if info.get("command"))),
        "targets": list(dict.fromkeys(target for info in infos for target in info.get("targets") or ())),
        "environment": infos[0].get("environment") or {},
        "environments": environments,
        "config": {**configs[0], "cases": cases, "shard": ""},
        "run_id": name,
        "cost": _united_cost([info.get("cost") or {} for info in infos]),
        "members": {digest: member for source in sources for digest, member in source.members.items()},
    }


def _times(infos: Sequence[dict[str, Any]]) -> Iterator[tuple[str, Callable[[list[str]], str], list[str]]]:
    """When the first member was begun and the last one finished, of those that tell."""
    for name, choose in (("created", min), ("finished", max)):
        yield name, choose, [str(info[name]) for info in infos if info.get(name)]


def _united_cost(costs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Seconds and cases added up, by kind of work and target; workers of all."""
    found: dict[str, Any] = {"workers": sum(cost.get("workers") or 0 for cost in costs)}
    for kind in ("compile", "measure", "attribute"):
        found[kind] = {}
        for cost in costs:
            for target, entry in (cost.get(kind) or {}).items():
                total = found[kind].setdefault(target, {})
                for name, value in entry.items():
                    if name != "seconds_per_case":
                        total[name] = total.get(name, 0) + value
    return found
