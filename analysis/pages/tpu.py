"""The table of docs/tpu.md: what is predicted for a TPU7x beside what was published of it.

`python -m analysis.pages.tpu` renews it (needs the extra tpu-targets); `--check` says whether it is up to date.
"""

import csv
import itertools
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax

from analysis.pages.kernels_against_xla import renewed
from analysis.published.programs import layer_norm
from normbench import explain
from normbench.explanation.explain import Report
from normbench.fusion.tpu.chips import CHIPS
from normbench.predict.tpu import RATES

PAGE = Path("docs/tpu.md")
ROWS = Path("results/published/tpu.csv")
BEGIN, END = "<!-- published: begin -->", "<!-- published: end -->"
WIDTH = 120
APART = 1.10
"""Published times that differ by more than this are a pair that a prediction has to order."""


@dataclass(frozen=True)
class Row:
    """A published time beside what the compiled program says; seconds and bytes."""

    shape: str
    residuals: bool
    published_s: float
    report: Report

    @property
    def predicted_s(self) -> float:
        assert self.report.predicted_s is not None
        return self.report.predicted_s

    @property
    def bytes_s(self) -> float:
        assert self.report.bytes_s is not None
        return self.report.bytes_s

    @property
    def cycles(self) -> int:
        return int(self.report.launches.estimated_cycles.sum())


def rows() -> Iterator[Row]:
    """Each published time with its program, compiled."""
    with ROWS.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            shape = tuple(int(size) for size in row["shape"].split("x"))
            residuals = row["residuals"] == "yes"
            parameter = jax.ShapeDtypeStruct(shape[-1:], row["parameter_dtype"])
            function = partial(layer_norm, axis=-1, residuals=residuals)
            report = explain(
                function, jax.ShapeDtypeStruct(shape, row["dtype"]), parameter, parameter, target=row["device"]
            )
            yield Row(row["shape"], residuals, float(row["time_s"]), report)


def ordered(found: Sequence[Row], by: str) -> tuple[int, int]:
    """Of the pairs whose published times differ by more than `APART`, how many a figure orders as they are; and all."""
    pairs = [
        (one, other)
        for one, other in itertools.combinations(found, 2)
        if max(one.published_s, other.published_s) > APART * min(one.published_s, other.published_s)
    ]
    right = [
        (one.published_s < other.published_s) == (getattr(one, by) < getattr(other, by))
        and getattr(one, by) != getattr(other, by)
        for one, other in pairs
    ]
    return sum(right), len(pairs)


def section(found: Sequence[Row]) -> str:
    """The table and what it says."""
    lines = [
        "| x, bfloat16 | statistics | published us | predicted us | published / predicted | by bytes us | cycles |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    lines += [_line(row) for row in found]
    right, pairs = ordered(found, "predicted_s")
    by_bytes, _ = ordered(found, "bytes_s")
    ratios = [row.published_s / row.predicted_s for row in found]
    clocks = [row.cycles / row.published_s / 1e9 for row in found]
    rate = RATES["tpu7x"].cycles_per_s(CHIPS["tpu7x"]) / 1e9
    words = (
        f"Of {pairs} pairs that differ by more than {APART - 1:.0%} the predictions order {right}, bytes over "
        f"bandwidth {by_bytes}. Published over predicted is {min(ratios):.2f} to {max(ratios):.2f}. To take the "
        f"compiler's cycles for cycles of a clock, it would have to run at {min(clocks):.1f} to {max(clocks):.1f} "
        f"GHz; the rate that is taken is {rate:.1f} GHz."
    )
    return "\n".join([*lines, "", *textwrap.wrap(words, WIDTH)])


def _line(row: Row) -> str:
    cells = (
        row.shape,
        "returned" if row.residuals else "no",
        f"{row.published_s * 1e6:.0f}",
        f"{row.predicted_s * 1e6:.1f}",
        f"{row.published_s / row.predicted_s:.2f}",
        f"{row.bytes_s * 1e6:.1f}",
        f"{row.cycles:,}",
    )
    return f"| {' | '.join(cells)} |"


def main() -> int:
    page = PAGE.read_text(encoding="utf-8")
    made = renewed(page, section(list(rows())), BEGIN, END)
    if "--check" in sys.argv[1:]:
        print(f"{PAGE}: {'as it would be made' if made == page else 'not as it would be made'}")
        return int(made != page)
    PAGE.write_text(made, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
