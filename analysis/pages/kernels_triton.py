"""What the compiled Pallas Triton kernels are: launches, bytes, vectors, spills; as data in `results/kernels/`.

`python -m analysis.pages.kernels_triton` renews the data for the installed compiler, needs no GPU, and takes some
minutes; `--check` compares, and says in words what changed.

The least traffic of a pass, in walks over tensors of x's size: forward 2 (read x, write y); backward 3 (read x and dy,
write dx). The *streaming* least is what a kernel has to move where a row, group or channel does not fit on the chip:
its statistics, or the two sums of its gradient, are complete only after all of it has been read, so what they are used
on is read once more: forward 3 (x twice), backward 5 (x and dy twice). Inference batch norm has no sum that anything
waits for; rows of layer and RMS norm, groups, and channels of batch norm in training are streamed where their
configuration is not `resident`.
"""

import argparse
import csv
import io
import json
import os
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from normbench.fusion import compile_environment

PATH = Path("results/kernels/pallas_triton.csv")
TARGETS = ("h200", "a100")
PASSES = ("forward", "backward")
WALKS = {("forward", False): 2, ("forward", True): 3, ("backward", False): 3, ("backward", True): 5}
"""By pass, and whether what is summed is streamed."""

MOST_OF_LEAST = {"forward": 1.05, "backward": 1.08}
"""By pass: what programs leave for parameters, written and read once more, counts for the backward one."""
WORKSPACE = 0.11
"""Of x."""


@dataclass(frozen=True, slots=True)
class Facts:
    """One compiled program, of launches of Pallas kernels alone; bytes as the kernels declare them.

    Attributes:
      walks: the least of the pass, see the module's docstring.
      load_bytes, store_bytes: the widest access of the launch that moves most.
      workspace_bytes: of what one launch leaves for the next.
      spill_bytes: of all launches, to local memory, by ptxas; None where it is not installed.
    """

    case: str
    target: str
    launches: int
    declared_bytes: int
    walks: int
    least_bytes: int
    workspace_bytes: int
    load_bytes: int
    store_bytes: int
    spill_bytes: int | None

    @property
    def x_bytes(self) -> int:
        return self.least_bytes // self.walks

    @property
    def pass_(self) -> str:
        return "backward" if ".backward" in self.case else "forward"

    @property
    def share(self) -> float:
        """Of the declared traffic in the least."""
        return self.declared_bytes / self.least_bytes


def problems() -> tuple[Any, ...]:
    """Aligned sizes that are larger than any cache would hide, resident and streamed, in both layouts."""
    from normbench.kernels.problem import Problem

    shapes: list[tuple[str, tuple[int, ...], str, dict[str, int]]] = [
        ("batch_norm", (32, 64, 56, 56), "nchw", {}),
        ("batch_norm", (32, 56, 56, 64), "nhwc", {}),
        ("batch_norm_training", (32, 64, 56, 56), "nchw", {}),
        ("batch_norm_training", (32, 56, 56, 64), "nhwc", {}),
        ("batch_norm_training", (8, 256, 56, 56), "nchw", {}),
        ("batch_norm_training", (32, 14, 14, 1024), "nhwc", {}),
        ("layer_norm", (8192, 4096), "nc", {}),
        ("layer_norm", (512, 65536), "nc", {}),
        ("rms_norm", (8192, 4096), "nc", {}),
        ("rms_norm", (512, 65536), "nc", {}),
        ("group_norm", (16, 320, 32, 32), "nchw", {"groups": 32}),
        ("group_norm", (16, 320, 128, 128), "nchw", {"groups": 32}),
        ("group_norm", (16, 16, 16, 512), "nhwc", {"groups": 32}),
        ("group_norm", (16, 64, 64, 320), "nhwc", {"groups": 32}),
        ("instance_norm", (16, 256, 64, 64), "nchw", {}),
        ("instance_norm", (16, 32, 32, 256), "nhwc", {}),
        ("instance_norm", (16, 128, 128, 64), "nhwc", {}),
    ]
    return tuple(
        Problem(operator, shape, layout, dtype, pass_=pass_, options=tuple(options.items()))
        for operator, shape, layout, options in shapes
        for dtype in ("bfloat16", "float32")
        for pass_ in PASSES
    )


def streamed(problem: Any) -> bool:
    """Whether what is summed does not fit on the chip, as the kernel's own configuration has it."""
    from normbench.kernels.batch_norm_training.pallas_triton import config_of as channels_of
    from normbench.kernels.group_norm.pallas_triton import config_of
    from normbench.kernels.pallas.triton import rows_config

    if problem.operator in ("layer_norm", "rms_norm"):
        rows, columns = problem.shape
        if problem.pass_ == "forward":
            return not rows_config.forward_config(rows, columns, problem.dtype).resident
        vectors = 2 if problem.operator == "layer_norm" else 1
        return not rows_config.backward_config(rows, columns, problem.dtype, vectors, affine=True).resident
    if problem.operator in ("group_norm", "instance_norm"):
        return not config_of(problem, problem.pass_).resident
    return problem.operator == "batch_norm_training" and channels_of(problem, problem.pass_) is None


