"""Carries out measurements: the processes that repeat a case are alive together and take turns.

A machine drifts: its memory was seen to be a third slower for some seconds, with nothing else running. Processes that
measure a case one after the other each meet another machine; processes that take turns, round by round, meet the same
one, and what their medians differ by is what differs between processes. Only one of them is ever busy.

Where they do not fit into memory together, a batch of them goes first: as many repetitions as fit, each with the
processes of all the libraries that are compared.
"""

import select
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto

from normbench.study.clocks.memory import available_bytes
from normbench.study.schedule.compiling import POLL_S, Progress, worn_out
from normbench.study.schedule.units import Unit
from normbench.study.schedule.worker_process import Settings, Worker

ALIVE_SHARE = 0.6
"""Of the memory that can be had, what processes that take turns may hold together. The rest is for the one at work:
checking a result takes several times what is kept."""


class Room(Enum):
    """Whether memory holds one repetition more; unknown until others have shown how much it takes."""

    SOME = auto()
    NONE = auto()
    UNKNOWN = auto()


@dataclass
class _Lane:
    """One of the processes: its units in order, the one in hand, and its worker.

    Attributes:
      peer, process: whose it is, and which repetition.
      asked: the cases that its worker was asked for, None while it is not on a unit.
      prepared: whether its worker has come to the first round of the unit in hand.
      units: how many units the worker has had.
      before: how many units of each problem are waiting.
    """

    peer: str
    process: int
    waiting: deque[Unit]
    progress: Progress | None = None
    worker: Worker | None = None
    asked: tuple[str, ...] | None = None
    prepared: bool = False
    units: int = 0
    before: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.before.update(unit.problem_name for unit in self.waiting)

    def take(self) -> Unit:
        """The next unit, which no longer waits."""
        unit = self.waiting.popleft()
        self.before[unit.problem_name] -= 1
        return unit

    @property
    def has_work(self) -> bool:
        return self.progress is not None or bool(self.waiting)

    @property
    def begun(self) -> bool:
        """Whether its worker is on a unit."""
        return self.asked is not None

    @property
    def held_bytes(self) -> int:
        """Memory that its worker holds; 0 where there is none, or the system does not tell."""
        return (self.worker.resident_bytes() or 0) if self.worker else 0

    def is_on(self, problem_name: str) -> bool:
        return self.begun and self.progress is not None and self.progress.unit.problem_name == problem_name

    def dismiss(self) -> None:
        """Ends the worker; what it was asked for is asked of the next one."""
        if self.worker:
            self.worker.close()
        self.worker = self.asked = None
        self.prepared = False

    def will_prepare(self, problem_name: str) -> bool:
        """Whether it has this problem still before it, prepared or begun."""
        if self.progress and self.progress.unit.problem_name == problem_name:
            return not self.prepared
        return self.before[problem_name] > 0


