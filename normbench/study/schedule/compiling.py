"""Compiles in worker processes, several at once; a worker that dies costs one case, and the rest goes on.

A worker that others killed costs none: what it was busy with is tried again in a new process, while no other runs.
"""

import select
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from normbench.schema import TABLES
from normbench.study.clocks.memory import total_bytes
from normbench.study.schedule.store import Tables
from normbench.study.schedule.units import Unit
from normbench.study.schedule.worker_process import Death, Settings, Worker

POLL_S = 0.25
LEAST_UNITS, MOST_UNITS = 20, 400
"""Of a worker. Compiled programs stay in its memory: after the first it is replaced once it has grown beyond
`MEMORY_PART` of what it may use, after the second where its memory is not told."""
MEMORY_PART = 0.5


RETRIES = 2
"""Of a case whose process was killed from outside, each in a new process."""


class WorkerError(RuntimeError):
    """A worker process cannot be started: the installation is broken, not a case."""


@dataclass
class Progress:
    """What is known of a unit so far: the rows by case and table, and the cases that are done; and where.

    Attributes:
      deaths: how often a process was killed from outside while it was busy with the case.
      killed: the cases that were given up for that.
      right: digest of a result that was found to be right, by case.
      starts_lost: how often one was killed before it was ready.
    """

    unit: Unit
    host: str | None = None
    device_id: str | None = None
    worker_s: float = 0.0
    rows: dict[tuple[str | None, str], list[dict[str, Any]]] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)
    right: dict[str, str] = field(default_factory=dict)
    deaths: Counter[str] = field(default_factory=Counter)
    killed: set[str] = field(default_factory=set)
    starts_lost: int = 0
    _of_lost_workers: Tables = field(default_factory=dict)

    def add(self, message: dict[str, Any]) -> None:
        """Takes rows; later ones replace those of the same case and table."""
        for table, rows in message["tables"].items():
            self.rows[message["case"], table] = rows
        if message["done"]:
            self.done.add(message["case"])
        if message.get("right"):
            self.right[message["case"]] = message["right"]

    def bury(self, death: Death, asked: Sequence[str]) -> None:
        """Ends the case that killed its worker, or all that are left where it was none in particular; one whose worker
        others have killed only when it was tried `RETRIES` times again."""
        for table in [table for case, table in self.rows if case is None]:  # the next worker has such rows of its own
            self._of_lost_workers.setdefault(table, []).extend(self.rows.pop((None, table)))
        for slug in [asked[death.case]] if death.case is not None else self.remaining:
            self.deaths[slug] += death.from_outside
            if death.from_outside and self.deaths[slug] <= RETRIES:
                continue
            self.killed |= {slug} if death.status == "killed" else set()
            for table, row in _epitaph(self.unit, slug, death).items():
                self.rows.setdefault((slug, table), [row])
            self.done.add(slug)

    def lose_start(self, death: Death) -> None:
        """Counts a worker that was killed while it started.

        Raises:
          WorkerError: where it was not killed from outside, or once too often.
        """
        self.starts_lost += 1
        if not death.from_outside or self.starts_lost > RETRIES:
            times = f", {self.starts_lost} times over" if self.starts_lost > 1 else ""
            raise WorkerError(f"a worker process did not start{times}: {death.reason}")

    @property
    def remaining(self) -> list[str]:
        return [slug for slug in self.unit.cases if slug not in self.done]

    @property
    def untimed(self) -> set[str]:
        """The cases that are done without a sample."""
        return {slug for slug in self.done if not has_samples(self.rows.get((slug, "timings"), []))}

    def tables(self) -> Tables:
        """All rows, each with the host and the device that it was found on, and how often it was tried."""
        tables: Tables = {}
        place = {"host": self.host, "device_id": self.device_id}

        def add(table: str, rows: list[dict[str, Any]], **more: Any) -> None:
            told = {name: value for name, value in (place | more).items() if name in TABLES[table]}
            tables.setdefault(table, []).extend({**row, **told} for row in rows)

        for table, rows in self._of_lost_workers.items():
            add(table, rows)
        for (slug, table), rows in self.rows.items():
            add(table, rows, **({"attempts": 1 + min(self.deaths[slug], RETRIES)} if slug else {}))
        return tables

    @classmethod
    def at(cls, unit: Unit, settings: Settings) -> "Progress":
        """Of a unit that is carried out with these settings."""
        return cls(unit, settings.host, settings.device_id)

    def cost(self) -> dict[str, Any]:
        unit = self.unit
        return {"kind": unit.kind, "target": unit.target, "cases": len(unit.cases), "worker_s": self.worker_s}


def has_samples(rows: Sequence[dict[str, Any]]) -> bool:
    return any(row.get("seconds") is not None for row in rows)


def _epitaph(unit: Unit, slug: str, death: Death) -> dict[str, dict[str, Any]]:
    """A row with the status for each table in which a case of this unit has one."""
    verdict = {"case": slug, "status": death.status, "reason": death.reason}
    if unit.kind == "attribute":
        return {"launch_times": {**verdict, "device": unit.target}}
    compiled = {"compiled": {**verdict, "target": unit.target}}
    if unit.kind == "compile":
        return compiled
    timings = {"timings": {**verdict, "device": unit.target, "process": unit.process}}
    if unit.process > 0:
        return timings
    return {**compiled, **timings, "accuracy": {**verdict, "device": unit.target}}


