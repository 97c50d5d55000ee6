"""The barrier: what a kernel that the compiler cannot look into costs the work around it, in launches and bytes.

`python -m analysis.pages.barrier` compiles each norm alone, after an addition and before an activation, in three
forms, for an H200 that is not there, and writes docs/barrier.md. Bytes are what the compiler and the kernels declare;
times are for a device, and are not in it.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[2] / "docs" / "barrier.md"
KERNEL = "pallas_triton"
XLA = ("naive", "custom_vjp")
OPERATORS = ("layer_norm",)
CONTEXTS = ("alone", "residual", "silu")
SHAPES = ((8192, 4096), (1024, 65536))
FORMS = ("XLA", "opaque kernel", "fused kernel")

HEAD = """# The barrier that a kernel is

XLA fuses nothing into a kernel that it cannot look into, a Pallas kernel or a library call: an addition before the norm
and an activation after it become launches of their own, which write a tensor and read it again. A kernel pays only
where what it saves is more than that, or where it takes its neighbours in. The tables have, for bfloat16 x and float32
parameters on the H200 target (compiled without one), launches and bytes as a multiple of what has to be moved:

* XLA: the best of the textbook formula and of the gradient by hand, in plain JAX;
* opaque kernel: `pallas_triton` of the norm alone, with the neighbours left to XLA;
* fused kernel: `pallas_triton` with the neighbours inside.

Bytes are those that the kernels declare: a row that does not fit the registers of its program counts twice. In bold:
the fewest. At which size which of them is fastest is a matter for a device, and not in these tables.

Made by `python -m analysis.pages.barrier`.
"""


@dataclass(frozen=True)
class Fact:
    """One form of one program, compiled: its launches, and its bytes over the minimum."""

    form: str
    launches: int
    ratio: float


def facts(operator: str, shape: tuple[int, int], context: str, pass_: str) -> tuple[Fact, ...]:
    """What each form of `FORMS` comes to."""
    from normbench.kernels.problem import Problem

    problem = Problem(operator, shape, "nc", "bfloat16", pass_=pass_, context=context)
    plain = min((_compiled(problem, name, True) for name in XLA), key=lambda fact: fact[1])
    found = (plain, _compiled(problem, KERNEL, False), _compiled(problem, KERNEL, True))
    return tuple(Fact(form, *values) for form, values in zip(FORMS, found, strict=True))


def _compiled(problem: Any, variant: str, fused: bool) -> tuple[int, float]:
    from normbench import explain, kernels

    program = kernels.program(problem, variant)
    function = program.function if fused else _opaque(program)
    report = explain(function, *program.inputs, target="h200")
    return len(report.launches), (report.declared_bytes or report.bytes) / report.minimum_bytes


def _opaque(program: Any) -> Callable[..., Any]:
    """The same program with the kernel of the norm alone, and the neighbours in plain JAX."""
    import jax

    from normbench.kernels import get, operator
    from normbench.kernels.common.activations import activate
    from normbench.kernels.contexts import activation_of

    problem, definition = program.problem, operator(program.problem.operator)
    keywords = {**definition.keywords(problem), "activation": "none"}
    norm = partial(get(problem.operator, program.variant.name).function, **keywords)

    def forward(x: Any, *others: Any) -> Any:
        if problem.context == "residual":
            z = x + others[0]
            return norm(z, *others[1:]), z
        return activate(norm(x, *others), activation_of(problem.context))

    def forward_backward(inputs: Any, cotangent: Any) -> Any:
        leading = 1 + (problem.context == "residual")
        residual = inputs[1:leading]
        y, pullback = jax.vjp(lambda x, *parameters: forward(x, *residual, *parameters), inputs[0], *inputs[leading:])
        return y, pullback(cotangent)

    return forward if problem.pass_ == "forward" else forward_backward


def page() -> Iterator[str]:
    """The lines of docs/barrier.md."""
    yield HEAD
    for pass_ in ("forward", "forward_backward"):
        yield f"## {pass_.replace('_', ' and ')}\n"
        yield f"| norm | rows × columns | context | {' | '.join(FORMS)} |"
        yield f"|---|---|---|{'--:|' * len(FORMS)}"
        for operator in OPERATORS:
            for shape in SHAPES:
                for context in CONTEXTS:
                    yield row(operator, shape, context, pass_)
        yield ""


def row(operator: str, shape: tuple[int, int], context: str, pass_: str) -> str:
    """One row of a table: launches and bytes over the minimum of each form."""
    found = facts(operator, shape, context, pass_)
    least = min(fact.ratio for fact in found)
    cells = [_cell(fact, fact.ratio <= 1.005 * least) for fact in found]
    return f"| {operator} | {shape[0]} × {shape[1]} | {context} | {' | '.join(cells)} |"


def _cell(fact: Fact, best: bool) -> str:
    text = f"{fact.launches}: {fact.ratio:.2f} ×"
    return f"**{text}**" if best else text


def main() -> int:
    PAGE.write_text("\n".join(page()).rstrip() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
