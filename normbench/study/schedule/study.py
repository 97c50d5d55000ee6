"""Runs a study: compiles every case for the targets that are not here, measures it on the device that is."""

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from normbench import own_targets
from normbench.cases.case import Case
from normbench.errors import UserError, unknown
from normbench.fusion.targets import check_target, platform_of, require_compilers
from normbench.run_folder.check import check_run, missing_modules
from normbench.schema import TARGETS
from normbench.study.machine.environment import device_id, environment, host_name, usable_cores
from normbench.study.machine.mixing import differences, key
from normbench.study.schedule.attribution_choice import telling_cases
from normbench.study.schedule.compiling import RETRIES, Progress, WorkerError, WorkerPool, has_samples
from normbench.study.schedule.progress import Bar, Failures, Log, bar_of
from normbench.study.schedule.ray import RayStudy
from normbench.study.schedule.ray_cluster import require_ray
from normbench.study.schedule.store import Store
from normbench.study.schedule.take_up import killed_cases, take_up
from normbench.study.schedule.turns import Turns
from normbench.study.schedule.units import MAX_PROCESSES, Unit, attribution_units, compile_units, measure_units
from normbench.study.schedule.worker_process import Settings
from normbench.study.user_modules import import_modules

EXECUTORS = ("local", "ray")
MEMORY_SHARE = 0.9


@dataclass(frozen=True)
class Budget:
    """How much time a preset spends on a case; the fields of `StudyConfig` with the same names."""

    processes: int
    minimum_samples: int
    maximum_samples: int
    relative_noise: float
    time_limit_s: float


BUDGETS = {
    "smoke": Budget(1, 3, 10, 0.1, 0.01),
    "quick": Budget(2, 5, 60, 0.02, 0.05),
    "own": Budget(2, 5, 60, 0.02, 0.05),
    "pytensor": Budget(2, 5, 60, 0.02, 0.05),
    "peers": Budget(2, 5, 60, 0.02, 0.05),
    "standard": Budget(3, 7, 100, 0.01, 0.1),
    "full": Budget(5, 10, 200, 0.01, 0.25),
    "exhaustive": Budget(5, 10, 200, 0.01, 0.25),
    "repeatability": Budget(5, 30, 4000, 0.0005, 1.0),
}


@dataclass(frozen=True)
class StudyConfig:
    """What is studied, and how much time it gets; everything that `resume` has to know.

    Attributes:
      cases: what is measured, all the variants of a problem beside each other.
      targets: of `normbench.schema.TARGETS`; "cpu" and "gpu" are measured, the others compiled.
      out: the folder in which the run gets a folder of its own.
      preset, command: stored with the run.
      imports: modules that register variants, imported before anything else.
      folder: the current folder of the process that began the study, where such a module may lie.
      executor: "local", or "ray": on the cluster at `RAY_ADDRESS`, or the one that runs on this machine.
      processes: how many processes measure each case, taking turns.
      case_timeout_s: limit of one step of one case: compiling it, checking it, one burst of samples.
      minimum_samples, maximum_samples, relative_noise, time_limit_s: the stopping rule of each series of samples, of
        one case, clock, cache state and process.
      workers: processes that compile at the same time.
      seed: of the order in which variants are interleaved.
      attribution: whether the time of the baseline and the fastest variant is then told launch by launch.
      quiet: whether nothing is said of how far it has come; it is no part of what is stored.
      shard: which part of a study these cases are: "2/5"; empty: all of it.
      cache: the folder of the cache of compilations for absent devices; None: each is compiled anew.
    """

    cases: tuple[Case, ...]
    targets: tuple[str, ...]
    out: Path
    preset: str = "quick"
    command: str = ""
    imports: tuple[str, ...] = ()
    folder: str = field(default_factory=os.getcwd)
    executor: str = "local"
    processes: int = BUDGETS["quick"].processes
    case_timeout_s: float = 120.0
    minimum_samples: int = BUDGETS["quick"].minimum_samples
    maximum_samples: int = BUDGETS["quick"].maximum_samples
    relative_noise: float = BUDGETS["quick"].relative_noise
    time_limit_s: float = BUDGETS["quick"].time_limit_s
    workers: int = field(default_factory=usable_cores)
    seed: int = 0
    attribution: bool = False
    quiet: bool = False
    shard: str = ""
    cache: str | None = None

    @classmethod
    def for_preset(cls, preset: str, **fields: Any) -> "StudyConfig":
        """A configuration with the preset's budget; `fields` go before it.

        Raises:
          UserError: for an unknown preset.
        """
        if preset not in BUDGETS:
            raise unknown("preset", preset, BUDGETS)
        return cls(**{**asdict(BUDGETS[preset]), "preset": preset, **fields})

    def rule(self) -> tuple[tuple[str, Any], ...]:
        names = ("minimum_samples", "maximum_samples", "relative_noise", "time_limit_s")
        return tuple((name, getattr(self, name)) for name in names)

    def to_json(self) -> dict[str, Any]:
        plain = {name: value for name, value in vars(self).items() if name not in ("cases", "out", "quiet", "cache")}
        own = [asdict(found) for target in self.targets if (found := own_targets.own_target(target))]
        slugs = {"cases": [case.slug for case in self.cases], "models": [case.model for case in self.cases]}
        return {**plain, **slugs, **({"own_targets": own} if own else {})}

    @classmethod
    def from_json(cls, fields: dict[str, Any], out: Path) -> "StudyConfig":
        """Reads back what `to_json` wrote; the modules that it names have to be imported."""
        for described in fields.get("own_targets", ()):
            own_targets.add(own_targets.OwnTarget(**described))
        lists = {name: tuple(fields[name]) for name in ("targets", "imports")}
        known = {name: value for name, value in fields.items() if name not in ("models", "own_targets")}
        models = fields.get("models") or [""] * len(fields["cases"])
        cases = tuple(
            replace(Case.from_slug(slug), model=model) for slug, model in zip(fields["cases"], models, strict=True)
        )
        return cls(**{**known, **lists, "cases": cases, "out": out})


