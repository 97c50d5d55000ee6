"""Which pieces of work a study consists of: one unit per problem, target and process, the same for the same config.

A peer has units of its own, and so processes of its own: the threads of two libraries in one process disturb each
other's timings. Those processes take turns with ours.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from normbench import kernels
from normbench.cases.case import Case
from normbench.fusion.targets import platform_of
from normbench.kernels import Problem
from normbench.kernels.registry import PEERS
from normbench.own_targets import deviceless

LONGEST_NAME = 160
MAX_PROCESSES = 100
"""Far more than tell how much processes differ; each repeats the whole measurement."""
AA_UNITS, LEAST_AA_PROBLEMS = 8, 4
"""So many units of a run, evenly spread over it, have their baseline timed against itself; with several processes at
least so many problems."""


@dataclass(frozen=True, slots=True)
class Unit:
    """All the variants of one problem: compiled for one target, or measured by one process on one device.

    Attributes:
      kind: "compile", "measure", or "attribute": the time of a measured case to its launches.
      target: what it is compiled for; for "measure" and "attribute" the device, "cpu" or "gpu".
      process: repetition of the measurement, from 0; 0 for "compile".
      problem: its slug, cut to a length that a file's name can have.
      cases: slugs, all of the same problem.
      wide: whether it needs JAX's 64-bit mode.
      aa: whether its first case is also timed against itself: the A/A test.
      peer: the peer whose own processes this is for; empty for the variants that share ours.
      right: case and digest of a result that another process of the problem has found to be right.
    """

    kind: str
    target: str
    process: int
    problem: str
    cases: tuple[str, ...]
    wide: bool
    aa: bool = False
    peer: str = ""
    right: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        """The name of its part in the run's folder."""
        repetition = f"-p{self.process}" if self.kind == "measure" else ""
        peer = f"-{self.peer}" if self.peer else ""
        return f"{self.kind}-{self.target}{repetition}-{self.problem}{peer}"

    @property
    def problem_name(self) -> str:
        """The same for all the units that measure one problem on one device, in several processes."""
        return f"{self.kind}-{self.target}-{self.problem}"


def compile_units(cases: Iterable[Case], targets: Sequence[str]) -> list[Unit]:
    """A unit for each problem and each target that is not here, platform by platform.

    The targets of a problem stand beside each other: who has compiled it for one has most of what the next needs.
    """
    groups = by_problem(cases)
    platforms: dict[str, list[str]] = {}
    for target in targets:
        if deviceless(target):
            platforms.setdefault(platform_of(target), []).append(target)
    return [
        _unit("compile", target, 0, problem, group)
        for wanted in platforms.values()
        for problem, group in groups
        for target in wanted
    ]


def measure_units(cases: Iterable[Case], targets: Sequence[str], processes: int) -> list[Unit]:
    """A unit for each problem, device and process; those of one problem, which take turns, beside each other."""
    groups = by_problem(cases)
    devices = [target for target in targets if not deviceless(target)]
    wanted = max(LEAST_AA_PROBLEMS, AA_UNITS // processes)
    tested = {len(groups) * place // wanted for place in range(wanted)}
    return [
        replace(unit, aa=number in tested and not unit.peer)
        for device in devices
        for number, (problem, group) in enumerate(groups)
        for process in range(processes)
        for unit in _apart(device, process, problem, group)
    ]


def _apart(device: str, process: int, problem: Problem, cases: list[Case]) -> Iterator[Unit]:
    """Ours, then each peer that runs here; one that does not needs no process to say so."""
    peers = [case for case in cases if is_peer(case) and not _refused(case, device)]
    ours = [case for case in cases if case not in peers]
    if ours:
        yield _unit("measure", device, process, problem, ours)
    for case in peers:
        yield replace(_unit("measure", device, process, problem, [case]), peer=case.variant)


def is_peer(case: Case) -> bool:
    """Whether the variant is another's library, of `PEERS`; what is not registered is none."""
    return case.operator in kernels.operators() and case.variant in kernels.variants(case.operator, PEERS)


def _refused(case: Case, device: str) -> str | None:
    return kernels.get(case.operator, case.variant).supports(case.problem, device)


def attribution_units(cases: Iterable[Case], targets: Sequence[str]) -> list[Unit]:
    """A unit for each problem and device."""
    groups = by_problem(cases)
    devices = [target for target in targets if not deviceless(target)]
    return [_unit("attribute", device, 0, problem, group) for device in devices for problem, group in groups]


def shard(cases: Iterable[Case], number: int, count: int) -> tuple[Case, ...]:
    """The `number`-th of `count` parts, from 1: every `count`-th problem with all its variants, which are compared."""
    return tuple(case for _, group in by_problem(cases)[number - 1 :: count] for case in group)


def by_problem(cases: Iterable[Case]) -> list[tuple[Problem, list[Case]]]:
    """Cases grouped by problem, those in 64-bit mode last, else in the order in which they come."""
    groups: dict[Problem, list[Case]] = {}
    for case in cases:
        groups.setdefault(case.problem, []).append(case)
    return sorted(groups.items(), key=lambda item: _is_wide(item[0]))


def _is_wide(problem: Problem) -> bool:
    return "float64" in (problem.dtype, problem.param_dtype)


def _unit(kind: str, target: str, process: int, problem: Problem, cases: list[Case]) -> Unit:
    slug = cases[0].problem_slug
    if len(slug) > LONGEST_NAME:
        slug = f"{slug[:LONGEST_NAME]}-{hashlib.sha256(slug.encode()).hexdigest()[:16]}"
    return Unit(kind, target, process, slug, tuple(case.slug for case in cases), _is_wide(problem))
