"""Predicted times of the Pallas kernels and of XLA's best for the H200, from which `supports` learns what to refuse.

`python -m analysis.pages.kernels_limits` renews `normbench/kernels/pallas/predicted.csv`: the problems of the presets
`standard`, `quick` and `smoke` that have elements, sizes between them, and problems that are drawn. Times are those of
the run in `results/runs/standard` where it has them; of what the run leaves out, as it is refused or is not of its
preset, the lines that are there stay, and what is missing is compiled. `--anew` compiles kernels again, as after a
change of one, or of the model that the run does not have yet. No time here was measured.
"""

import argparse
import csv
import io
import math
import os
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.pages.kernels_against_xla import NOT_THE_SAME, RUN
from normbench.fusion import compile_environment
from normbench.kernels.problem import Problem
from normbench.schema import PASSES

PATH = Path("normbench/kernels/pallas/predicted.csv")
TARGET = "h200"
KERNELS = ("pallas_triton", "pallas_mosaic")
FIELDS = (
    "variant", "problem", "operator", "kind", "pass_", "context", "images", "runs", "length", "itemsize",
    "kernel_us", "xla", "xla_us", "error", "instead",
)  # fmt: skip

_ROWS = {
    "forward": ("256x1024", "1024x2048", "512x8192", "4096x8192", "65536x256", "16384x1000", "512x5120", "4096x5120"),
    "backward": ("512x4096", "4096x1024", "16384x1024", "2048x8192", "4096x1000", "65536x256"),
}
_CHANNELS: dict[str, tuple[tuple[str, str, tuple[str, ...]], ...]] = {
    "batch_norm": (
        ("forward", "nchw", ("32x64x56x56", "32x256x28x28", "8x64x112x112", "4x32x24x24")),
        ("forward", "nhwc", ("32x56x56x64", "32x14x14x256", "8x28x28x96", "4x24x24x40")),
        ("backward", "nhwc", ("32x56x56x64", "8x28x28x96")),
    ),
    "batch_norm_training": (
        ("forward", "nchw", ("32x64x56x56", "32x256x14x14", "16x512x16x16")),
        ("forward", "nhwc", ("32x56x56x64", "8x14x14x512")),
        ("backward", "nchw", ("32x64x56x56", "32x256x16x16")),
        ("backward", "nhwc", ("32x56x56x64", "8x14x14x512")),
    ),
    "group_norm": (
        ("forward", "nchw", ("4x512x32x32", "8x256x64x64", "16x1280x16x16")),
        ("forward", "nhwc", ("8x32x32x512", "16x16x16x1280", "4x64x64x128")),
        ("backward", "nchw", ("4x512x32x32", "8x256x64x64")),
        ("backward", "nhwc", ("8x32x32x512", "4x64x64x128")),
    ),
    "instance_norm": (
        ("forward", "nchw", ("4x64x256x256", "16x128x32x32")),
        ("forward", "nhwc", ("4x128x128x64", "16x32x32x128")),
        ("backward", "nchw", ("4x64x128x128", "16x128x32x32")),
        ("backward", "nhwc", ("4x64x64x64", "16x32x32x128")),
    ),
}

DRAWN, SEEDS = 10, (0, 1, 2, 3)
"""Of each operator, order of its axes and pass, by each seed."""
OF_ANY_SIZE, SEEDS_OF_ANY_SIZE = 300, (202, 303)
_COLUMNS = (96, 200, 256, 320, 512, 640, 768, 1000, 1024, 1536, 2048, 3000, 4096, 5120, 6144, 8192, 12288, 16384)
_CHANNEL_COUNTS = (32, 48, 64, 96, 128, 192, 256, 320, 384, 512, 640, 960, 1280, 2048)
_SIDES = (7, 8, 14, 16, 28, 32, 40, 56, 64, 80, 112, 128)
_FEWEST, _MOST = 2**18, 2**25
"""Elements of what is drawn, more or less."""


