"""The traffic of the Pallas Triton kernels against XLA's best pure-JAX variant, over the preset `standard`, as data.

`python -m analysis.pages.kernels_against_xla` renews `results/kernels/against_xla.csv` for the H200 and the tables of
`docs/kernels.md`, and needs no GPU. What the kernels declare is read off the traced program; XLA's bytes are those of
the run in `results/runs/standard`, and compiled anew for problems that are not in it.
"""

import argparse
import csv
import io
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from normbench.fusion import compile_environment

PATH = Path("results/kernels/against_xla.csv")
RUN = Path("results/runs/standard")
PAGE = Path("docs/kernels.md")
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
NOT_THE_SAME = ("flax", "jax_nn", "naive_promoting", "prefolded")
"""Variants of other projects, of another output, or with work done ahead."""

EQUAL = 0.995
"""Of XLA's bytes, what counts as equal: kernels and XLA both leave partial sums, of at most 2 % of x, and cut them
differently; on the H200 they stay in the L2 cache."""


@dataclass(frozen=True, slots=True)
class Against:
    """One problem of `standard`: bytes of the kernels, of XLA's best variant and of the textbook formula; or the reason
    why the kernels refuse it."""

    problem: str
    kernel_bytes: int | None
    xla_variant: str
    xla_bytes: int
    naive_bytes: int
    reason: str

    @property
    def factor(self) -> float | None:
        """Of XLA's bytes to those of the kernels: how many times less they move."""
        return None if self.kernel_bytes is None else self.xla_bytes / self.kernel_bytes


def problems(variant: str = "pallas_triton") -> Iterator[Any]:
    """The cases of `standard` by the kernels, whose x has elements."""
    import math

    from normbench.cases.case import cases

    return (case for case in cases("standard", variants=(variant,)) if math.prod(case.shape))


def kernel_bytes(problem: Any) -> int:
    """What the kernels declare, and what is done around them, each operation for itself, as read and written once."""
    import jax

    from normbench import kernels

    program = kernels.program(problem, "pallas_triton")
    return sum(_declared(jax.make_jaxpr(program.function)(*program.inputs).jaxpr, problem))


def _declared(jaxpr: Any, problem: Any) -> Iterator[int]:
    import math

    size = math.prod(problem.shape)
    for equation in jaxpr.eqns:
        if equation.primitive.name == "pallas_call":
            if not equation.params["interpret"]:
                yield equation.params["cost_estimate"].bytes_accessed
            continue
        inner = list(_inner(equation))
        for one in inner:
            yield from _declared(one, problem)
        if not inner and equation.primitive.name not in ("reshape", "copy"):
            arrays = [v.aval for v in (*equation.invars, *equation.outvars) if getattr(v.aval, "size", 0) == size]
            yield sum(array.size * array.dtype.itemsize for array in arrays)


def _inner(equation: Any) -> Iterator[Any]:
    for value in equation.params.values():
        for one in value if isinstance(value, (tuple, list)) else (value,):
            jaxpr = getattr(one, "jaxpr", one)
            if hasattr(jaxpr, "eqns"):
                yield jaxpr


def of_xla(run: Path) -> dict[str, dict[str, int]]:
    """By problem and variant, the bytes of XLA's programs in a run."""
    from normbench.report import load_run

    loaded = load_run(run)
    rows = loaded.cases.merge(loaded.compiled, on="case")
    found: dict[str, dict[str, int]] = {}
    for row in rows[(rows.target == "h200") & (rows.status == "ok")].itertuples():
        if not row.variant.startswith("pallas") and row.variant not in NOT_THE_SAME:
            found.setdefault(row.case.removesuffix(f".{row.variant}"), {})[row.variant] = int(row.bytes)
    return found


def _compiled(case: Any) -> dict[str, int]:
    from normbench import explain, kernels

    found = {}
    for name in kernels.variants(case.operator):
        if name.startswith("pallas") or name in NOT_THE_SAME:
            continue
        program = kernels.program(case.problem, name)
        found[name] = explain(program.function, *program.inputs, target="h200").bytes
    return found


