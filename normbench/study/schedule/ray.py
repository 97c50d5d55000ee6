"""Carries out a study on a Ray cluster. Compiling: tasks of a core each. Measuring: actors that hold a device alone.

What measures on a CPU holds all cores that its node lends, what measures on a GPU holds one GPU; each takes a batch of
problems at a time, and the processes that repeat a measurement take turns there as they do in a local study. What is
found comes back to the process that began the study, which alone writes: no shared file system is needed. The work of
a node that is lost is done again by another.
"""

import os
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from normbench.errors import UserError
from normbench.study.schedule.compiling import Progress, WorkerPool
from normbench.study.schedule.ray_cluster import Node, connect, require_ray
from normbench.study.schedule.store import write_hlo_file
from normbench.study.schedule.turns import Turns
from normbench.study.schedule.units import Unit
from normbench.study.schedule.worker_process import Death, Settings

LARGEST_BATCH = 20
"""Units of a compile task, or problems of a measuring actor's turn: the start of its worker processes, some seconds, is
then a small part of it, and what a lost node costs is small, too."""
BATCHES_PER_PLACE = 4
"""At least so many batches for each core or device, where there are enough units: no place waits long for the last."""
ATTEMPTS = 3
"""How often work whose node was lost is begun; a node that is lost each time may be lost for what it does."""
HOLDS = {"cpu": "CPU", "gpu": "GPU"}
"""The resource of which a measurement on a device holds a node's all ("CPU") or one ("GPU")."""

Untimed = dict[str, set[str] | None]


@dataclass
class Batch:
    """Units that are carried out in one go.

    Attributes:
      untimed: of their first processes, what `Turns` asks for.
      attempts: how often it was begun.
    """

    units: list[Unit]
    settings: list[Settings]
    untimed: Untimed = field(default_factory=dict)
    attempts: int = 0

    def bury(self) -> list[Progress]:
        """A row for each case of a batch that cannot be done."""
        found = []
        for unit, settings in zip(self.units, self.settings, strict=True):
            progress = Progress.at(unit, replace(settings, host=None))
            progress.deaths.update(dict.fromkeys(unit.cases, self.attempts - 1))
            progress.bury(Death(None, "killed", f"the Ray node it ran on was lost {self.attempts} times"), unit.cases)
            found.append(progress)
        return found


class RayStudy:
    """The work of a study on a cluster.

    Attributes:
      nodes: of the cluster, when the study joined it.
    """

    def __init__(self, imports: Sequence[str], case_timeout_s: float, run: Path):
        self.nodes = connect(imports)
        self._case_timeout_s = case_timeout_s
        self._run = run

    def compile(
        self, units: Sequence[Unit], settings: Callable[[Unit], Settings], finished: Callable[[Progress], None]
    ) -> None:
        """Carries out compile units, as many at once as the cluster has cores.

        Raises:
          UserError: where no node lends a core.
        """
        ray = require_ray()
        cores = sum(node.cpus for node in self.nodes)
        if not cores:
            raise UserError("no node of the Ray cluster lends a CPU to compile on")
        task = ray.remote(num_cpus=1, max_retries=0)(_carry_out)
        hosts = {node.id: node for node in self.nodes}

        def begin(batch: Batch) -> Any:
            return task.remote(batch, self._case_timeout_s, hosts, _threads())

        batches = _batches([[unit] for unit in units], settings, cores)
        self._drive(batches, [begin] * cores, finished)

    def measure(
        self,
        units: Sequence[Unit],
        settings: Callable[[Unit], Settings],
        finished: Callable[[Progress], None],
        untimed: Callable[[Unit], set[str] | None],
    ) -> None:
        """Carries out units of measurement or attribution, each on a device that nobody else holds meanwhile.

        Raises:
          UserError: where no node has such a device.
        """
        for device in dict.fromkeys(unit.target for unit in units):
            actors = self._actors(device)
            groups: dict[str, list[Unit]] = {}
            for unit in units:
                if unit.target == device:
                    groups.setdefault(unit.problem_name, []).append(unit)
            batches = _batches(list(groups.values()), settings, len(actors))
            for batch in batches:
                firsts = {replace(unit, process=0).name: unit for unit in batch.units if unit.process}
                batch.untimed = {name: untimed(unit) for name, unit in firsts.items()}
            places = [lambda batch, actor=actor: actor.carry_out.remote(batch) for actor in actors]
            try:
                self._drive(batches, places, finished)
            finally:
                for actor in actors:
                    require_ray().kill(actor)

    def _actors(self, device: str) -> list[Any]:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        found = []
        cls = require_ray().remote(max_restarts=0, max_task_retries=0)(_Bench)
        alive = {node["NodeID"] for node in require_ray().nodes() if node["Alive"]}
        for node in self.nodes:
            holds = {"num_cpus": node.cpus} if HOLDS[device] == "CPU" else {"num_cpus": 0, "num_gpus": 1}
            count = min(node.cpus, 1) if HOLDS[device] == "CPU" else node.gpus
            where = NodeAffinitySchedulingStrategy(node.id, soft=False)
            for _ in range(count if node.id in alive else 0):
                made = cls.options(scheduling_strategy=where, **holds)
                found.append(made.remote(node, self._case_timeout_s, _threads()))
        if not found:
            raise UserError(f"target {device!r}: no node of the Ray cluster lends a {HOLDS[device]}")
        return found

    def _drive(
        self, batches: deque[Batch], places: Sequence[Callable[[Batch], Any]], finished: Callable[[Progress], None]
    ) -> None:
        """Keeps every place busy until all batches are done; a place whose actor is lost is not used again.

        Raises:
          UserError: where no place is left.
        """
        ray = require_ray()
        free = deque(places)
        busy: dict[Any, tuple[Callable[[Batch], Any], Batch]] = {}
        while batches or busy:
            while batches and free:
                place, batch = free.popleft(), batches.popleft()
                batch.attempts += 1
                busy[place(batch)] = (place, batch)
            if not busy:
                raise UserError(
                    f"the Ray cluster has lost its last node; go on with: normbench study --resume {self._run}"
                )
            (ready, *_), _ = ray.wait(list(busy))
            place, batch = busy.pop(ready)
            try:
                found, modules = ray.get(ready)
            except ray.exceptions.RayActorError:
                _again(batch, batches, finished)
                continue
            except _lost(ray):
                _again(batch, batches, finished)
                free.append(place)
                continue
            free.append(place)
            for name, data in modules.items():
                write_hlo_file(self._run, name, data)
            for progress in found:
                progress.deaths.update(dict.fromkeys(progress.unit.cases, batch.attempts - 1))
                finished(progress)


