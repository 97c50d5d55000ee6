"""Which launches of the compiled program belong to which normalization.

The compiled instructions know the numbered operations that they were made of. A launch is a site's own where all that
it computes belongs to the site and to the activation or addition around it; where it also computes something else (a
matrix product, another site), it is shared, and belongs to neither side alone.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from normbench.fusion.launches import Launch
from normbench.fusion.program.barriers import written_bytes
from normbench.fusion.program.graph import Program
from normbench.norms.values import Path

REST = -1
"""Stands for whatever is no site."""
_MOVES = frozenset((
    "parameter", "constant", "broadcast", "bitcast", "reshape", "copy", "convert", "transpose", "iota", "tuple",
    "slice", "get-tuple-element", "pad", "concatenate", "dynamic-slice", "dynamic-update-slice",
    "copy-start", "reverse",
))  # fmt: skip


@dataclass(frozen=True)
class Shares:
    """For each launch, in order, the sites that compute in it, and REST where something else does."""

    of: tuple[frozenset[int], ...]

    def own(self, site: int) -> tuple[int, ...]:
        """Launches of this site alone."""
        return tuple(i for i, sites in enumerate(self.of) if sites == {site})

    def shared(self, site: int) -> tuple[int, ...]:
        """Launches of this site and of something else."""
        return tuple(i for i, sites in enumerate(self.of) if site in sites and len(sites) > 1)


def shares(
    program: Program, known: frozenset[Path], members: Sequence[frozenset[Path]], around: Sequence[frozenset[Path]]
) -> Shares:
    """Who computes in each launch.

    Args:
      program: compiled.
      known: paths of all operations; any other (a call that was inlined) tells nothing.
      members: paths of the operations of each site.
      around: paths of what stands around each site: no reason to call a launch shared.
    """
    owners: dict[Path, set[int]] = defaultdict(set)
    for site, paths in enumerate(members):
        for path in paths:
            owners[path].add(site)
    rest = known.difference(owners, *around)
    by_launch: dict[int, list] = defaultdict(list)
    for node in program.nodes:
        if node.launch is not None:
            by_launch[node.launch].append(node)
    found = [_of_launch(launch, by_launch[launch.index], owners, rest) for launch in program.launches]
    return Shares(tuple(_with_neighbours(program, found)))


def _of_launch(
    launch: Launch, nodes: Sequence, owners: Mapping[Path, set[int]], rest: frozenset[Path]
) -> frozenset[int] | None:
    """None where nothing in the launch has a number."""
    working = [node for node in nodes if node.opcode not in _MOVES]
    computing = _labels(working, owners, rest)
    if computing - {REST} or (computing and launch.flops != 0):
        return frozenset(computing)
    moving = _labels([node for node in nodes if node.opcode in _MOVES], owners, rest)
    if computing:
        return frozenset(computing)
    return frozenset(moving) if moving else (frozenset([REST]) if working else None)


def _labels(nodes: Sequence, owners: Mapping[Path, set[int]], rest: frozenset[Path]) -> set[int]:
    found: set[int] = set()
    for node in nodes:
        for path in node.instruction.origins:
            if path in owners:
                found |= owners[path]
            elif path in rest:
                found.add(REST)
    return found


def _with_neighbours(program: Program, found: Sequence[frozenset[int] | None]) -> list[frozenset[int]]:
    """A launch without any number (a copy into another layout) belongs to the one site that reads what it writes."""
    rest = frozenset([REST])
    settled = []
    for launch, sites in zip(program.launches, found, strict=True):
        if sites is None:
            readers = {found[user] or rest for value in launch.results for user in program.users(value)}
            sites = next(iter(readers)) if len(readers) == 1 and len(next(iter(readers))) == 1 else rest
        settled.append(sites)
    return settled


def least_bytes(program: Program, launches: Sequence[int]) -> int:
    """What enters and leaves a set of launches, each value once: the least that they would move if they were one."""
    inside = set(launches)
    entering: dict[int, int] = {}
    leaving = 0
    for index in launches:
        launch = program.launches[index]
        for value, size in launch.reads:
            if program.nodes[value].launch not in inside:
                entering[value] = max(entering.get(value, 0), size * launch.repetitions)
        left = (value for value in launch.results if _leaves(program, value, inside))
        leaving += sum(written_bytes(program, value) * launch.repetitions for value in left)
    return min(bytes_of(program, launches), leaving + sum(entering.values()))


def bytes_of(program: Program, launches: Sequence[int]) -> int:
    """What launches move together."""
    return sum(program.launches[index].read_bytes + program.launches[index].write_bytes for index in launches)


def _leaves(program: Program, value: int, inside: set[int]) -> bool:
    users = program.users(value)
    return value in program.outputs or not users or any(user not in inside for user in users)
