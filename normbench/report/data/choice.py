"""Recommendations side by side: a row per problem or operator and pass, a column per set of targets that agree."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from normbench.display.units import relative
from normbench.report.data.frames import Run
from normbench.report.data.recommendation import BASES, BY_PASS, Contender, Recommendation

BY_PROBLEM = ("operator", "pass", "context", "shape", "layout", "dtype", "param_dtype", "options")
FEW = 8
"""Up to so many problems, each is answered for itself."""


@dataclass(frozen=True)
class Choice:
    """What to use for one group on targets that agree.

    Attributes:
      targets: where.
      basis: of `normbench.report.data.recommendation.BASES`.
      variant: what to use.
      ratio: its time, or bytes, over the baseline's, lowest to highest of the targets; empty for the baseline itself.
      tied: whether others are as good, within the noise or the model's error.
      rival: the other variant to know of: the best of those tied, else the next.
      rival_ratio: its own, over the baseline's.
    """

    targets: tuple[str, ...]
    basis: str
    variant: str
    ratio: str
    tied: bool
    rival: str
    rival_ratio: str

    @property
    def short(self) -> str:
        """pallas_triton 0.46-0.50 ~"""
        return " ".join(filter(None, (self.variant, self.ratio, "~" if self.tied else "")))

    @property
    def long(self) -> str:
        """naive ~ folded 0.96, or: naive, next welford 1.20."""
        return self._beside(f"{self.rival} {self.rival_ratio}")

    @property
    def medium(self) -> str:
        """naive ~ 0.96, or: naive, next 1.20."""
        return self._beside(self.rival_ratio)

    def _beside(self, rival: str) -> str:
        start = " ".join(filter(None, (self.variant, self.ratio)))
        if not self.rival:
            return start
        return f"{start} ~ {rival}" if self.tied else f"{start}, next {rival}"


def grouping(run: Run) -> tuple[str, ...]:
    """Each problem by itself where there are few of them, else by operator and pass."""
    return BY_PROBLEM if run.cases["problem"].nunique() <= FEW else BY_PASS


def group_name(group: tuple[str, ...]) -> str:
    """batch norm, forward; and of a single problem its context, shape, layout, dtypes and options."""
    operator, pass_, *rest = group
    words = [operator.replace("_", " "), PASS_WORDS.get(pass_, pass_)]
    if rest:
        context, shape, layout, dtype, param_dtype, options = rest
        words += [f"{shape} {layout}", dtype if dtype == param_dtype else f"{dtype} ({param_dtype} parameters)"]
        words += [word for word in (context, options) if word not in ("alone", "", "<NA>", "nan")]
    return ", ".join(words)


PASS_WORDS = {"forward": "forward", "backward": "backward", "forward_backward": "both"}


def by_group(told: Sequence[Recommendation]) -> dict[tuple[str, ...], list[Recommendation]]:
    groups: dict[tuple[str, ...], list[Recommendation]] = {}
    for one in told:
        groups.setdefault(one.group, []).append(one)
    return groups


def columns_of(told: Sequence[Recommendation]) -> tuple[tuple[str, ...], ...]:
    """Targets of which the same kind of thing is known, measured or predicted times or bytes, share a column."""
    known: dict[str, dict[str, None]] = {}
    for one in told:
        known.setdefault(one.target, {})[one.basis] = None
    columns: dict[frozenset[str], list[str]] = {}
    for target, bases in known.items():
        columns.setdefault(frozenset(bases), []).append(target)
    return tuple(map(tuple, columns.values()))


def bases_of(told: Sequence[Recommendation], column: Sequence[str]) -> tuple[str, ...]:
    """What the recommendations of a column rest on."""
    found = {one.basis for one in told if one.target in column}
    return tuple(basis for basis in BASES if basis in found)


def choices(group: Sequence[Recommendation], column: Sequence[str]) -> list[Choice]:
    """What to use for one group on the targets of a column: one for all that share an answer, the most common first."""
    same: dict[tuple[str, str], list[Recommendation]] = {}
    for one in group:
        if one.target in column:
            same.setdefault((one.basis, one.variant), []).append(one)
    return sorted(map(_choice, same.values()), key=lambda choice: -len(choice.targets))


def _choice(mine: Sequence[Recommendation]) -> Choice:
    first = mine[0]
    tied = any(one.alike for one in mine)
    rivals = _alike if tied else _worse
    name = _best_name(mine, rivals)
    ratio = "" if first.variant == first.baseline else _span([one.chosen.ratio for one in mine])
    found = [each.ratio for one in mine for each in rivals(one) if each.variant == name]
    targets = tuple(one.target for one in mine)
    return Choice(targets, first.basis, first.variant, ratio, tied, name, _span(found) if found else "")


def _alike(one: Recommendation) -> Sequence[Contender]:
    return one.alike


def _worse(one: Recommendation) -> Sequence[Contender]:
    return [each for each in one.others if not each.reason and each.ratio > one.chosen.ratio]


def _best_name(mine: Sequence[Recommendation], rivals: Callable[[Recommendation], Sequence[Contender]]) -> str:
    """The rival with the lowest geometric mean over the targets that have the most of them."""
    logs: dict[str, list[float]] = {}
    for one in mine:
        for each in rivals(one):
            logs.setdefault(each.variant, []).append(math.log(each.ratio))
    return min(logs, key=lambda name: (-len(logs[name]), sum(logs[name]) / len(logs[name])), default="")


def _span(ratios: Sequence[float]) -> str:
    low, high = relative(min(ratios)), relative(max(ratios))
    return low if low == high else f"{low}-{high}"