def study(config: StudyConfig) -> Path:
    """Runs a study and returns the folder of the run.

    Raises:
      UserError: for a configuration that cannot be run, or an output folder that cannot be written.
      Interrupted: by the user, once the run was begun.
      Stopped: where it cannot go on: a full disk, workers that do not start or are killed again and again.
    """
    _validate(config)
    import_modules(config.imports, config.folder)
    here = environment()
    info = {
        "preset": config.preset,
        "command": config.command,
        "targets": list(config.targets),
        "environment": here,
        "environments": {here["host"]: here},
        "config": config.to_json(),
    }
    store = Store.create(config.out, info, {"cases": [case.row() for case in config.cases]})
    Log(store.path)(f"begun: {config.command}")
    return _carry_out(config, store)


@dataclass(frozen=True)
class Resumption:
    """How a run is taken up again.

    Attributes:
      imports: modules that the user names, of those that register the run's variants; no others are imported.
      mixed: whether it goes on though the environment is another one than that in which it was begun.
      retry_failed: whether cases that failed by themselves are tried again too.
      quiet, cache: as in `StudyConfig`; a run never says by itself which folder is read or written beside its own.
      workers, executor: in place of the run's own, where given.
    """

    imports: tuple[str, ...] = ()
    mixed: bool = False
    retry_failed: bool = False
    quiet: bool = False
    cache: str | None = None
    workers: int | None = None
    executor: str | None = None

    def of_this_call(self) -> dict[str, Any]:
        """Fields of the configuration that are this call's, not the run's."""
        given = {"workers": self.workers, "executor": self.executor}
        own = {name: value for name, value in given.items() if value is not None}
        return {"quiet": self.quiet, "cache": self.cache, **own}


def resume(run: Path, how: Resumption = Resumption()) -> Path:
    """Finishes a run that was interrupted; what its parts hold is not measured again.

    Damaged files are set aside, and their cases carried out again, also those of a run that was complete.

    Raises:
      UserError: for a folder that is no run, has another schema, cannot be written or is in use; for a run that needs
        modules which the user has not named, or was begun in another environment.
      Interrupted: by the user.
      Stopped: where it cannot go on.
    """
    store = Store.open(run)
    with store.lock():
        folder = check_run(run)
        damaged = [*folder.damaged, *missing_modules(folder)]
        if folder.complete and not damaged and not how.retry_failed:
            store.remove_parts()
            return run
        if not folder.checked:
            raise UserError(
                f"run {str(run)!r} was made before there were checksums and cannot be carried on; normbench report "
                "reads it as it is"
            )
        config = replace(_config_of(store, how), **how.of_this_call())
        _validate(config)
        here = _environment_of(store, how)
        for damage in damaged:
            store.set_aside(damage.file)
        again = take_up(store, config, [damage.file for damage in damaged], how.retry_failed)
    log = Log(store.path)
    for damage in damaged:
        _tell(log, f"set aside: {damage}")
    log(f"resumed: {len(again)} units are carried out again")
    return _carry_out(config, store, here)


