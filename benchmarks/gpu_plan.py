"""Which cases are measured on a GPU in a limited time, and in which order: every kind of case before more of any."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.cases import Case

SECONDS_PER_CASE = 1.0
"""Allowed for compiling, checking and timing one case: not measured on a GPU. The deadline holds all the same."""


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
        yield f"{len(self.chosen)} cases of {kinds}; {len(self.left_out)} left out"
        if missed:
            yield f"{len(missed)} kinds have no case within the budget"


def stratum(case: Case) -> tuple[str, str, str, str]:
    """The kind of a case: operator, layout, pass and dtype."""
    return case.operator, case.layout, case.pass_, case.dtype


def plan(cases: Sequence[Case], budget_s: float, seconds_per_case: float = SECONDS_PER_CASE) -> Plan:
    """Takes problems round by round, one of each kind in each round, with all their variants, while the budget lasts.

    The variants of a problem stay together, for they are compared.
    """
    problems: dict[str, list[Case]] = {}
    for case in cases:
        problems.setdefault(case.problem_slug, []).append(case)
    queues: dict[tuple, list[list[Case]]] = {}
    for group in problems.values():
        queues.setdefault(stratum(group[0]), []).append(group)
    order: list[list[Case]] = []
    while any(queues.values()):
        order += [groups.pop(0) for groups in queues.values() if groups]
    chosen: list[Case] = []
    left_out: list[Case] = []
    for group in order:
        fits = (len(chosen) + len(group)) * seconds_per_case <= budget_s
        (chosen if fits and not left_out else left_out).extend(group)
    return Plan(tuple(chosen), tuple(left_out))


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