def measured(problem: Any, target: str) -> Facts:
    """Compiles one problem."""
    import math

    import jax.numpy as jnp

    from normbench import explain, kernels
    from normbench.cases.case import Case

    program = kernels.program(problem, "pallas_triton")
    report = explain(program.function, *program.inputs, target=target)
    found = report.launches
    if set(found.kind) != {"pallas"}:
        raise RuntimeError(
            f"{Case(problem, 'pallas_triton').slug}: launches {list(found.kind)}; expected: pallas alone"
        )
    walks = WALKS[problem.pass_, streamed(problem)]
    main = found.declared_bytes.idxmax()
    spilled = found.spill_bytes.dropna()
    return Facts(
        case=Case(problem, "pallas_triton").slug,
        target=target,
        launches=len(found),
        declared_bytes=int(report.declared_bytes or 0),
        walks=walks,
        least_bytes=walks * math.prod(problem.shape) * jnp.dtype(problem.dtype).itemsize,
        workspace_bytes=sum(
            size for used in map(json.loads, found.inputs) for source, size in used if isinstance(source, int)
        ),
        load_bytes=int(found.load_bytes[main]),
        store_bytes=int(found.store_bytes.max()),
        spill_bytes=int(spilled.sum()) if len(spilled) == len(found) else None,
    )


def write(facts: Iterable[Facts], path: Path = PATH) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Facts)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(one) for one in facts)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.getvalue(), encoding="utf-8")


def read(path: Path = PATH) -> tuple[Facts, ...]:
    with path.open(encoding="utf-8", newline="") as file:
        return tuple(_parsed(row) for row in csv.DictReader(file))


def _parsed(row: dict[str, str]) -> Facts:
    numbers = {name: int(value) if value else None for name, value in row.items() if name not in ("case", "target")}
    return Facts(case=row["case"], target=row["target"], **numbers)  # type: ignore[arg-type]


def differences(known: Facts, found: Facts) -> list[str]:
    """A sentence for each figure that differs; one that either side does not know is no difference."""
    return [
        f"{known.case} for {known.target}: {field.name} was {old}, is {new}"
        for field in fields(Facts)
        if (old := getattr(known, field.name)) != (new := getattr(found, field.name)) and None not in (old, new)
    ]


def most_launches(facts: Facts) -> int:
    """One forward and two backward, with the sum of what the programs leave for parameters; two forward where groups
    and channels are streamed, as the first then leaves what it found of its share. Batch norm in training needs no sum
    of gradients where its programs have whole channels."""
    resident = facts.walks == WALKS[facts.pass_, False]
    operator = facts.case.split(".")[0]
    if operator == "batch_norm_training":
        return 1 if resident else 2
    shared = operator in ("group_norm", "instance_norm") and not resident
    return 1 if facts.pass_ == "forward" and not shared else 2


def broken(facts: Facts) -> list[str]:
    """A sentence for each thing that a kernel must not do."""
    most = most_launches(facts)
    wrong = {
        f"{facts.launches} launches, allowed: {most}": facts.launches > most,
        f"{facts.share:.3f} × the least of {facts.walks} walks": facts.share > MOST_OF_LEAST[facts.pass_],
        f"loads of {facts.load_bytes} bytes": facts.load_bytes != 16,
        f"stores of {facts.store_bytes} bytes": facts.store_bytes != 16,
        f"a workspace of {facts.workspace_bytes} bytes": facts.workspace_bytes > WORKSPACE * facts.x_bytes,
        f"{facts.spill_bytes} bytes spilled": bool(facts.spill_bytes),
    }
    return [f"{facts.case} for {facts.target}: {sentence}" for sentence, holds in wrong.items() if holds]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m analysis.pages.kernels_triton", description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with the data, and write nothing")
    options = parser.parse_args(arguments)
    os.environ.update(compile_environment())
    found = [measured(problem, target) for target in TARGETS for problem in problems()]
    known = {(one.case, one.target): one for one in read()} if options.check else {}
    sentences = [sentence for one in found for sentence in broken(one)]
    for one in found:
        if options.check:
            sentences += differences(known[one.case, one.target], one)
    if not options.check:
        write(found)
    print("\n".join(sentences) or f"{len(found)} programs are as they should be")
    return 1 if sentences else 0


if __name__ == "__main__":
    sys.exit(main())
