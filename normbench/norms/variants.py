"""The registry's variants for a site, compiled for its target, and the call that would take its place."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from normbench import kernels
from normbench.display.units import count, predicted_text
from normbench.errors import UserError
from normbench.fusion.compilation import lower_with_text
from normbench.fusion.isolation import CompileError, compiler
from normbench.fusion.program.words import megabytes
from normbench.kernels.problem import Problem
from normbench.norms.site import Site
from normbench.predict.program import predict

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "variant", "status", "launches", "bytes", "predicted_s", "predicted_low_s", "predicted_high_s", "reason",
)  # fmt: skip
_TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Replacement:
    """The call that computes a site's normalization with the variant that is predicted to take least time.

    Attributes:
      variant: its name in the registry.
      call: Python, with the shapes and dtypes of its arguments.
      bytes, predicted_s: of the variant, compiled alone, for all repetitions of the site.
      predicted_range_s: around predicted_s, low and high.
      saved_bytes, saved_s: own launches of the site less those; negative where it would cost more.
      is_worthwhile: whether it is predicted to take less time than the site's own launches, or where nothing is known
        of the device, whether it moves less.
      words: the same in a sentence or two.
    """

    variant: str
    call: str
    bytes: int
    predicted_s: float | None
    predicted_range_s: tuple[float, float] | None
    saved_bytes: int
    saved_s: float | None
    words: str

    @property
    def is_worthwhile(self) -> bool:
        return self.saved_bytes > 0 if self.saved_s is None else self.saved_s > 0

    def __repr__(self) -> str:
        return f"{self.call}\n{self.words}"


def variants_table(site: Site) -> "pd.DataFrame":
    """A row per variant of the site's operator; see `Site.variants`."""
    import pandas as pd

    problem = _required(site)
    rows = [_row(problem, name, site.target) for name in kernels.variants(problem.operator)]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    return frame.sort_values("bytes", kind="stable", na_position="last", ignore_index=True)


def replacement(site: Site) -> Replacement:
    """The variant that takes least; see `Site.replacement`."""
    problem = _required(site)
    table = site.variants()
    compiled = table[table["status"] == "ok"]
    if compiled.empty:
        raise UserError(
            f"{site.name}: no variant of {problem.operator} compiles for {site.target!r}: {table['reason'][0]}"
        )
    best = compiled.sort_values(["predicted_s", "bytes"], kind="stable").iloc[0]
    moved = int(best["bytes"]) * site.repetitions
    seconds, low_s, high_s = (_all(best[name], site) for name in ("predicted_s", "predicted_low_s", "predicted_high_s"))
    around = None if low_s is None or high_s is None else (low_s, high_s)
    saved_s = None if seconds is None or site.predicted_s is None else site.predicted_s - seconds
    return Replacement(
        variant=best["variant"],
        call=call_of(problem, best["variant"]),
        bytes=moved,
        predicted_s=seconds,
        predicted_range_s=around,
        saved_bytes=site.own_bytes - moved,
        saved_s=saved_s,
        words=_words(site, int(best["launches"]), moved, seconds, around),
    )


def call_of(problem: Problem, variant: str) -> str:
    """The call in Python, and what its arguments are."""
    definition = kernels.operator(problem.operator)
    arguments = definition.arguments(problem)
    keywords = ", ".join(f"{name}={value!r}" for name, value in definition.keywords(problem).items())
    names = ", ".join(argument.name for argument in arguments)
    shapes = ", ".join(f"{a.name} {a.dtype}[{','.join(str(size) for size in a.shape)}]" for a in arguments)
    joined = ", ".join(part for part in (names, keywords) if part)
    return f'normbench.kernels.get("{problem.operator}", "{variant}")({joined})  # {shapes}'


def _all(seconds: float | None, site: Site) -> float | None:
    """For all repetitions of the site."""
    return None if seconds is None or math.isnan(seconds) else float(seconds) * site.repetitions


def _words(site: Site, launches: int, moved: int, seconds: float | None, around: tuple[float, float] | None) -> str:
    own = count(len(site.launches), "launch", "launches")
    now = f"{own} of its own, {megabytes(site.own_bytes)}{_time(site.predicted_s, site.predicted_range_s)}"
    then = f"{count(launches, 'launch', 'launches')}, {megabytes(moved)}{_time(seconds, around)}"
    shared = (
        f"; {len(site.shared)} more launches ({megabytes(site.shared_bytes)}) also compute something else and stay"
        if site.shared
        else ""
    )
    return f"now {now}; then {then}{shared}."


def _time(seconds: float | None, around: tuple[float, float] | None) -> str:
    return "" if seconds is None else f", {predicted_text(seconds, around)}"


def _required(site: Site) -> Problem:
    if site.problem is None:
        raise UserError(f"{site.name}: {site.why_no_problem}")
    return site.problem


@lru_cache(maxsize=512)  # a model has the same problem many times
def _row(problem: Problem, name: str, target: str) -> dict[str, Any]:
    reason = kernels.get(problem.operator, name).supports(problem, target)
    if reason is not None:
        return {"variant": name, "status": "unsupported", "reason": reason}
    try:
        program = kernels.program(problem, name)
        bytecode, _ = lower_with_text(program.function, program.inputs, target)
        compilation = compiler(target).compile(bytecode, target, 0.0, _TIMEOUT_S)
    except (CompileError, UserError, NotImplementedError, ValueError) as error:
        return {"variant": name, "status": "failed", "reason": str(error).splitlines()[0][:200]}
    reading = compilation.reading
    return {
        "variant": name,
        "status": "ok",
        "launches": len(reading.launches),
        "bytes": reading.bytes,
        **predict(reading, target).columns(),
        "reason": "",
    }
