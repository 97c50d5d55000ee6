"""The preset `peers` on this CPU: our variants beside PyTorch, as a run, a table of choices and a table of the page.

`python -m analysis.pages.cpu` measures in five processes of each variant, keeps the run as `results/runs/peers`, and
makes `normbench/kernels/choices/cpu.json` (what `kernels.best` knows) and the table of `docs/cpu.md` of it. The machine
must have nothing else to do. With `--run RUN` nothing is measured, and what is kept is made of that run.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.pages.kernels_against_xla import renewed
from normbench import kernels
from normbench.cases.case import Case
from normbench.display.units import duration
from normbench.errors import UserError
from normbench.kernels.choice import is_last
from normbench.kernels.registry import sound
from tools.keep_run import keep

if TYPE_CHECKING:
    from normbench.report import Run

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "cpu.md"
KEPT = "peers"
"""The name of the run among those that are kept."""
CHOICES = ROOT / "normbench" / "kernels" / "choices" / "cpu.json"
PROCESSES = 5
TORCH = ("torch_eager", "torch_compile")
MEASURED = ("naive", "prefolded", "custom_vjp", "native", *TORCH)
"""What may count, and the baseline: every library has processes of its own, which take turns as far as memory holds
them, and each has one to three gigabytes."""
CACHES = ("cold", "warm")
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"


@dataclass(frozen=True, slots=True)
class Compared:
    """One problem with one kind of cache: seconds by variant of ours, sound ones alone, and by PyTorch's."""

    problem: str
    ours: dict[str, float]
    torch: dict[str, float]

    @property
    def best(self) -> str:
        return min(self.ours, key=self.ours.__getitem__)

    @property
    def rival(self) -> str:
        return min(self.torch, key=self.torch.__getitem__)

    @property
    def factor(self) -> float:
        """How many times faster the best of ours is than the better of PyTorch's."""
        return self.torch[self.rival] / self.ours[self.best]


def compared(run: "Run", cache: str) -> list[Compared]:
    """The problems that ours and PyTorch's have times of, wall clock, those first where ours falls furthest behind."""
    from normbench.report import summary

    table = summary(run)
    table = table[(table["target"] == "cpu") & (table["status"] == "ok")]
    column = f"wall_{cache}_median_s"
    found = []
    for problem, part in table[table[column].notna()].groupby("problem"):
        times = dict(zip(part["case"].map(Case.from_slug), part[column], strict=True))
        ours = {case.variant: seconds for case, seconds in times.items() if is_sound(case)}
        torch = {case.variant: seconds for case, seconds in times.items() if case.variant in TORCH}
        found.append(Compared(str(problem), ours, torch))
    return sorted((one for one in found if one.ours and one.torch), key=lambda one: one.factor)


def is_sound(case: Case) -> bool:
    """Whether it is a variant of this project's that holds what the baseline does."""
    variant = kernels.get(case.operator, case.variant)
    return case.variant in kernels.variants(case.operator) and variant.excess is sound


def choices(run: "Run") -> dict[str, Any]:
    """What `kernels.best` reads: for each problem the times of our variants over the fastest's, cold."""
    from normbench.report import summary

    table = summary(run)
    table = table[(table["target"] == "cpu") & (table["status"] == "ok") & table["wall_cold_median_s"].notna()]
    rows = []
    for _, part in table.groupby("problem"):
        times = {
            case: seconds
            for case, seconds in zip(part["case"].map(Case.from_slug), part["wall_cold_median_s"], strict=True)
            if is_sound(case)
        }
        if not times:
            continue
        problem, least = next(iter(times)).problem, min(times.values())
        rows.append(
            {
                "operator": problem.operator,
                "pass": problem.pass_,
                "last": is_last(problem),
                "dtype": problem.dtype,
                "elements": math.prod(problem.shape),
                "variants": {case.variant: round(seconds / least, 3) for case, seconds in times.items()},
            }
        )
    return {"environment": _environment(run), "problems": rows}


def _environment(run: "Run") -> dict[str, Any]:
    told = run.info.get("environment", {})
    return {name: told[name] for name in ("cpu", "jax", "torch") if name in told}


def shares(rows: Sequence[Compared]) -> tuple[float, float, float]:
    """The share of problems in which ours is ahead, the geometric mean of the factors, and the least of them.

    Raises:
      UserError: where there is no problem that both have times of.
    """
    if not rows:
        raise UserError("the run has no problem with times of ours and of PyTorch's; is PyTorch installed?")
    factors = [one.factor for one in rows]
    ahead = sum(factor > 1 for factor in factors) / len(factors)
    return ahead, math.exp(sum(map(math.log, factors)) / len(factors)), min(factors)


def table(run: "Run") -> str:
    """The summary, cold and warm, with the A/A floor, and a row per problem, in Markdown."""
    from normbench.report.findings.noise_floor import noise_floors

    floors = noise_floors(run)
    lines = [
        "| cache | problems | ahead of PyTorch's better | geometric mean | least | a program against itself |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    by_cache = {cache: compared(run, cache) for cache in CACHES}
    for cache, rows in by_cache.items():
        ahead, mean, least = shares(rows)
        floor = floors.get(("cpu", "wall", cache))
        told = "–" if floor is None else f"{floor:.1%}"
        lines.append(f"| {cache} | {len(rows)} | {ahead:.1%} | {mean:.2f} | {least:.2f} | {told} |")
    warm = {one.problem: one.factor for one in by_cache["warm"]}
    lines += ["", "| factor, cold | warm | problem | ours | | PyTorch | |", "|--:|--:|---|---|--:|---|--:|"]
    for one in by_cache["cold"]:
        times = duration(one.ours[one.best]), duration(one.torch[one.rival])
        factor = f"{warm[one.problem]:.2f}" if one.problem in warm else "–"
        lines.append(
            f"| {one.factor:.2f} | {factor} | {one.problem} | `{one.best}` | {times[0]} | `{one.rival}` | {times[1]} |"
        )
    return "\n".join(lines)


def measure(out: Path, processes: int) -> Path:
    """Carries out the study and returns its run.

    Raises:
      RuntimeError: where it made none.
    """
    study = ["study", "--preset", "peers", "--target", "cpu", "--variant", *MEASURED, "--processes", str(processes)]
    subprocess.run([sys.executable, "-m", "normbench.cli.main", *study, "--out", str(out)], check=False)
    runs = sorted(out.iterdir()) if out.is_dir() else []
    if not runs:
        raise RuntimeError("the study made no run")
    return runs[-1]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m analysis.pages.cpu", description=__doc__)
    parser.add_argument("--run", type=Path, help="a run of the preset peers, in place of measuring")
    parser.add_argument("--processes", type=int, default=PROCESSES, help="of each variant (default: %(default)s)")
    options = parser.parse_args(arguments)
    from normbench.report import load_run

    with tempfile.TemporaryDirectory() as folder:
        loaded = load_run(keep(options.run or measure(Path(folder), options.processes), KEPT))
    CHOICES.write_text(json.dumps(choices(loaded), indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8"), table(loaded), BEGIN, END), encoding="utf-8")
    print("\n".join(table(loaded).splitlines()[:4]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
