"""Which cases are measured on a GPU in a limited time, and in which order: every kind of case before more of any."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from normbench import kernels
from normbench.cases.case import Case
from normbench.kernels.registry import PEERS

SECONDS_PER_CASE = 1.5
"""Allowed for compiling, checking and timing one case: not measured on a GPU. The deadline holds all the same."""
MEASURED_SHARE = 0.8
"""Of the budget; the rest is for the time launch by launch, which comes last."""
VARIANTS_AT_FIRST = 4
"""Of the first problem of each kind: the baseline, hand-written kernels, peers that run here, then the others."""


@dataclass(frozen=True)
class Plan:
    """What is measured, in this order, and what is left out for lack of time."""

    chosen: tuple[Case, ...]
    left_out: tuple[Case, ...]

    def lines(self) -> Iterator[str]:
        """The plan in words, a case a line."""
        for number, case in enumerate(self.chosen, 1):
            yield f"{number:>5}  {case.slug}"
        strata = len({stratum(case) for case in self.chosen})
        missed = {stratum(case) for case in self.left_out} - {stratum(case) for case in self.chosen}
        kinds = f"{strata} kinds (operator, layout, pass, dtype)"
        refused = sum(not runs(case) for case in self.chosen)
        none = f", {refused} of them not supported on a GPU" if refused else ""
        yield f"{len(self.chosen)} cases of {kinds}{none}; {len(self.left_out)} left out"
        if missed:
            yield f"{len(missed)} kinds have no case within the budget"


def stratum(case: Case) -> tuple[str, str, str, str]:
    """The kind of a case: operator, layout, pass and dtype."""
    return case.operator, case.layout, case.pass_, case.dtype


def runs(case: Case) -> bool:
    """Whether the variant supports the case on a GPU; what it does not costs no time."""
    return kernels.get(case.operator, case.variant).supports(case.problem, "gpu") is None


def with_peers(cases: Sequence[Case]) -> tuple[Case, ...]:
    """The cases, and those of every peer for the same problems; of a peer that does not run here only the first of
    each operator, which tells why."""
    found: dict[str, list[Case]] = {}
    for case in cases:
        found.setdefault(case.problem_slug, []).append(case)
    told: set[tuple[str, str]] = set()
    for group in found.values():
        first, named = group[0], {case.variant for case in group}
        for name in kernels.variants(first.operator, PEERS):
            peer = Case(first.problem, name, first.model)
            if name not in named and (runs(peer) or (first.operator, name) not in told):
                group.append(peer)
                told |= set() if runs(peer) else {(first.operator, name)}
    return tuple(case for group in found.values() for case in group)


def plan(cases: Sequence[Case], budget_s: float, seconds_per_case: float = SECONDS_PER_CASE) -> Plan:
    """Takes one problem of each kind with its most telling variants, then their other variants, then, round by round,
    one more problem of each kind with all its variants, while the budget lasts.

    The variants of a problem stay together, for they are compared.
    """
    problems: dict[str, list[Case]] = {}
    for case in cases:
        problems.setdefault(case.problem_slug, []).append(case)
    queues: dict[tuple, list[list[Case]]] = {}
    for group in problems.values():
        queues.setdefault(stratum(group[0]), []).append(group)
    rounds: list[list[list[Case]]] = []
    while any(queues.values()):
        rounds.append([_most_telling_first(groups.pop(0)) for groups in queues.values() if groups])
    first = rounds[0] if rounds else []
    pieces = [group[:VARIANTS_AT_FIRST] for group in first] + [group[VARIANTS_AT_FIRST:] for group in first]
    pieces += [group for later in rounds[1:] for group in later]
    taken, left_s = 0, MEASURED_SHARE * budget_s
    for piece in pieces:
        left_s -= seconds_per_case * sum(map(runs, piece))
        if left_s < 0:
            break
        taken += 1
    chosen, left_out = ([case for piece in part for case in piece] for part in (pieces[:taken], pieces[taken:]))
    return Plan(_by_problem(chosen), tuple(left_out))


def without(chosen: Plan, wrong: Collection[tuple[str, str]]) -> Plan:
    """The plan without the variants of operators that are known to be wrong on the device, whose cases are left out."""
    right = tuple(case for case in chosen.chosen if (case.operator, case.variant) not in wrong)
    dropped = tuple(case for case in chosen.chosen if (case.operator, case.variant) in wrong)
    return Plan(right, (*dropped, *chosen.left_out))


def _most_telling_first(group: list[Case]) -> list[Case]:
    baseline = kernels.variants(group[0].operator)[0]
    peers = kernels.variants(group[0].operator, PEERS)

    def rank(case: Case) -> int:
        telling = (case.variant == baseline, case.variant.startswith("pallas"), case.variant in peers and runs(case))
        return telling.index(True) if any(telling) else len(telling)

    return sorted(group, key=rank)


def _by_problem(cases: list[Case]) -> tuple[Case, ...]:
    """The problems in the order in which they first come, the variants of each beside each other."""
    problems: dict[str, list[Case]] = {}
    for case in cases:
        problems.setdefault(case.problem_slug, []).append(case)
    return tuple(case for group in problems.values() for case in group)


def seconds(budget: str) -> float:
    """Reads "8m", "480s" or "480" as seconds.

    Raises:
      ValueError: for anything else, or nothing above 0.
    """
    unit = {"s": 1.0, "m": 60.0, "h": 3600.0}.get(budget[-1:])
    value = float(budget[:-1]) * unit if unit else float(budget)
    if not 0 < value < float("inf"):
        raise ValueError(budget)
    return value
