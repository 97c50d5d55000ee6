"""Predicted times of the Pallas kernels beside XLA's best and a copy, over the large problems of `standard`, for H200.

`python -m analysis.pages.kernels_times` renews the table of `docs/kernels.md` out of `results/runs/standard`, and
compiles nothing. With `--anew` the kernels, but not XLA's variants, are compiled as they are now, and the table is
printed: what a change of a kernel comes to before the run is renewed; `--problem` chooses. No time here was measured.
"""

import argparse
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.pages.kernels_against_xla import NOT_THE_SAME, PAGE, RUN, renewed
from normbench.fusion import compile_environment
from normbench.predict.devices import Device, device_of
from normbench.predict.known_error import told_apart
from normbench.schema import PASSES

BEGIN, END = "<!-- times: begin -->", "<!-- times: end -->"
TARGET = "h200"
KERNELS = ("pallas_triton", "pallas_mosaic")
LEAST_BYTES = 16_000_000
"""Of what a problem has to move: below it a launch's start and the L2 cache count for more than the kernel."""
SHARE = {"forward": 0.90, "backward": 0.80, "forward_backward": 0.80}
"""Of a copy's speed that a kernel is asked for, by pass."""
AGAINST_XLA = {"forward": 1.15, "backward": 1.40}
"""What the geometric mean of XLA's best time over the kernels' is asked to come to, by pass."""


@dataclass(frozen=True, slots=True)
class Predicted:
    """One variant of one problem: seconds with the range of the model's known error, and what bounds it, in words."""

    variant: str
    seconds: float
    low_s: float
    high_s: float
    bound: str

    @property
    def range(self) -> tuple[float, float, float]:
        return self.seconds, self.low_s, self.high_s


@dataclass(frozen=True, slots=True)
class Compared:
    """One problem: the best kernel, None where all refuse it, beside XLA's best variant and a copy of the least bytes.

    Attributes:
      problem: its slug; `pass_` is among its words.
      least_bytes: read once and written once, by the variant that keeps least for the backward pass.
      copy_s: of a copy that moves as much.
      reasons: why the kernels that refuse the problem do, by variant.
    """

    problem: str
    pass_: str
    least_bytes: int
    copy_s: float
    xla: Predicted
    kernel: Predicted | None
    reasons: dict[str, str]

    @property
    def share(self) -> float:
        """Of a copy's speed."""
        return self.copy_s / self.kernel.seconds if self.kernel else 0.0

    @property
    def factor(self) -> float:
        """How many times faster than XLA's best."""
        return self.xla.seconds / self.kernel.seconds if self.kernel else 0.0

    @property
    def falls_short(self) -> bool:
        """Whether the best kernel reaches neither the share of a copy that is asked for nor XLA's best."""
        return self.kernel is not None and self.share < SHARE[self.pass_] and self.factor < 1

    @property
    def slower(self) -> bool:
        """Whether the best kernel is slower than XLA's best by more than the model's known error."""
        return self.kernel is not None and self.factor < 1 and told_apart(self.xla.range, self.kernel.range)


def copy_s(size_bytes: int, device: Device) -> float:
    """Seconds of a copy that reads and writes `size_bytes` together: its start and what device memory takes."""
    return device.launch_s + size_bytes / (device.attained * device.memory_bytes_per_s)


def compared(run: Path = RUN, anew: Sequence[str] | None = None) -> tuple[Compared, ...]:
    """The problems that move `LEAST_BYTES` or more, those first where the kernels fall furthest behind XLA.

    Args:
      run: a run of `standard` with predictions for the H200.
      anew: None takes the kernels from the run; else they are compiled for the problems whose slug has one of these
        words, all where there is none, and the other problems are left out.
    """
    from normbench.fusion.targets import deviceless_target
    from normbench.report import load_run

    loaded = load_run(run)
    device = device_of(deviceless_target(TARGET))
    assert device is not None
    rows = loaded.cases.merge(loaded.compiled[loaded.compiled.target == TARGET], on="case")
    bounds = _bounds(loaded.launches[loaded.launches.target == TARGET])
    found = []
    for problem, group in rows.groupby("problem"):
        told = [row for row in group.to_dict("records") if row["status"] == "ok" and row["predicted_s"] > 0]
        plain = [row for row in told if not row["variant"].startswith("pallas") and row["variant"] not in NOT_THE_SAME]
        if not plain or min(row["minimum_bytes"] for row in plain) < LEAST_BYTES:
            continue
        kernels = [row for row in group.to_dict("records") if row["variant"] in KERNELS]
        if not kernels or (anew and not any(word in problem for word in anew)):
            continue
        best, reasons = _of_run(kernels, bounds) if anew is None else _anew(problem)
        least = int(min(row["minimum_bytes"] for row in plain))
        xla = _fastest(_predicted(row, bounds) for row in plain)
        assert xla is not None
        pass_ = next(word for word in problem.split(".") if word in PASSES)
        found.append(Compared(problem, pass_, least, copy_s(least, device), xla, best, reasons))
    return tuple(sorted(found, key=lambda one: (one.factor or math.inf, one.problem)))


