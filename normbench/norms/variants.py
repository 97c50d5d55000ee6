"""The registry's variants for a site, compiled for its target, and the call that would take its place."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from normbench import kernels
from normbench.display.units import count
from normbench.errors import UserError
from normbench.fusion.compilation import lower_with_text
from normbench.fusion.isolation import CompileError, compiler
from normbench.fusion.program.words import megabytes
from normbench.kernels.problem import LAYOUTS, Problem
from normbench.norms.site import Site
from normbench.predict.program import predict

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("variant", "status", "launches", "bytes", "predicted_s", "reason")
_TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Replacement:
    """The call that computes a site's normalization with the variant that moves least.

    Attributes:
      variant: its name in the registry.
      call: Python, with the shapes and dtypes of its arguments.
      bytes, predicted_s: of the variant, compiled alone, for all repetitions of the site.
      saved_bytes, saved_s: own launches of the site less those; negative where it would cost more.
      is_worthwhile: whether it moves fewer bytes than the site's own launches.
      words: the same in a sentence or two.
    """

    variant: str
    call: str
    bytes: int
    predicted_s: float | None
    saved_bytes: int
    saved_s: float | None
    words: str

    @property
    def is_worthwhile(self) -> bool:
        return self.saved_bytes > 0

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
    """The variant that moves least; see `Site.replacement`."""
    problem = _required(site)
    table = site.variants()
    compiled = table[table["status"] == "ok"]
    if compiled.empty:
        raise UserError(
            f"{site.name}: no variant of {problem.operator} compiles for {site.target!r}: {table['reason'][0]}"
        )
    best = compiled.sort_values(["bytes", "predicted_s"], kind="stable").iloc[0]
    moved = int(best["bytes"]) * site.repetitions
    seconds = None if best["predicted_s"] is None else float(best["predicted_s"]) * site.repetitions
    saved_s = None if seconds is None or site.predicted_s is None else site.predicted_s - seconds
    return Replacement(
        variant=best["variant"],
        call=call_of(problem, best["variant"]),
        bytes=moved,
        predicted_s=seconds,
        saved_bytes=site.own_bytes - moved,
        saved_s=saved_s,
        words=_words(site, int(best["launches"]), moved, seconds),
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


def _words(site: Site, launches: int, moved: int, seconds: float | None) -> str:
    own = count(len(site.launches), "launch", "launches")
    now = f"{own} of its own, {megabytes(site.own_bytes)}{_time(site.predicted_s)}"
    then = f"{count(launches, 'launch', 'launches')}, {megabytes(moved)}{_time(seconds)}"
    shared = (
        f"; {len(site.shared)} more launches ({megabytes(site.shared_bytes)}) also compute something else and stay"
        if site.shared
        else ""
    )
    return f"now {now}; then {then}{shared}."


def _time(seconds: float | None) -> str:
    return "" if seconds is None else f", predicted (not measured) {seconds * 1e6:.1f} us"


def _required(site: Site) -> Problem:
    if site.problem is None:
        raise UserError(
            f"{site.name}: {site.kind} norm of {list(site.shape)} over axes {list(site.axes)} is no problem of the "
            f"registry; its operators take layouts {', '.join(LAYOUTS)}"
        )
    return site.problem


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
        "predicted_s": predict(reading, target).seconds,
        "reason": "",
    }