def _config_of(store: Store, how: Resumption) -> StudyConfig:
    """What the run was begun with; its modules are imported where the user has named them all.

    Raises:
      UserError: where it cannot be read, or names others.
    """
    try:
        fields = store.info["config"]
        names = tuple(fields["imports"])
        if missing := [name for name in names if name not in how.imports]:
            options = " ".join(f"--import {shlex.quote(name)}" for name in missing)
            raise UserError(
                f"run {str(store.path)!r} needs modules that this call does not name; if you trust them, add: {options}"
            )
        import_modules(names)
        return StudyConfig.from_json(fields, store.path.parent)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"run {str(store.path)!r}: the config in run.json cannot be read ({error!r})") from error


def _environment_of(store: Store, how: Resumption) -> str | None:
    """The key of this environment where it is another one than the run's, after it was recorded; None where it is not.

    Raises:
      UserError: where it is another one and the user has not said that it may be.
    """
    now = environment()
    found = differences(store.info.get("environment") or {}, now)
    if not found:
        return None
    if not how.mixed:
        more = f" (and {len(found) - 3} more)" if len(found) > 3 else ""
        raise UserError(
            f"run {str(store.path)!r} was begun in another environment: {'; '.join(found[:3])}{more}; go on there, or "
            "here with --mixed, which records the environment of each part"
        )
    store.update(environments={**(store.info.get("environments") or {}), key(now): now})
    return key(now)


class Interrupted(KeyboardInterrupt):
    """The user has stopped a study; `run` is the folder with what was done, which can be resumed."""

    def __init__(self, run: Path):
        super().__init__(str(run))
        self.run = run


class Stopped(Exception):
    """A study cannot go on, for a reason that is no case's; `run` is the folder with what was done."""

    def __init__(self, run: Path, reason: str):
        super().__init__(reason)
        self.run = run


def _carry_out(config: StudyConfig, store: Store, here: str | None = None) -> Path:
    """Carries out what is left; `here` is the key of the environment where it is not the run's own."""
    log = Log(store.path)
    try:
        with store.lock(), bar_of(_units(config), len({case.problem for case in config.cases}), config.quiet) as bar:
            cluster = _cluster(config, store)
            watch = Watch(store, bar, log, here)
            _sweep(config, store, compile_units(config.cases, config.targets), watch, cluster)
            _sweep(config, store, measure_units(config.cases, config.targets, config.processes), watch, cluster)
            _attribute(config, store, watch, cluster)
            if killed := killed_cases(store.parts()):
                raise Stopped(
                    store.path, f"{len(killed)} cases have no result: their processes were killed from outside, "
                    f"{RETRIES + 1} times over"
                )  # fmt: skip
            _record_mix(store)
            log("done")
            store.finish(_cost(config, store))
    except Stopped as error:
        log(f"stopped: {error}")
        raise
    except KeyboardInterrupt as error:
        log("interrupted")
        raise Interrupted(store.path) from error
    except (OSError, WorkerError) as error:
        reason = f"{error.strerror or error}" if isinstance(error, OSError) else str(error)
        log(f"stopped: {reason}")
        raise Stopped(store.path, reason) from error
    return store.path


def _record_mix(store: Store) -> None:
    """Keeps in run.json which units another environment than the run's own has carried out."""
    mixed: dict[str, list[str]] = {}
    for part in store.parts():
        if part.get("environment"):
            mixed.setdefault(part["environment"], []).append(part["unit"])
    if mixed:
        store.info["mixed"] = mixed


@dataclass
class Watch:
    """Stores what is found, and tells how far the study has come."""

    store: Store
    bar: Bar
    log: Log
    environment: str | None
    failures: Failures = field(default_factory=Failures)

    def finished(self, progress: Progress) -> None:
        tables, name = progress.tables(), progress.unit.name
        where = {"environment": self.environment} if self.environment else {}
        self.store.write_part(name, tables, progress.cost(), **where)
        for slug, count in progress.deaths.items():
            self.log(f"{slug}: its process was killed from outside, {count} times")
        for sentence in self.failures.add(tables):
            self.log(sentence)
        self.log(f"{name}: {progress.worker_s:.1f} s")
        self.bar.update()
        self.bar.set_postfix_str(str(self.failures))


def _tell(log: Log, text: str) -> None:
    log(text)
    print(f"normbench: {text}", file=sys.stderr)


def _cluster(config: StudyConfig, store: Store) -> RayStudy | None:
    """The cluster that the study runs on, whose nodes the run then knows; None for a local one."""
    if config.executor != "ray":
        return None
    cluster = RayStudy(config.imports, config.case_timeout_s, store.path)
    known = store.info.get("environments") or {}
    store.update(environments={**known, **{node.host: node.environment for node in cluster.nodes}})
    return cluster