def _bounds(launches: Any) -> dict[str, str]:
    """What bounds the longest launch, by case."""
    longest = launches[launches.predicted_s.notna()].sort_values("predicted_s").groupby("case").tail(1)
    return dict(zip(longest.case, longest.bound, strict=True))


def _predicted(row: dict[str, Any], bounds: dict[str, str]) -> Predicted:
    seconds, low_s, high_s = (float(row[name]) for name in ("predicted_s", "predicted_low_s", "predicted_high_s"))
    return Predicted(row["variant"], seconds, low_s, high_s, bounds.get(row["case"], ""))


def _fastest(found: Iterable[Predicted]) -> Predicted | None:
    return min(found, key=lambda one: one.seconds, default=None)


def _of_run(kernels: list[dict[str, Any]], bounds: dict[str, str]) -> tuple[Predicted | None, dict[str, str]]:
    reasons = {row["variant"]: str(row["reason"]) for row in kernels if row["status"] != "ok"}
    return _fastest(_predicted(row, bounds) for row in kernels if row["status"] == "ok"), reasons


def _anew(problem: str) -> tuple[Predicted | None, dict[str, str]]:
    """As `_of_run`, of the kernels as they are now."""
    from normbench import explain, kernels
    from normbench.cases.case import cases

    found, reasons = [], {}
    for case in cases("standard"):
        if case.variant not in KERNELS or case.slug != f"{problem}.{case.variant}":
            continue
        if reason := kernels.get(case.operator, case.variant).supports(case.problem, TARGET):
            reasons[case.variant] = reason
            continue
        program = kernels.program(case.problem, case.variant)
        report = explain(program.function, *program.inputs, target=TARGET)
        bound = max(report.rows, key=lambda row: row["predicted_s"])["bound"]
        low_s, high_s = report.predicted_range_s or (0.0, 0.0)
        found.append(Predicted(case.variant, report.predicted_s or 0.0, low_s, high_s, bound))
        print(f"{case.slug}: {found[-1].seconds * 1e6:.1f} us, {bound}", flush=True)
    return _fastest(found), reasons


def table(rows: Sequence[Compared]) -> str:
    """Geometric means, then problem by problem, and what all kernels refuse."""
    return "\n".join([*_means(rows), "", *_by_problem(rows), "", *_refused(rows)])


def _means(rows: Sequence[Compared]) -> Iterator[str]:
    yield "Geometric means:"
    yield ""
    yield "| pass | problems | against XLA's best | asked | share of a copy | problems that fall short |"
    yield "|---|--:|--:|--:|--:|--:|"
    for pass_ in PASSES:
        kept = [row for row in rows if row.pass_ == pass_ and row.kernel]
        if not kept:
            continue
        asked = f"{AGAINST_XLA[pass_]:.2f} ×" if pass_ in AGAINST_XLA else ""
        factor, share = (_mean(getattr(row, name) for row in kept) for name in ("factor", "share"))
        short = sum(row.falls_short for row in kept)
        yield f"| {pass_} | {len(kept)} | {factor:.2f} × | {asked} | {share:.0%} | {short} |"


def _mean(values: Iterable[float]) -> float:
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs))


def _by_problem(rows: Sequence[Compared]) -> Iterator[str]:
    yield "| problem | copy us | XLA's best | us | best kernel | us | against XLA | share of a copy | what bounds it |"
    yield "|---|--:|---|--:|---|--:|--:|--:|---|"
    for row in rows:
        if row.kernel is None:
            continue
        mark = " (slower)" if row.slower else ""
        words = row.kernel.bound if row.share < SHARE[row.pass_] else ""
        best = f"{row.xla.variant} | {_us(row.xla.seconds)} | {row.kernel.variant} | {_us(row.kernel.seconds)}"
        figures = f"{row.factor:.2f} ×{mark} | {row.share:.0%} | {words}"
        yield f"| `{row.problem}` | {_us(row.copy_s)} | {best} | {figures} |"


def _refused(rows: Sequence[Compared]) -> Iterator[str]:
    refused = [row for row in rows if row.kernel is None]
    yield "Refused by every kernel:" if refused else "None is refused by every kernel."
    yield ""
    for row in refused:
        reasons = "; ".join(f"{variant}: {reason}" for variant, reason in sorted(row.reasons.items()))
        yield f"- `{row.problem}`: {reasons}"


def _us(seconds: float) -> str:
    return f"{seconds * 1e6:.1f}"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m analysis.pages.kernels_times", description=__doc__)
    parser.add_argument("--run", type=Path, default=RUN, help="a run of `standard` (default: %(default)s)")
    parser.add_argument("--anew", action="store_true", help="compile the kernels, and print instead of writing")
    parser.add_argument("--problem", nargs="+", default=[], help="with --anew: words of the problems to compile")
    options = parser.parse_args(arguments)
    if options.problem and not options.anew:
        parser.error("--problem needs --anew: the page has every problem")
    if options.anew:
        os.environ.update(compile_environment())
        print(table(compared(options.run, options.problem)))
        return
    PAGE.write_text(
        renewed(PAGE.read_text(encoding="utf-8"), table(compared(options.run)), BEGIN, END), encoding="utf-8"
    )
    print(PAGE)


if __name__ == "__main__":
    main()
