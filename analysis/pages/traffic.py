"""Where plain JAX does not reach the traffic it should on the H200, and in the compiler's own words why.

`python -m analysis.pages.traffic` writes `docs/traffic.md`.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from normbench.fusion import compile_environment
from normbench.kernels.problem import Problem

PAGE = Path("docs/traffic.md")


@dataclass(frozen=True, slots=True)
class Row:
    """What the best variant in plain JAX should reach: every input read as often as its sums need."""

    problem: Problem
    variant: str
    wanted: float


def _both(operator: str, shape: tuple[int, ...], layout: str, context: str = "alone", **options: int) -> Problem:
    return Problem(operator, shape, layout, "bfloat16", pass_="forward_backward", context=context,
                   options=tuple(options.items()))  # fmt: skip


ROWS = (
    Row(_both("layer_norm", (8, 197, 768), "nlc"), "custom_vjp", 1.51),
    Row(_both("layer_norm", (4093, 127), "nc"), "custom_vjp", 1.51),
    Row(_both("layer_norm", (8, 3199, 512), "nlc", "gelu"), "custom_vjp", 1.76),
    Row(_both("instance_norm", (8, 64, 64, 128), "nhwc", "relu"), "custom_vjp", 1.76),
    Row(_both("group_norm", (16, 64, 64, 320), "nhwc", groups=32), "pivoted", 1.76),
)


def page() -> str:
    """Compiles every row for the H200."""
    import jax

    parts = [_HEAD.format(jax=jax.__version__)]
    for row in ROWS:
        parts += _section(row)
    return "\n".join(parts)


def _section(row: Row) -> list[str]:
    from normbench import explain, kernels
    from normbench.cases.case import Case

    program = kernels.program(row.problem, row.variant)
    report = explain(program.function, *program.inputs, target="h200")
    slug = Case(row.problem, row.variant).slug
    parts = [f"## {slug}", "", f"{report.traffic_ratio:.2f} × the minimum; wanted: {row.wanted:.2f}.", ""]
    parts += ["| launch | reads MB | writes MB |", "|---|--:|--:|"]
    for launch in report.launches.to_dict("records"):
        parts.append(f"| {launch['name']} | {launch['read_bytes'] / 1e6:.2f} | {launch['write_bytes'] / 1e6:.2f} |")
    parts.append("")
    parts += [f"- {sentence}" for sentence in (*report.hints, *report.refusals)]
    return [*parts, ""]


_HEAD = """# Where plain JAX does not reach the least traffic

For each operator there is a variant in plain JAX that reads x as few times as its sums allow; the figures are held by
`tests/kernels/test_traffic.py`. These are problems where the compiler does not let it, in bfloat16 with float32
parameters, compiled for the H200 with JAX {jax}: the launches, and what was not fused, in XLA's words.

The pattern is the same: a sum over the rows of a product of many operands is predicted to be slow where it has few
blocks, so the product is written in float32 first. Parts of the rows give more blocks (`kernels.common.partial_sums`);
where no suitable number divides the rows, they are filled up with zeros, and a launch with such a sum can no longer
write y and dx beside it. An activation makes the sums of the gradient wait for the statistics, and its derivative is
written.

![Bytes moved over the minimum, by operator, layout, pass and variant, on the H200](images/traffic.svg)

Bytes moved ÷ minimum bytes of the preset `standard` in bfloat16, compiled for the H200 with JAX 0.10.2; 1.00 is least,
the least of a row is framed, of what computes all of its problems. Nothing in it is a timing. It is the file
`atlas-bfloat16.svg` of `normbench report results/runs/standard --plots DIR`.

Made by `python -m analysis.pages.traffic`.
"""


def main() -> None:
    os.environ.update(compile_environment())
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