def quicker(variant: str) -> frozenset[str]:
    """The problems of which a kernel is predicted to take less time than XLA's best: there it may move more."""
    from normbench.kernels.pallas.left_to_xla import predictions

    lines = (one for of_program in predictions().values() for one in of_program)
    return frozenset(one.problem for one in lines if one.variant == variant and one.kernel_s < one.xla_s)


def compared(run: Path = RUN) -> tuple[Against, ...]:
    from normbench import kernels

    known, found = of_xla(run), []
    for case in problems():
        slug = case.slug.removesuffix(f".{case.variant}")
        sizes = known.get(slug) or _compiled(case)
        best = min(sizes, key=lambda name: (sizes[name], name))
        reason = kernels.get(case.operator, case.variant).supports(case.problem, "h200") or ""
        moved = None if reason else kernel_bytes(case.problem)
        found.append(Against(slug, moved, best, sizes[best], sizes["naive"], reason))
    return tuple(found)


def write(rows: tuple[Against, ...], path: Path = PATH) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Against)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.getvalue(), encoding="utf-8")


def read(path: Path = PATH) -> tuple[Against, ...]:
    with path.open(encoding="utf-8", newline="") as file:
        return tuple(
            Against(
                row["problem"],
                int(row["kernel_bytes"]) if row["kernel_bytes"] else None,
                row["xla_variant"],
                int(row["xla_bytes"]),
                int(row["naive_bytes"]),
                row["reason"],
            )
            for row in csv.DictReader(file)
        )


def table(rows: tuple[Against, ...]) -> str:
    """By operator and pass: the range of the factors, and how many problems are refused; then these with the reason."""
    lines = ["| operator | pass | problems | refused | against XLA's best | against the textbook formula |"]
    lines.append("|---|---|--:|--:|--:|--:|")
    groups: dict[tuple[str, str], list[Against]] = {}
    for row in rows:
        passes = [part for part in row.problem.split(".") if part in ("forward", "backward", "forward_backward")]
        groups.setdefault((row.problem.split(".")[0], passes[0]), []).append(row)
    for (operator, pass_), group in sorted(groups.items()):
        kept = [row for row in group if row.kernel_bytes]
        best = range_of([row.xla_bytes / row.kernel_bytes for row in kept if row.kernel_bytes])
        naive = range_of([row.naive_bytes / row.kernel_bytes for row in kept if row.kernel_bytes])
        refused = len(group) - len(kept)
        lines.append(f"| {operator} | {pass_} | {len(group)} | {refused} | {best} | {naive} |")
    lines += ["", "Refused:", ""]
    lines += [f"- `{row.problem}`: {row.reason}" for row in rows if row.reason]
    return "\n".join(lines)


def range_of(factors: list[float]) -> str:
    """The least and the greatest, as times."""
    # No line of a narrow table begins with a sign.
    return f"{min(factors):.2f}\u00a0–\u00a0{max(factors):.2f}\u00a0×" if factors else "–"


def renewed(page: str, text: str, begin: str = BEGIN, end: str = END) -> str:
    """The page with `text` between its two marks."""
    before, rest = page.split(begin)
    return f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m analysis.pages.kernels_against_xla", description=__doc__)
    parser.add_argument("--run", type=Path, default=RUN, help="where XLA's bytes are (default: %(default)s)")
    options = parser.parse_args(arguments)
    os.environ.update(compile_environment())
    rows = compared(options.run)
    write(rows)
    PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8"), table(rows)), encoding="utf-8")
    allowed = quicker("pallas_triton")
    more = [row for row in rows if row.factor is not None and row.factor < EQUAL and row.problem not in allowed]
    print("\n".join(f"{row.problem} moves more than XLA: {row.factor:.3f}" for row in more) or f"{len(rows)} problems")
    return 1 if more else 0


if __name__ == "__main__":
    sys.exit(main())
