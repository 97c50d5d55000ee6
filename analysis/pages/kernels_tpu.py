"""The bytes of HBM that the Pallas kernels for TPUs move, over the preset `standard`, beside XLA's, as data and a page.

`python -m analysis.pages.kernels_tpu` compiles `pallas_tpu` for v6e and TPU7x with the installed libtpu, which needs no
TPU and takes minutes, renews `results/kernels/pallas_tpu.csv` and the table of `docs/kernels.md`, and fails where
a problem that is supported moves more than 1.05 of the least. XLA's bytes, of `naive` and `custom_vjp` on v6e, take
half an hour: they are those of the file where it has them, unless `--anew` is given. `--page` makes the page of it.
"""

import argparse
import csv
import io
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from analysis.pages.kernels_against_xla import problems, renewed
from analysis.pages.tpu_traffic import blocks_again, least_bytes, moved_bytes

PATH = Path("results/kernels/pallas_tpu.csv")
PAGE = Path("docs/kernels.md")
BEGIN, END = "<!-- tpu: begin -->", "<!-- tpu: end -->"
VARIANT = "pallas_tpu"
TARGETS = ("v6e", "tpu7x")
XLA_TARGET = TARGETS[0]
XLA = ("naive", "custom_vjp")
MOST_OF_LEAST = 1.05


@dataclass(frozen=True, slots=True)
class Row:
    """One problem on one target: bytes across HBM by the kernels, and the least of their program; and XLA's, of that of
    `XLA` whose share is smaller, 0 where none was compiled; or the reason why the kernels refuse it."""

    problem: str
    target: str
    moved_bytes: int
    least_bytes: int
    xla_bytes: int
    xla_least_bytes: int
    reason: str

    @property
    def share(self) -> float:
        return self.moved_bytes / self.least_bytes

    @property
    def xla_share(self) -> float:
        return self.xla_bytes / self.xla_least_bytes


def compiled(known: Mapping[tuple[str, str], Row], words: Sequence[str] = ()) -> Iterator[Row]:
    """Each problem on each target, anew where its slug has all of the words; XLA's bytes are those that are known."""
    from normbench import kernels

    for target in TARGETS:
        for case in problems(VARIANT):
            slug = case.slug.removesuffix(f".{VARIANT}")
            old = known.get((slug, target))
            if old and not all(word in slug for word in words):
                yield old
            elif reason := kernels.get(case.operator, VARIANT).supports(case.problem, target):
                yield Row(slug, target, 0, 0, 0, 0, reason)
            else:
                moved, least = counted(case.problem, VARIANT, target)
                yield Row(slug, target, moved, least, *_of_xla(case.problem, target, old), "")


def _of_xla(problem: Any, target: str, old: Row | None) -> tuple[int, int]:
    from normbench import kernels

    if old and old.xla_bytes:
        return old.xla_bytes, old.xla_least_bytes
    if target != XLA_TARGET:
        return 0, 0
    names = [name for name in XLA if name in kernels.variants(problem.operator)]
    return min((counted(problem, name, target) for name in names), key=lambda found: found[0] / found[1])


def counted(problem: Any, variant: str, target: str) -> tuple[int, int]:
    """Bytes that cross HBM, and the least of them, by the text of the compiled program, and by what the kernels bring
    of one array more than once."""
    from normbench import explain, kernels

    program = kernels.program(problem, variant)
    text = explain(program.function, *program.inputs, target=target).hlo
    return moved_bytes(text) + blocks_again(program.function, *program.inputs), least_bytes(text)


def write(rows: Sequence[Row], path: Path = PATH) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.getvalue(), encoding="utf-8")


def read(path: Path = PATH) -> tuple[Row, ...]:
    if not path.exists():
        return ()
    with path.open(encoding="utf-8", newline="") as file:
        return tuple(
            Row(
                row["problem"],
                row["target"],
                int(row["moved_bytes"]),
                int(row["least_bytes"]),
                int(row["xla_bytes"]),
                int(row["xla_least_bytes"]),
                row["reason"],
            )
            for row in csv.DictReader(file)
        )


def section(rows: Sequence[Row]) -> str:
    """By operator, pass and context: the ranges of the shares; then what is refused, by reason."""
    lines = ["| operator | pass | context | problems | v6e | TPU7x | XLA, v6e |", "|---|---|---|--:|--:|--:|--:|"]
    groups: dict[tuple[str, str, str], dict[str, list[Row]]] = {}
    for row in rows:
        operator, context, *others = row.problem.split(".")
        pass_ = next(part for part in others if part in ("forward", "backward", "forward_backward"))
        key = operator, pass_, context if context == "residual" else "any other"
        if row.moved_bytes:
            groups.setdefault(key, {target: [] for target in TARGETS})[row.target].append(row)
    for key, found in sorted(groups.items()):
        ours = [range_of([row.share for row in found[target]]) for target in TARGETS]
        theirs = range_of([row.xla_share for row in found[XLA_TARGET] if row.xla_bytes])
        lines.append(f"| {' | '.join(key)} | {len(found[XLA_TARGET])} | {' | '.join(ours)} | {theirs} |")
    words = []
    for target in TARGETS:
        kept = [row for row in rows if row.target == target and row.moved_bytes]
        within = sum(row.share <= MOST_OF_LEAST for row in kept)
        worst = max((row.share for row in kept), default=0.0)
        refused = sum(bool(row.reason) for row in rows if row.target == target)
        words.append(
            f"- {target}: {within} of {len(kept)} problems move at most {MOST_OF_LEAST} × the least, the worst "
            f"{worst:.3f} ×; {refused} are refused."
        )
    return "\n".join([*lines, "", *words])


def range_of(shares: Sequence[float]) -> str:
    ends = [f"{share:.2f}" for share in (min(shares, default=0), max(shares, default=0))]
    return ("–" if not shares else ends[0]) if ends[0] == ends[1] else " to ".join(ends)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m analysis.pages.kernels_tpu", description=__doc__)
    parser.add_argument("words", nargs="*", help="parts of a slug: only problems that have all of them are compiled")
    parser.add_argument("--anew", action="store_true", help="XLA's programs are compiled anew, too")
    parser.add_argument("--page", action="store_true", help="make the page out of the file, and compile nothing")
    options = parser.parse_args(arguments)
    rows = read()
    if not options.page:
        known = {} if options.anew else {(row.problem, row.target): row for row in rows}
        rows = tuple(compiled(known, options.words))
        write(rows)
    PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8"), section(rows), BEGIN, END), encoding="utf-8")
    more = [row for row in rows if row.moved_bytes and row.share > MOST_OF_LEAST]
    print(
        "\n".join(f"{row.problem} on {row.target}: {row.share:.3f} of the least" for row in more) or f"{len(rows)} rows"
    )
    return 1 if more else 0


if __name__ == "__main__":
    sys.exit(main())
