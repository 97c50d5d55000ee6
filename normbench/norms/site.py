"""One normalization of a program, and all of them together."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, overload

from normbench.kernels.problem import LAYOUTS, Problem

if TYPE_CHECKING:
    import pandas as pd

    from normbench.norms.replaced import Replaced
    from normbench.norms.variants import Replacement

SHARED, REST = "shared", "everything else"
"""Groups of the accounting beside the sites."""


@dataclass(frozen=True)
class Advice:
    """What to do about a site.

    Attributes:
      action: "cast back", "fold into the convolution", "one-pass or pivoted statistics", "channels last", "a Pallas
        kernel" or "nothing".
      reason: why, with the figures, in a sentence.
      saved_bytes: at most, in one run of the program; 0 for nothing.
    """

    action: str
    reason: str
    saved_bytes: int


@dataclass(frozen=True)
class Site:
    """One normalization: what it is, where it is, and what it moves. Bytes are for all repetitions of a loop.

    Attributes:
      index: place among the sites, in the order of the program.
      kind: "batch", "layer", "rms", "group" or "instance".
      statistics: "computed", or "given" (running statistics at inference).
      shape: of x; axes: those over which the statistics are taken.
      channel_axis, groups: as the kind has them, else None.
      layout: "channels first" or "channels last", where it has channels.
      dtype, output_dtype: of x and of the result; statistics_dtype: of the variance; param_dtype: of the scale.
      epsilon: as it is added to the variance or the root; None where the program is given it.
      masked: whether a mask says of which elements the statistics are taken.
      devices: that add up their sums for the statistics in the program itself, as `shard_map` lets it; else 1.
      activation, residual: what stands around it.
      passes: of "forward", "backward", "rematerialised", those that are in the program.
      scope, source: names of the program's part, and file:line of the caller's own code.
      launches, shared: indices of its own launches, and of those that also compute something else.
      executed: how often its own launches run.
      own_bytes, shared_bytes: what those move.
      least_bytes: what enters and leaves all of them, once each.
      predicted_s, shared_predicted_s: by the model, not measured; None where it knows nothing of the device.
      predicted_range_s: around predicted_s, low and high, as the model's known error leaves it.
      refusals: what the compiler says of not fusing its own launches.
      advice: what to do, the most worthwhile first.
      problem: the same as a problem of the registry; None where it has none, see `why_no_problem`.
      target: what it was compiled for.
    """

    index: int
    kind: str
    statistics: str
    shape: tuple[int, ...]
    axes: tuple[int, ...]
    channel_axis: int | None
    groups: int | None
    layout: str
    dtype: str
    output_dtype: str
    statistics_dtype: str
    param_dtype: str
    epsilon: float | None
    masked: bool
    devices: int
    activation: str
    residual: bool
    passes: tuple[str, ...]
    scope: str
    source: str
    launches: tuple[int, ...]
    shared: tuple[int, ...]
    executed: int
    own_bytes: int
    shared_bytes: int
    least_bytes: int
    predicted_s: float | None
    predicted_range_s: tuple[float, float] | None
    shared_predicted_s: float | None
    refusals: tuple[str, ...]
    advice: tuple[Advice, ...]
    problem: Problem | None
    target: str
    repetitions: int = 1

    @property
    def name(self) -> str:
        """Kind and place, in a few words."""
        return f"{self.kind} norm at {self.source or self.scope or 'an unknown line'}"

    @property
    def why_no_problem(self) -> str:
        """What the registry's operators do not have of it; "" where it has a problem."""
        if self.problem is not None:
            return ""
        if self.masked:
            return "its statistics are those of a mask, an operator's of all elements"
        if self.devices > 1:
            return f"its statistics are those of {self.devices} devices, an operator's of what each of them is given"
        if self.epsilon is None:
            return "its epsilon is an argument of the program, an operator's a number"
        what = f"{self.kind} norm of {list(self.shape)} over axes {list(self.axes)}"
        return f"{what} is no problem of the registry; its operators take layouts {', '.join(LAYOUTS)}"

    def variants(self) -> "pd.DataFrame":
        """The registry's variants for this problem, pass and context, compiled for the same target: a row each with
        status, launches, bytes, predicted_s, and the reason of those that are not supported; the fewest bytes first.

        Raises:
          UserError: where the registry has no such problem.
        """
        from normbench.norms.variants import variants_table

        return variants_table(self)

    def replacement(self) -> "Replacement":
        """The call that would take its place: the variant that is predicted to take least time, or where nothing is
        known of the device the one that moves least, with the shapes and what it would change.

        Raises:
          UserError: where the registry has no such problem.
        """
        from normbench.norms.variants import replacement

        return replacement(self)


