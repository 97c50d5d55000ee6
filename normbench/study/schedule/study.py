"""Runs a study: compiles every case for the targets that are not here, measures it on the device that is."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from normbench import own_targets
from normbench.cases.case import Case
from normbench.errors import UserError, unknown
from normbench.fusion.targets import check_target, require_gpu_targets
from normbench.own_targets import deviceless
from normbench.schema import TARGETS
from normbench.study.machine.environment import environment, usable_cores
from normbench.study.schedule.attribution_choice import telling_cases
from normbench.study.schedule.compiling import Progress, WorkerPool, has_samples
from normbench.study.schedule.progress import Bar, bar_of
from normbench.study.schedule.ray import compile_on_ray, require_ray
from normbench.study.schedule.store import Store
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
      executor: "local", or "ray" for the compilations.
      processes: how many processes measure each case, taking turns.
      case_timeout_s: limit of one step of one case: compiling it, checking it, one burst of samples.
      minimum_samples, maximum_samples, relative_noise, time_limit_s: the stopping rule of each series of samples, of
        one case, clock, cache state and process.
      workers: processes that compile at the same time.
      seed: of the order in which variants are interleaved.
      attribution: whether the time of the baseline and the fastest variant is then told launch by launch.
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
        plain = {name: value for name, value in vars(self).items() if name not in ("cases", "out")}
        own = [asdict(found) for target in self.targets if (found := own_targets.own_target(target))]
        return {**plain, "cases": [case.slug for case in self.cases], **({"own_targets": own} if own else {})}

    @classmethod
    def from_json(cls, fields: dict[str, Any], out: Path) -> "StudyConfig":
        """Reads back what `to_json` wrote."""
        import_modules(fields["imports"], fields.get("folder"))
        fields = dict(fields)
        for described in fields.pop("own_targets", ()):
            own_targets.add(own_targets.OwnTarget(**described))
        lists = {name: tuple(fields[name]) for name in ("targets", "imports")}
        cases = tuple(Case.from_slug(slug) for slug in fields["cases"])
        return cls(**{**fields, **lists, "cases": cases, "out": out})


def study(config: StudyConfig) -> Path:
    """Runs a study and returns the folder of the run.

    Raises:
      UserError: for a configuration that cannot be run, or an output folder that cannot be written.
      Interrupted: by the user, once the run was begun.
    """
    _validate(config)
    import_modules(config.imports, config.folder)
    info = {
        "preset": config.preset,
        "command": config.command,
        "targets": list(config.targets),
        "environment": environment(),
        "config": config.to_json(),
    }
    store = Store.create(config.out, info, {"cases": [case.row() for case in config.cases]})
    return _carry_out(config, store)


def resume(run: Path) -> Path:
    """Finishes a run that was interrupted; what its parts hold is not measured again.

    Raises:
      UserError: for a folder that is no run, is damaged, has another schema, cannot be written or is in use.
    """
    store = Store.open(run)
    if store.complete:
        store.remove_parts()
        return run
    try:
        config = StudyConfig.from_json(store.info["config"], run.parent)
    except (KeyError, TypeError) as error:
        raise UserError(f"run {str(run)!r} is damaged: the config in run.json cannot be read ({error!r})") from error
    _validate(config)
    return _carry_out(config, store)


class Interrupted(KeyboardInterrupt):
    """The user has stopped a study; `run` is the folder with what was done, which can be resumed."""

    def __init__(self, run: Path):
        super().__init__(str(run))
        self.run = run


def _carry_out(config: StudyConfig, store: Store) -> Path:
    try:
        with store.lock(), bar_of(_units(config), len({case.problem for case in config.cases})) as bar:
            _sweep(config, store, compile_units(config.cases, config.targets), bar)
            _sweep(config, store, measure_units(config.cases, config.targets, config.processes), bar)
            _attribute(config, store, bar)
            store.finish(_cost(config, store))
    except KeyboardInterrupt as error:
        raise Interrupted(store.path) from error
    return store.path


def _units(config: StudyConfig) -> int:
    measured = measure_units(config.cases, config.targets, config.processes)
    attributed = attribution_units(config.cases, config.targets) if config.attribution else []
    return len(compile_units(config.cases, config.targets)) + len(measured) + len(attributed)


def _attribute(config: StudyConfig, store: Store, bar: Bar) -> None:
    """Tells the time of each problem's most telling cases launch by launch, one process at a time."""
    if not config.attribution:
        return
    chosen = telling_cases(store.parts(), config.cases)
    units = [
        replace(unit, cases=tuple(slug for slug in unit.cases if (slug, unit.target) in chosen))
        for unit in attribution_units(config.cases, config.targets)
    ]
    for unit in units:
        if not unit.cases and unit.name not in store.done():
            store.write_part(unit.name, {})
    _sweep(replace(config, workers=1), store, units, bar)


def _sweep(config: StudyConfig, store: Store, units: Sequence[Unit], bar: Bar) -> None:
    """Carries out the units that have no part yet, all of the same kind."""
    done = store.done()

    def finished(progress: Progress) -> None:
        store.write_part(progress.unit.name, progress.tables(), progress.cost())
        bar.update()

    def settings(unit: Unit) -> Settings:
        share = MEMORY_SHARE / config.workers if unit.kind == "compile" else MEMORY_SHARE
        return Settings(
            kind=unit.kind, target=unit.target, process=unit.process, wide=unit.wide, run=str(store.path.resolve()),
            imports=config.imports, rule=config.rule(), seed=config.seed, memory_share=share,
            processes=len({(one.peer, one.process) for one in units}),
        )  # fmt: skip

    left = [unit for unit in units if unit.name not in done]
    bar.update(len(units) - len(left))
    if not left:
        return
    if left[0].kind == "measure":
        Turns(left, settings, config.case_timeout_s, finished, partial(_untimed, store)).run()
    elif config.executor == "ray":
        compile_on_ray(left, settings, config.case_timeout_s, finished, store.path)
    else:
        WorkerPool(left, settings, config.workers, config.case_timeout_s, finished).run()


def _untimed(store: Store, unit: Unit) -> set[str] | None:
    """The cases that the first process could not time, in an earlier attempt at this run."""
    first = replace(unit, process=0).name
    if first not in store.done():
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
    if any(deviceless(target) for target in config.targets):
        require_gpu_targets()
    for name in ("processes", "workers", "case_timeout_s", "time_limit_s", "minimum_samples", "maximum_samples"):
        if getattr(config, name) <= 0:
            raise UserError(f"{name} {getattr(config, name)!r}; allowed: above 0")
    if config.processes > MAX_PROCESSES:
        raise UserError(f"processes {config.processes}; allowed: 1 to {MAX_PROCESSES}")
