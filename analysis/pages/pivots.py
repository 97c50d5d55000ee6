"""Where the one-read variance around a pivot holds, and where it does not: errors against float64, on hard data.

`python -m analysis.pages.pivots` writes `results/accuracy/pivots.csv`, and `docs/pivot.md` from it. The data are
small, so that it takes a minute on a CPU; the error does not depend on the device but for the order of its sums.
"""

import csv
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from normbench import kernels
from normbench.kernels import Problem
from normbench.study.check.accuracy import compare
from normbench.study.check.inputs import draw

RESULTS = Path("results/accuracy/pivots.csv")
PAGE = Path("docs/pivot.md")
VARIANTS = ("naive", "one_pass", "pivoted", "custom_vjp", "welford")
COLUMNS = ("operator", "data", "dtype", "pivot_distance", "variant", "max_abs", "max_rel", "max_ulp")
NEAR = 4.0
"""Deviations between pivot and mean up to which a pivot counts as near."""

PROBLEMS = (
    Problem("batch_norm_training", (16, 8, 16, 16), epsilon=1e-9),
    Problem("layer_norm", (64, 1024), "nc", epsilon=1e-9),
    Problem("group_norm", (4, 32, 16, 16), epsilon=1e-9, options=(("groups", 4),)),
    Problem("instance_norm", (4, 8, 32, 32), epsilon=1e-9),
)


@dataclasses.dataclass(frozen=True, slots=True)
class Data:
    """Data of one kind: normal values with this mean and deviation, and where the pivot lies.

    Attributes:
      name: what is hard about them.
      mean, deviation: of x.
      pivot: deviations between the mean and what is taken as the pivot: the running mean of the training batch norm,
        else the first element of the row or group; None for an element drawn like the others, and a running mean that
        is as near.
      ramp: deviations from the first to the last element of a row, group or batch, on top.
      outlier: what the first element is instead, where that is the pivot and where it is not.
      dtype, param_dtype: of x, and of the parameters and running statistics.
      operators: None for all.
    """

    name: str
    mean: float = 0.3
    deviation: float = 1.0
    pivot: float | None = None
    ramp: float = 0.0
    outlier: float | None = None
    dtype: str = "float32"
    param_dtype: str = "float32"
    operators: tuple[str, ...] | None = None


DATA = (
    Data("easy: mean 0.3, deviation 1"),
    Data("mean 1e3, deviation 1e-2", 1e3, 1e-2),
    Data("mean 1e3, deviation 1e-2, pivot 10 deviations away", 1e3, 1e-2, pivot=10.0),
    Data("mean 1e3, deviation 1e-2, pivot 100 deviations away", 1e3, 1e-2, pivot=100.0),
    Data("mean 1e3, deviation 1e-2, pivot 0", 1e3, 1e-2, pivot=-1e5),
    Data("mean 1e3, deviation 1e-2, drifting by 100 deviations", 1e3, 1e-2, ramp=100.0),
    Data("mean 0, deviation 1, the first element 1e4", 0.0, 1.0, outlier=1e4),
    Data("mean 1, deviation 1e-4", 1.0, 1e-4),
    Data("mean 1003, deviation 1e-2, running statistics in bfloat16", 1003.0, 1e-2, param_dtype="bfloat16",
         operators=("batch_norm_training",)),
    Data("float16, mean 0, variance 65504", 0.0, 65504**0.5, dtype="float16"),
    Data("bfloat16, mean 1e3, deviation 16", 1e3, 16.0, dtype="bfloat16"),
)  # fmt: skip


def arrays_of(problem: Problem, data: Data, seed: int = 0) -> tuple[np.ndarray, ...]:
    """The operator's arrays, in their dtypes."""
    arguments = kernels.operator(problem.operator).arguments(problem)
    arrays = list(draw(arguments, seed))
    values = np.random.default_rng(seed).standard_normal(problem.shape)
    training = problem.operator == "batch_norm_training"
    rows = values if training else values.reshape(_statistics(problem), -1)
    count = rows.shape[0] if training else rows.shape[1]
    ramp = data.ramp * np.linspace(-0.5, 0.5, count)
    rows += ramp.reshape(-1, 1, 1, 1) if training else ramp
    first = (0, slice(None), 0, 0) if training else (slice(None), 0)
    if data.pivot is not None and not training:
        rows[first] = data.pivot
    rows = data.mean + data.deviation * rows
    if data.outlier is not None:
        rows[first] = data.outlier
    arrays[0] = rows.reshape(problem.shape).astype(arrays[0].dtype)
    if training:
        mean = data.mean + data.deviation * (data.pivot or 0.0)
        arrays[3] = np.full_like(arrays[3], mean)
        arrays[4] = np.full_like(arrays[4], data.deviation**2)
    return tuple(arrays)


def _statistics(problem: Problem) -> int:
    """Number of rows, groups or images' channels that each have their own mean."""
    return int(np.prod(problem.shape)) // kernels.operator(problem.operator).reduction(problem)