@dataclass(frozen=True)
class Norms(Sequence[Site]):
    """The normalizations of a program.

    Attributes:
      name: of the program.
      target: what it was compiled for.
      sites: in the order of the program.
      groups: for each launch the sites that compute in it, and -1 where something else does.
      launch_bytes: of each launch; launch_s: predicted, launch_range_s: around it; None where nothing is known.
      module: the numbered StableHLO module that was compiled, as bytecode.
    """

    name: str
    target: str
    sites: tuple[Site, ...]
    groups: tuple[frozenset[int], ...]
    launch_bytes: tuple[int, ...]
    launch_s: tuple[float | None, ...]
    launch_range_s: tuple[tuple[float, float] | None, ...]
    module: bytes = field(default=b"", repr=False)

    def replaced(self, variants: Mapping[int, str] | None = None) -> "Replaced":
        """Compiles the program again with calls of the registry in the place of sites, and tells what it then moves and
        takes, copies and lost fusions included.

        Args:
          variants: by index of the site the name of a variant; None for the sites where a Pallas kernel is what to do
            first, each with the variant that `replacement()` names where that is worthwhile.

        Raises:
          UserError: for a site or variant that is not there, where there is nothing to replace, or where the program
            does not compile.
        """
        from normbench.norms.replaced import advised, replaced

        return replaced(self, advised(self.sites) if variants is None else variants)

    @overload
    def __getitem__(self, index: int) -> Site: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Site]: ...
    def __getitem__(self, index: int | slice) -> Site | Sequence[Site]:
        return self.sites[index]

    def __len__(self) -> int:
        return len(self.sites)

    def __iter__(self) -> Iterator[Site]:
        return iter(self.sites)

    @property
    def bytes(self) -> int:
        """Of the whole program."""
        return sum(self.launch_bytes)

    @cached_property
    def touching(self) -> tuple[int, ...]:
        """Launches in which a normalization computes."""
        return tuple(i for i, sites in enumerate(self.groups) if sites != {-1})

    @cached_property
    def alone(self) -> tuple[int, ...]:
        """Launches in which nothing but normalizations computes."""
        return tuple(i for i, sites in enumerate(self.groups) if -1 not in sites)

    @property
    def table(self) -> "pd.DataFrame":
        """A row per site."""
        import pandas as pd

        return pd.DataFrame([_row(site) for site in self.sites], columns=list(_COLUMNS))

    @property
    def accounting(self) -> "pd.DataFrame":
        """Where the bytes of the program go: a row per site with its own launches, one for what is shared, one for
        everything else. They add up to the program's launches, bytes and predicted time."""
        import pandas as pd

        rows: dict[int | str, dict[str, Any]] = {site.index: _sum(self, site.launches) for site in self.sites}
        shared = [i for i, sites in enumerate(self.groups) if len(sites) > 1]
        rest = [i for i, sites in enumerate(self.groups) if sites == {-1}]
        rows |= {SHARED: _sum(self, shared), REST: _sum(self, rest)}
        frame = pd.DataFrame(list(rows.values()), index=pd.Index(list(rows), name="group"))
        return frame.assign(share=frame["bytes"] / self.bytes if self.bytes else 0.0)

    def __repr__(self) -> str:
        from normbench.norms.text import norms_text

        return norms_text(self)

    def _repr_html_(self) -> str:
        from normbench.norms.text import norms_html

        return norms_html(self)


def _sum(norms: Norms, launches: Sequence[int]) -> dict[str, Any]:
    return {
        "launches": len(launches),
        "bytes": sum(norms.launch_bytes[i] for i in launches),
        "predicted_s": seconds_of(norms.launch_s, launches),
    }


def seconds_of(launch_s: Sequence[float | None], launches: Sequence[int]) -> float | None:
    """The predicted time of some launches; None where that of one is not known."""
    found = [launch_s[i] for i in launches]
    known = [seconds for seconds in found if seconds is not None]
    return sum(known) if len(known) == len(found) else None


def range_of(
    launch_range_s: Sequence[tuple[float, float] | None], launches: Sequence[int]
) -> tuple[float, float] | None:
    """The range of the predicted time of some launches, low and high; None where that of one is not known."""
    known = [pair for pair in (launch_range_s[i] for i in launches) if pair is not None]
    return (sum(low for low, _ in known), sum(high for _, high in known)) if len(known) == len(launches) else None


_COLUMNS = (
    "kind", "statistics", "shape", "axes", "groups", "layout", "dtype", "output_dtype", "param_dtype", "activation",
    "residual", "passes", "scope", "source", "launches", "shared_launches", "own_bytes", "shared_bytes", "least_bytes",
    "predicted_s", "predicted_range_s", "refusals", "action", "saved_bytes",
)  # fmt: skip


def _row(site: Site) -> dict[str, Any]:
    first = site.advice[0]
    return {
        **{name: getattr(site, name) for name in _COLUMNS if hasattr(site, name)},
        "passes": ",".join(site.passes),
        "launches": len(site.launches),
        "shared_launches": len(site.shared),
        "refusals": len(site.refusals),
        "action": first.action,
        "saved_bytes": first.saved_bytes,
    }