def worn_out(worker: Worker, units: int) -> bool:
    """Whether a worker that has had so many units is to be replaced: for its memory, never for its age alone."""
    held_bytes = worker.resident_bytes()
    if held_bytes is None:
        return units >= MOST_UNITS
    settings = worker.settings
    sharing = settings.processes if settings.kind == "measure" else 1  # those who take turns are alive together
    return units >= LEAST_UNITS and held_bytes > MEMORY_PART * settings.memory_share / sharing * total_bytes()


class WorkerPool:
    """Carries out units in order, in up to `workers` processes at once, each with the settings that its unit needs.

    Attributes:
      settings: what a worker for a unit is started with.
      case_timeout_s: limit of one step of one case: compiling it, checking it, one burst of samples.
      finished: called with what was found as each unit is done.
    """

    def __init__(
        self,
        units: Sequence[Unit],
        settings: Callable[[Unit], Settings],
        workers: int,
        case_timeout_s: float,
        finished: Callable[[Progress], None],
    ):
        self._waiting = deque(units)
        self._settings = settings
        self._workers = workers
        self._case_timeout_s = case_timeout_s
        self._finished = finished
        self._busy: dict[int, _Desk] = {}
        self._retries: deque[Progress] = deque()

    def run(self) -> None:
        """Returns when all units are done.

        Raises:
          WorkerError: where a worker dies before it is ready.
        """
        try:
            while self._waiting or self._busy or self._retries:
                self._fill_desks()
                readable, _, _ = select.select(list(self._busy), (), (), POLL_S)
                for descriptor in readable:
                    self._listen(self._busy[descriptor])
                for desk in self._busy.values():
                    desk.worker.watch(self._case_timeout_s)
        finally:
            for desk in self._busy.values():
                desk.worker.close()

    def _fill_desks(self) -> None:
        """Begins what is to be tried again once nobody else is at work, and new units otherwise."""
        if self._retries:
            if not self._busy:
                progress = self._retries.popleft()
                self._seat(_Desk(Worker(self._settings(progress.unit)), progress))
            return
        while self._waiting and len(self._busy) < self._workers:
            unit = self._next()
            assert unit
            settings = self._settings(unit)
            self._seat(_Desk(Worker(settings), Progress.at(unit, settings)))

    def _next(self, desk: "_Desk | None" = None) -> Unit | None:
        """Takes a waiting unit, for a new worker or for the one of a desk; None where it needs another worker.

        One of the problem that the worker is at, or else the first of a problem that no other is at: for its next
        target a problem costs less where it has just been lowered.
        """
        own = desk.progress.unit.problem if desk else None
        others = {one.progress.unit.problem for one in self._busy.values() if one is not desk}
        wanted = (at for at, unit in enumerate(self._waiting) if unit.problem == own or unit.problem not in others)
        index = next(wanted, 0)
        if desk and self._settings(self._waiting[index]) != desk.worker.settings:
            return None
        unit = self._waiting[index]
        del self._waiting[index]
        return unit

    def _seat(self, desk: "_Desk") -> None:
        self._busy[desk.worker.results] = desk

    def _dismiss(self, desk: "_Desk") -> None:
        del self._busy[desk.worker.results]
        desk.worker.close()

    def _listen(self, desk: "_Desk") -> None:
        messages, ended = desk.worker.receive()
        for message in messages:
            if message["event"] == "ready":
                desk.worker.ready = True
                desk.begin()
            elif message["event"] == "rows":
                desk.progress.add(message)
            elif message["event"] == "end":
                self._finish(desk)
        if ended and desk.worker.results in self._busy:
            self._after_death(desk)

    def _finish(self, desk: "_Desk") -> None:
        """Gives the worker the next unit, or ends it; what it found is handed over meanwhile."""
        desk.count_time()
        done = desk.progress
        more = self._waiting and not self._retries and not worn_out(desk.worker, desk.units)
        unit = self._next(desk) if more else None
        if unit:
            desk.progress = Progress.at(unit, desk.worker.settings)
            desk.begin()
        else:
            self._dismiss(desk)
        self._finished(done)

    def _after_death(self, desk: "_Desk") -> None:
        """Gives what is left of the unit to a new worker, which begins once it is ready."""
        death = desk.worker.death()
        desk.count_time()
        self._dismiss(desk)
        if desk.worker.ready:
            desk.progress.bury(death, desk.asked)
        else:
            desk.progress.lose_start(death)
        if not desk.progress.remaining:
            self._finished(desk.progress)
        elif death.from_outside:
            self._retries.append(desk.progress)
        else:
            self._seat(_Desk(Worker(desk.worker.settings), desk.progress))


class _Desk:
    """A worker, the unit on it, and since when."""

    def __init__(self, worker: Worker, progress: Progress):
        self.worker = worker
        self.progress = progress
        self.asked: tuple[str, ...] = ()
        self.units = 0
        self._since = time.monotonic()

    def begin(self) -> None:
        """Asks the worker for what is left of the unit."""
        self.asked = tuple(self.progress.remaining)
        self.worker.begin(replace(self.progress.unit, cases=self.asked))
        self.units += 1

    def count_time(self) -> None:
        now = time.monotonic()
        self.progress.worker_s += now - self._since
        self._since = now