@dataclass
class Turns:
    """Carries out units of measurement, the same problem by all processes at about the same time.

    Attributes:
      units: what is to be done, problem by problem in the same order for every process.
      settings: what a worker for a unit is started with.
      case_timeout_s: limit of one step of one case: compiling it, checking it, one burst of samples.
      finished: called with what was found as each unit is done.
      untimed: unit -> the cases that the first process is known to have failed to time, from an earlier attempt; None
        where it has not been there yet. They are not tried again: their row is there.
      tell: called with a sentence where they do not fit into memory together.
    """

    units: Sequence[Unit]
    settings: Callable[[Unit], Settings]
    case_timeout_s: float
    finished: Callable[[Progress], None]
    untimed: Callable[[Unit], set[str] | None]
    tell: Callable[[str], None] = lambda sentence: None
    _found: dict[str, set[str]] = field(default_factory=dict)
    _right: dict[str, dict[str, str]] = field(default_factory=dict)

    def run(self) -> None:
        """Returns when all units are done.

        Raises:
          WorkerError: where a worker dies before it is ready.
        """
        batch, later = _by_process(self.units), list[_Lane]()
        try:
            while batch:
                while any(lane.has_work for lane in batch):
                    later[:0] = self._go_round(batch)
                for lane in batch:
                    lane.dismiss()
                batch, later = later, []
        finally:
            for lane in batch:
                lane.dismiss()

    def _go_round(self, batch: list[_Lane]) -> list[_Lane]:
        """Gives each its turn; takes those out of the batch, and returns them, that there is no memory for."""
        for lane in list(batch):
            if not lane.progress and not self._take_up(lane):
                continue
            if not lane.begun and _too_many(batch):
                return self._put_off(batch[-1].process, batch)
            room = _room(lane, batch)
            if room is Room.NONE:
                return self._put_off(lane.process, batch)
            if room is Room.SOME and not _waits(lane, batch):
                self._give_turn(lane)
        return []

    def _put_off(self, process: int, batch: list[_Lane]) -> list[_Lane]:
        """Takes this repetition and those after it out of the batch."""
        found = [lane for lane in batch if lane.process >= process]
        for lane in found:
            lane.dismiss()
            batch.remove(lane)
        alive, late = (len({lane.process for lane in lanes}) for lanes in (batch, found))
        self.tell(f"memory holds the processes of {alive} repetitions at a time; {late} are measured after them")
        return found

    def _take_up(self, lane: _Lane) -> bool:
        """Puts the next unit in hand; False where there is none to be had now."""
        if not lane.waiting:
            return False
        untimed = self._not_to_be_tried(lane.waiting[0])
        if untimed is None:
            return False
        unit = lane.take()
        left = replace(unit, cases=tuple(slug for slug in unit.cases if slug not in untimed))
        lane.progress = Progress.at(left, self.settings(unit))
        if lane.progress.unit.cases:
            return True
        self._finish(lane)
        return False

    def _not_to_be_tried(self, unit: Unit) -> set[str] | None:
        if unit.process == 0:
            return set()
        first = replace(unit, process=0).name
        return self._found[first] if first in self._found else self.untimed(unit)

    def _give_turn(self, lane: _Lane) -> None:
        """Lets the lane's worker work until it has come to its next pause, its end or its death."""
        assert lane.progress
        began_s = time.monotonic()
        if lane.begun:
            assert lane.worker
            lane.worker.go_on()
        else:
            self._start_unit(lane)
        lane.progress.worker_s += self._hear(lane) - began_s
        # A first process that died before its first round has not yet found out what cannot be timed.
        if lane.progress.unit.process == 0 and (lane.prepared or not lane.progress.remaining):
            self._found[lane.progress.unit.name] = lane.progress.untimed
            self._right[lane.progress.unit.name] = lane.progress.right
        if not lane.begun and not lane.progress.remaining:
            self._finish(lane)

    def _start_unit(self, lane: _Lane) -> None:
        """Asks a worker with the right settings for what is left of the unit in hand."""
        assert lane.progress
        settings = self.settings(lane.progress.unit)
        if lane.worker and (worn_out(lane.worker, lane.units) or lane.worker.settings != settings):
            lane.worker.close()
            lane.worker = None
        if not lane.worker:
            lane.worker, lane.units = Worker(settings), 0
        lane.asked = tuple(lane.progress.remaining)
        lane.units += 1
        right = self._right.get(replace(lane.progress.unit, process=0).name, {})
        lane.worker.begin(replace(lane.progress.unit, cases=lane.asked, right=tuple(right.items())))

    def _hear(self, lane: _Lane) -> float:
        """Takes what the worker sends until it pauses, has finished or is dead; returns when that was."""
        worker, progress = lane.worker, lane.progress
        assert worker
        assert progress
        while True:
            select.select([worker.results], (), (), POLL_S)
            messages, ended = worker.receive()
            for message in messages:
                if message["event"] == "ready":
                    worker.ready = True
                elif message["event"] == "rows":
                    progress.add(message)
                elif message["event"] == "pause":
                    lane.prepared = True
                elif message["event"] == "end":
                    progress.done.update(progress.unit.cases)
                    lane.asked = None
            if ended:
                self._bury(lane)
            if ended or any(message["event"] in ("pause", "end") for message in messages):
                return time.monotonic()
            worker.watch(self.case_timeout_s)

    def _bury(self, lane: _Lane) -> None:
        """Ends the case that killed the worker; what is left of the unit gets a new one, at the lane's next turn."""
        assert lane.worker
        assert lane.progress
        death, started, asked = lane.worker.death(), lane.worker.ready, lane.asked
        lane.dismiss()
        if not started:
            lane.progress.lose_start(death)
        elif asked is not None:
            lane.progress.bury(death, asked)

    def _finish(self, lane: _Lane) -> None:
        assert lane.progress
        self.finished(lane.progress)
        lane.progress, lane.prepared = None, False


def _by_process(units: Sequence[Unit]) -> list[_Lane]:
    """The processes with their units, repetition by repetition: ours, then those of the peers."""
    found: dict[tuple[int, str], deque[Unit]] = {}
    for unit in units:
        found.setdefault((unit.process, unit.peer), deque()).append(unit)
    return [_Lane(peer, process, found[process, peer]) for process, peer in sorted(found)]


def _waits(lane: _Lane, lanes: Sequence[_Lane]) -> bool:
    """Whether the lane is ready to time a problem that others are still preparing: they begin together."""
    if not lane.prepared:
        return False
    assert lane.progress
    return any(other.will_prepare(lane.progress.unit.problem_name) for other in lanes if other is not lane)


def _room(lane: _Lane, lanes: Sequence[_Lane]) -> Room:
    """Whether memory holds the lane's repetition beside the others, once it has prepared what the lane begins now.

    It will come to hold what the first repetition holds, once that has prepared it. The first one goes on in any case,
    and what has begun a problem ends it.
    """
    assert lane.progress
    problem, first = lane.progress.unit.problem_name, [one for one in lanes if one.process == lanes[0].process]
    own = [one for one in lanes if one.process == lane.process]
    if lane in first or any(one.is_on(problem) for one in own):
        return Room.SOME
    if any(one.will_prepare(problem) for one in first):
        return Room.UNKNOWN
    if _fit(own, first, lanes):
        return Room.SOME
    return Room.UNKNOWN if any(one.begun for one in own) else Room.NONE


def _too_many(lanes: Sequence[_Lane]) -> bool:
    """Whether the last repetition can be done without, and has to be: the first is about to take more."""
    last = [one for one in lanes if one.process == lanes[-1].process]
    return last[0] is not lanes[0] and not any(one.begun for one in last) and not _fit((), (), lanes)


def _fit(own: Sequence[_Lane], first: Sequence[_Lane], lanes: Sequence[_Lane]) -> bool:
    held_bytes = sum(one.held_bytes for one in lanes)
    expected_bytes = {one.peer: one.held_bytes for one in first}
    more_bytes = sum(max(0, expected_bytes.get(one.peer, 0) - one.held_bytes) for one in own)
    return held_bytes + more_bytes <= ALIVE_SHARE * (available_bytes() + held_bytes)