@dataclass(frozen=True, slots=True)
class Time:
    """Predicted seconds of a variant, with the range of the model's known error."""

    variant: str
    seconds: float
    low_s: float
    high_s: float


def between() -> Iterator[Problem]:
    """Sizes between those of the models, in bfloat16, so that what is near one of them has a neighbour."""
    for operator in ("layer_norm", "rms_norm"):
        for pass_, shapes in _ROWS.items():
            yield from (Problem(operator, _shape(text), "nc", "bfloat16", pass_=pass_) for text in shapes)
        yield from (Problem(operator, shape, "nc", "float32") for shape in ((1024, 1024), (2048, 4096)))
    for operator, groups in _CHANNELS.items():
        options = (("groups", 32),) if operator == "group_norm" else ()
        for pass_, layout, shapes in groups:
            for text in shapes:
                yield Problem(operator, _shape(text), layout, "bfloat16", pass_=pass_, options=options)


def drawn(seed: int) -> Iterator[Problem]:
    """Problems of every operator, order of its axes and pass, of sizes, dtypes and contexts as chance has them."""
    from normbench import kernels

    draw = random.Random(seed)
    for operator in ("layer_norm", "rms_norm", *_CHANNELS):
        contexts = [name for name in kernels.operator(operator).contexts if name != "alone"]
        for layout in ("nchw", "nhwc") if operator in _CHANNELS else ("nc",):
            for pass_ in PASSES:
                for _ in range(DRAWN):
                    options = (("groups", draw.choice((8, 16))),) if operator == "group_norm" else ()
                    dtype = draw.choice(("bfloat16", "bfloat16", "float16", "float32"))
                    context = draw.choice(("alone", *contexts))
                    shape = _drawn_shape(draw, layout)
                    yield Problem(operator, shape, layout, dtype, pass_=pass_, context=context, options=options)


def any_size(seed: int) -> Iterator[Problem]:
    """Problems of every operator, layout and pass, of sizes and numbers of channels that no model need have."""
    from normbench import kernels

    draw = random.Random(seed)
    for _ in range(OF_ANY_SIZE):
        operator = draw.choice(("layer_norm", "rms_norm", *_CHANNELS))
        pass_, context = draw.choice(PASSES), draw.choice(("alone", "alone", *kernels.operator(operator).contexts))
        dtype = draw.choice(("bfloat16", "bfloat16", "float16", "float32"))
        param_dtype = draw.choice(("float32", "float32", dtype))
        elements = math.exp(draw.uniform(math.log(2**14), math.log(2**27)))
        of = _rows_of_any_length if operator in ("layer_norm", "rms_norm") else _channels_of_any_number
        shape, layout, options = of(draw, operator, elements, dtype)
        yield Problem(operator, shape, layout, dtype, param_dtype, pass_, context, options=options)