def pivot_distance(problem: Problem, arrays: Sequence[np.ndarray]) -> float:
    """The largest |mean - pivot| / deviation, of x and the pivot as they are stored."""
    x = arrays[0].astype(np.float64)
    if problem.operator == "batch_norm_training":
        rows, pivot = np.moveaxis(x, 1, 0).reshape(x.shape[1], -1), arrays[3].astype(np.float64)
    else:
        rows = x.reshape(_statistics(problem), -1)
        pivot = rows[:, 0]
    return float(np.max(np.abs(rows.mean(1) - pivot) / rows.std(1)))


def rows_of(problem: Problem, data: Data) -> Iterator[dict[str, Any]]:
    """A row per variant."""
    problem = dataclasses.replace(problem, dtype=data.dtype, param_dtype=data.param_dtype)
    definition = kernels.operator(problem.operator)
    arrays = arrays_of(problem, data)
    reference = _y(kernels.reference(problem, arrays), definition.statistics)
    distance = pivot_distance(problem, arrays)
    for variant in VARIANTS:
        program = kernels.program(problem, variant)
        y = _y(jax.jit(program.function)(*map(jnp.asarray, arrays)), definition.statistics)
        error = compare(y, reference)
        figures = (error.max_abs, error.max_rel, error.max_ulp)
        names = (problem.operator, data.name, data.dtype)
        yield dict(zip(COLUMNS, (*names, distance, variant, *figures), strict=True))


def _y(outputs: Any, statistics: int) -> Any:
    return outputs[0] if statistics else outputs


def study(chosen: Callable[[Problem, Data], bool] = lambda problem, data: True) -> Iterator[dict[str, Any]]:
    """All rows, or those of the chosen problems and data."""
    for problem in PROBLEMS:
        for data in DATA:
            if (data.operators is None or problem.operator in data.operators) and chosen(problem, data):
                yield from rows_of(problem, data)


def read(path: Path = RESULTS) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8", newline="") as file:
        return [{**row, **{name: float(row[name]) for name in _NUMBERS}} for row in csv.DictReader(file)]


_NUMBERS = ("pivot_distance", "max_abs", "max_rel", "max_ulp")


def write(rows: Sequence[dict[str, Any]], path: Path = RESULTS) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, **{name: f"{row[name]:.3g}" for name in _NUMBERS}} for row in rows)


def page(rows: Sequence[dict[str, Any]]) -> str:
    """The figures as a page."""
    parts = [_HEAD]
    for operator in dict.fromkeys(row["operator"] for row in rows):
        own = [row for row in rows if row["operator"] == operator]
        parts.append(f"## {operator}\n\n| data | pivot from mean | {' | '.join(VARIANTS)} | pivoted ÷ two-pass |")
        parts.append("|---|--:|" + "--:|" * (len(VARIANTS) + 1))
        for data in dict.fromkeys(row["data"] for row in own):
            parts.append(_line(data, {row["variant"]: row for row in own if row["data"] == data}))
        parts.append("")
    return "\n".join(parts)


def _line(data: str, by_variant: dict[str, dict[str, Any]]) -> str:
    two_pass, pivoted = by_variant["naive"]["max_rel"], by_variant["pivoted"]["max_rel"]
    ratio = pivoted / two_pass if two_pass else float("nan")
    figures = " | ".join(f"{by_variant[name]['max_rel']:.2g}" for name in VARIANTS)
    mark = f"**{ratio:.3g}**" if ratio > NEAR else f"{ratio:.2g}"
    return f"| {data} | {by_variant['naive']['pivot_distance']:.2g} | {figures} | {mark} |"


_HEAD = """# A pivot in the place of a second read

The variance as E[(x - p)²] - E[x - p]² takes one read of x where the two-pass form takes two, and cancels only as far
as the pivot p is from the mean: its relative error is about eps (1 + ((p - mean) / deviation)²). The training batch
norm takes the running mean as p; layer, group and instance norm take the first element of the row or group.

The tables give the largest error of y relative to its root mean square, against float64; `naive` is the two-pass form.
`pivot from mean` is the largest distance, in deviations. In bold: where the pivot costs more than four times the error
of the two-pass form. What to read from them:

* with a pivot within a few deviations of the mean, `pivoted` errs no more than four times as much as the two-pass form
  on easy data, and far less on hard data, where E[x²] - mean² (`one_pass`) has lost everything: the float32 mean of
  values near 1e3 is itself rounded, which the two-pass form inherits, while a mean of x - p is not;
* it still holds with the pivot 100 deviations away where the mean is 1e5 away: bfloat16 running statistics, which
  round 1003 to 1004, cost three digits and are still better than two passes;
* it fails where the pivot is no better than 0: at the first step of training, when the running mean is 0 and the data
  have a large mean, and where the first element of a row is an outlier or padding. There the two-pass form, or
  `welford`, is what holds;
* data in half precision are not hard: bfloat16 leaves room for no deviation below 4 around 1e3, and float32 sums do
  not mind a variance of 65504.

Made by `python -m analysis.pages.pivots` on a CPU, from the figures in `results/accuracy/pivots.csv`.
"""


def main() -> None:
    rows = list(study())
    write(rows)
    PAGE.write_text(page(read()), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