def _units(config: StudyConfig) -> int:
    measured = measure_units(config.cases, config.targets, config.processes)
    attributed = attribution_units(config.cases, config.targets) if config.attribution else []
    return len(compile_units(config.cases, config.targets)) + len(measured) + len(attributed)


def _attribute(config: StudyConfig, store: Store, watch: Watch, cluster: RayStudy | None) -> None:
    """Tells the time of each problem's most telling cases launch by launch, one process at a time."""
    if not config.attribution:
        return
    chosen = telling_cases(store.parts(), config.cases)
    units = [
        replace(unit, cases=tuple(slug for slug in unit.cases if (slug, unit.target) in chosen))
        for unit in attribution_units(config.cases, config.targets)
    ]
    for unit in units:
        if not unit.cases and not store.is_done(unit.name):
            store.write_part(unit.name, {})
    _sweep(replace(config, workers=1), store, units, watch, cluster)


def _sweep(config: StudyConfig, store: Store, units: Sequence[Unit], watch: Watch, cluster: RayStudy | None) -> None:
    """Carries out the units that have no part yet, all of the same kind."""
    done, finished = store.done(), watch.finished
    processes, host = len({(one.peer, one.process) for one in units}), host_name()

    def settings(unit: Unit) -> Settings:
        compiles = unit.kind == "compile"
        share = MEMORY_SHARE / config.workers if compiles else MEMORY_SHARE
        # Compiling changes the mode unit by unit, which saves a start; a user's module sees it when it is imported.
        wide = unit.wide and bool(config.imports or not compiles)
        return Settings(
            kind=unit.kind, target=platform_of(unit.target) if compiles else unit.target,
            process=unit.process, wide=wide, run=str(store.path.resolve()),
            imports=config.imports, rule=config.rule(), seed=config.seed, memory_share=share,
            processes=processes, cache=config.cache, host=host, device_id=device_id(unit.target),
        )  # fmt: skip

    left = [unit for unit in units if unit.name not in done]
    watch.bar.skip(len(units) - len(left))
    if not left:
        return
    if cluster and left[0].kind == "compile":
        cluster.compile(left, settings, finished)
    elif cluster:
        cluster.measure(left, settings, finished, partial(_untimed, store))
    elif left[0].kind == "measure":
        Turns(left, settings, config.case_timeout_s, finished, partial(_untimed, store), watch.log).run()
    else:
        WorkerPool(left, settings, config.workers, config.case_timeout_s, finished).run()


def _untimed(store: Store, unit: Unit) -> set[str] | None:
    """The cases that the first process could not time, in an earlier attempt at this run."""
    first = replace(unit, process=0).name
    if not store.is_done(first):
        return None
    timings = store.read_part(first)["tables"].get("timings", [])
    return {slug for slug in unit.cases if not has_samples([row for row in timings if row["case"] == slug])}


def _cost(config: StudyConfig, store: Store) -> dict[str, Any]:
    """What the run cost, by kind of work and target, in seconds of worker processes, their start included."""
    cost: dict[str, Any] = {"workers": config.workers, "compile": {}, "measure": {}, "attribute": {}}
    for part in store.parts():
        spent = part.get("cost")
        if not spent:
            continue
        entry = cost[spent["kind"]].setdefault(spent["target"], {"cases": 0, "worker_s": 0.0})
        entry["cases"] += spent["cases"]
        entry["worker_s"] += spent["worker_s"]
        for row in part["tables"].get("compiled", []):
            for name in ("lower_s", "compile_s", "read_s"):
                entry[name] = entry.get(name, 0.0) + (row.get(name) or 0.0)
    for entry in cost["compile"].values():
        entry["seconds_per_case"] = entry["worker_s"] / config.workers / max(entry["cases"], 1)
    return cost


def _validate(config: StudyConfig) -> None:
    if not config.cases:
        raise UserError("cases: none; give one at least")
    if not config.targets:
        raise unknown("target", "", TARGETS)
    for target in config.targets:
        check_target(target)
    if config.executor not in EXECUTORS:
        raise unknown("executor", config.executor, EXECUTORS)
    if config.executor == "ray":
        require_ray()
    require_compilers(*config.targets)
    for name in ("processes", "workers", "case_timeout_s", "time_limit_s", "minimum_samples", "maximum_samples"):
        if getattr(config, name) <= 0:
            raise UserError(f"{name} {getattr(config, name)!r}; allowed: above 0")
    if config.processes > MAX_PROCESSES:
        raise UserError(f"processes {config.processes}; allowed: 1 to {MAX_PROCESSES}")