def _rows_of_any_length(draw: random.Random, operator: str, elements: float, dtype: str) -> tuple:
    ndim = draw.choice((1, 1, 1, 2))
    lengths = (1, 300), (300, 3000), (3000, 40000)
    columns = draw.choice(
        [*(draw.randint(*of) for of in lengths), 2 ** draw.randint(5, 16), 128 * draw.randint(1, 130)]
    )
    options: list[tuple[str, Any]] = []
    if operator == "rms_norm":
        form = draw.random()
        if form < 0.2:
            options.append(("scale_offset", 1.0))
        elif form < 0.4 and dtype != "float32":
            options.append(("hat_dtype", dtype))
    if ndim == 1:
        return (max(1, round(elements / columns)), columns), "nc", tuple(options)
    inner = draw.choice((2, 3, 4, 8, 7))
    columns = max(1, columns // inner)
    return (max(1, round(elements / (inner * columns))), inner, columns), "nlc", tuple(sorted([*options, ("ndim", 2)]))


def _channels_of_any_number(draw: random.Random, operator: str, elements: float, dtype: str) -> tuple:
    layouts = ("nchw", "nhwc", "nchw", "nhwc", "ncl", "nlc", "ncdhw", "ndhwc")
    layout = draw.choice(layouts + ("nc",) * operator.startswith("batch"))
    channels = draw.choice(
        (draw.randint(1, 64), draw.randint(16, 600), 16 * draw.randint(1, 128), 2 ** draw.randint(3, 11))
    )
    options: tuple[tuple[str, Any], ...] = ()
    if operator == "group_norm":
        groups = draw.choice((1, 2, 4, 8, 16, 32))
        channels, options = max(groups, channels // groups * groups), (("groups", groups),)
    if layout == "nc":
        return (max(2, round(elements / channels)), channels), layout, options
    positions = _positions(draw, len(layout) - 2)
    images = max(1, round(elements / channels / math.prod(positions)))
    shape = (images, channels, *positions) if layout[1] == "c" else (images, *positions, channels)
    return shape, layout, options


def _positions(draw: random.Random, rank: int) -> tuple[int, ...]:
    if rank == 1:
        return (draw.choice((draw.randint(2, 5000), 2 ** draw.randint(4, 14))),)
    sides = tuple(
        draw.choice((draw.randint(1, 20), draw.randint(5, 130), draw.choice((7, 14, 28, 56, 112, 8, 16, 32, 64, 128))))
        for _ in range(rank)
    )
    if rank == 2:
        return (sides[0],) * 2 if draw.random() < 0.7 else sides
    return tuple(max(1, side // 3) for side in sides)


def _drawn_shape(draw: random.Random, layout: str) -> tuple[int, ...]:
    elements = math.exp(draw.uniform(math.log(_FEWEST), math.log(_MOST)))
    if layout == "nc":
        columns = draw.choice(_COLUMNS)
        return max(1, round(elements / columns)), columns
    side, channels = draw.choice(_SIDES), draw.choice(_CHANNEL_COUNTS)
    images = max(1, round(elements / side**2 / channels))
    return (images, channels, side, side) if layout == "nchw" else (images, side, side, channels)


def _shape(text: str) -> tuple[int, ...]:
    return tuple(int(size) for size in text.split("x"))


def problems() -> dict[str, Problem]:
    """By slug, those of the presets that the kernels may compute, those between, and those that are drawn."""
    from normbench.cases.case import Case, cases

    presets = (cases(preset, variants=KERNELS) for preset in ("standard", "quick", "smoke"))
    found = [case.problem for preset in presets for case in preset if math.prod(case.shape)]
    found += [*between(), *(problem for seed in SEEDS for problem in drawn(seed))]
    found += [problem for seed in SEEDS_OF_ANY_SIZE for problem in any_size(seed)]
    return {Case(problem, "naive").slug.removesuffix(".naive"): problem for problem in found}


def of_run(run: Path) -> dict[str, dict[str, Time]]:
    """By problem and variant."""
    from normbench.report import load_run

    loaded = load_run(run)
    rows = loaded.cases.merge(loaded.compiled[loaded.compiled.target == TARGET], on="case")
    found: dict[str, dict[str, Time]] = {}
    for row in rows.to_dict("records"):
        if row["status"] == "ok" and row["predicted_s"] > 0:
            seconds = (float(row[name]) for name in ("predicted_s", "predicted_low_s", "predicted_high_s"))
            found.setdefault(row["problem"], {})[row["variant"]] = Time(row["variant"], *seconds)
    return found


def _is_plain(variant: str) -> bool:
    return not variant.startswith("pallas") and variant not in NOT_THE_SAME


def _compiled(problem: Problem, variant: str) -> Time | None:
    """What the model says of a variant that is compiled now; None where it computes no such problem."""
    from normbench import explain, kernels

    # On the device that is present nothing is refused for what is predicted.
    if kernels.get(problem.operator, variant).supports(problem, "gpu"):
        return None
    program = kernels.program(problem, variant)
    report = explain(program.function, *program.inputs, target=TARGET)
    assert report.predicted_s, (problem, variant)
    assert report.predicted_range_s, (problem, variant)
    return Time(variant, report.predicted_s, *report.predicted_range_s)


def lines(slug: str, problem: Problem, known: dict[str, Time]) -> list[dict[str, str]]:
    """One for each kernel that computes the problem; `known` are times that need not be compiled."""
    from normbench import kernels
    from normbench.kernels.pallas.left_to_xla import geometry

    plain = [time for name, time in known.items() if _is_plain(name)]
    plain = plain or _all(problem, filter(_is_plain, kernels.variants(problem.operator)))
    xla = min(plain, key=lambda time: time.seconds)
    found = [known[name] for name in KERNELS if name in known]
    found += _all(problem, (name for name in KERNELS if name not in known))
    where = geometry(problem)
    assert where is not None
    rows = []
    for time in found:
        error = math.exp(math.hypot(math.log(xla.high_s / xla.seconds), math.log(time.seconds / time.low_s)))
        others = [xla, *(other for other in found if other is not time)]
        instead = min(others, key=lambda other: other.seconds).variant
        row: dict[str, Any] = {name: getattr(where, name) for name in FIELDS[2:10]}
        row |= {"variant": time.variant, "problem": slug, "xla": xla.variant, "error": f"{error:.3f}"}
        row |= {"kernel_us": _us(time), "xla_us": _us(xla), "instead": instead}
        rows.append({name: str(row[name]) for name in FIELDS})
    return rows


def _all(problem: Problem, variants: Iterable[str]) -> list[Time]:
    return [time for name in variants if (time := _compiled(problem, name))]


def _us(time: Time) -> str:
    return f"{time.seconds * 1e6:.3f}"


def renew(path: Path = PATH, run: Path = RUN, anew: Sequence[str] = (), words: Sequence[str] = ()) -> None:
    """Writes the table, and after each problem what there is of it, so that nothing is compiled twice.

    Args:
      anew: kernels whose times in the run, and whose lines, count for nothing.
      words: where there are any, the lines stay of problems that have none of them in their slug.
    """
    wanted, known = problems(), of_run(run)
    there: dict[str, list[dict[str, str]]] = {}
    if path.exists():
        for row in csv.DictReader(path.read_text(encoding="utf-8").splitlines()):
            there.setdefault(row["problem"], []).append(row)
    done: dict[str, list[dict[str, str]]] = {}
    for slug, problem in wanted.items():
        times = {name: time for name, time in known.get(slug, {}).items() if name not in anew}
        asked = not words or any(word in slug for word in words)
        is_known = not anew and {row["variant"] for row in there.get(slug, ())}.isdisjoint(times)
        if slug in there and (is_known or not asked):
            done[slug] = there[slug]
            continue
        done[slug] = lines(slug, problem, times)
        write(path, [row for one in wanted for row in done.get(one, there.get(one, []))])
        print(slug, *(f"{row['variant']} {row['kernel_us']} of {row['xla_us']}" for row in done[slug]), flush=True)
    write(path, [row for rows in done.values() for row in rows])


def write(path: Path, rows: list[dict[str, str]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(text.getvalue(), encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m analysis.pages.kernels_limits", description=__doc__)
    parser.add_argument("--run", type=Path, default=RUN, help="where XLA's times are (default: %(default)s)")
    parser.add_argument("--anew", nargs="+", choices=KERNELS, default=[], help="kernels to compile again")
    parser.add_argument("--problem", nargs="+", default=[], help="words of the problems to renew (default: all)")
    options = parser.parse_args(arguments)
    os.environ.update(compile_environment())
    renew(run=options.run, anew=options.anew, words=options.problem)


if __name__ == "__main__":
    main()