def _lost(ray: Any) -> tuple[type[Exception], ...]:
    """What a task raises whose node was lost, or whose process was ended from outside."""
    names = ("NodeDiedError", "WorkerCrashedError", "ObjectLostError", "OutOfMemoryError", "LocalRayletDiedError")
    return tuple(getattr(ray.exceptions, name) for name in names)


def _again(batch: Batch, batches: deque[Batch], finished: Callable[[Progress], None]) -> None:
    """Puts a batch whose node was lost before the others, or gives it up."""
    if batch.attempts < ATTEMPTS:
        batches.appendleft(batch)
        return
    for progress in batch.bury():
        finished(progress)


def _batches(groups: Sequence[list[Unit]], settings: Callable[[Unit], Settings], places: int) -> deque[Batch]:
    """The groups, whose units stay together, several to a batch: sized to the places that there are."""
    size = max(1, min(LARGEST_BATCH, len(groups) // (BATCHES_PER_PLACE * places)))
    found: deque[Batch] = deque()
    for start in range(0, len(groups), size):
        units = [unit for group in groups[start : start + size] for unit in group]
        found.append(Batch(units, [settings(unit) for unit in units]))
    return found


def _threads() -> str | None:
    """The user's own OMP_NUM_THREADS, in place of which Ray puts one of its own."""
    return os.environ.get("OMP_NUM_THREADS")


def _carry_out(
    batch: Batch, case_timeout_s: float, hosts: dict[str, Node], threads: str | None
) -> tuple[list[Progress], dict[str, bytes]]:
    """In a Ray task: what was found, and the modules by file name."""
    _restore_threads(threads)
    node = hosts.get(require_ray().get_runtime_context().get_node_id())
    share = {} if node is None else {"memory_share": 0.9 / max(1, node.cpus), "host": node.host}
    with tempfile.TemporaryDirectory(prefix="normbench-") as folder:
        here = _settings_here(batch, folder, **share)
        found: list[Progress] = []
        WorkerPool(batch.units, lambda unit: here[unit.name], 1, case_timeout_s, found.append).run()
        return found, _modules(folder)


class _Bench:
    """A Ray actor that holds a device: what measures there, measures alone."""

    def __init__(self, node: Node, case_timeout_s: float, threads: str | None):
        _restore_threads(threads)
        self._host = node.host
        self._case_timeout_s = case_timeout_s
        held = require_ray().get_gpu_ids()
        self._device_id = str(held[0]) if held else None

    def carry_out(self, batch: Batch) -> tuple[list[Progress], dict[str, bytes]]:
        found: list[Progress] = []
        with tempfile.TemporaryDirectory(prefix="normbench-") as folder:
            here = _settings_here(batch, folder, host=self._host, device_id=self._device_id)

            def settings(unit: Unit) -> Settings:
                return here[unit.name]

            if batch.units[0].kind == "measure":
                untimed = batch.untimed
                Turns(
                    batch.units, settings, self._case_timeout_s, found.append,
                    lambda unit: untimed.get(replace(unit, process=0).name),
                ).run()  # fmt: skip
            else:
                WorkerPool(batch.units, settings, 1, self._case_timeout_s, found.append).run()
            return found, _modules(folder)


def _restore_threads(threads: str | None) -> None:
    if threads is None:
        os.environ.pop("OMP_NUM_THREADS", None)
    else:
        os.environ["OMP_NUM_THREADS"] = threads


def _settings_here(batch: Batch, folder: str, **fields: Any) -> dict[str, Settings]:
    """The settings of each unit by its name, with a run's folder of our own for the modules."""
    (Path(folder) / "hlo").mkdir()
    pairs = zip(batch.units, batch.settings, strict=True)
    return {unit.name: replace(settings, run=folder, **fields) for unit, settings in pairs}


def _modules(folder: str) -> dict[str, bytes]:
    root = Path(folder) / "hlo"
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*.pb.zst")}
