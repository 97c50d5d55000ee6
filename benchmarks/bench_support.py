"""What the asv classes share. Only `benchmarks` is of the working tree there: kernels and analysis are each commit's.

The parameters are written down in `bench_slugs.txt`, as asv hands them over by index: a list made of the variants that
a commit happens to have would shift. A commit that lacks one is skipped. A test holds that file to `normbench list`.
"""

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

SLUGS = tuple(Path(__file__).with_name("bench_slugs.txt").read_text().split())
TARGETS = ("h200", "a100")


def asv(**attributes: Any) -> Callable[[Callable], Callable]:
    """Sets what asv reads from a method: its unit, its timeout."""

    def mark(method: Callable) -> Callable:
        vars(method).update(attributes)
        return method

    return mark


@cache
def prepare(slug: str) -> tuple[Any, tuple]:
    """A compiled and checked program of this process's CPU, called once, and its inputs.

    Raises:
      NotImplementedError: where this commit cannot do it; asv then skips the case.
    """
    from benchmarks.worker_cases import check, draw, inputs_of

    compiled = compile_case(slug, "cpu")
    oracle = draw(compiled.case)
    inputs = inputs_of(compiled.program, oracle)
    error = check(compiled, inputs, oracle, "cpu")
    if not error.ok:
        raise AssertionError(f"{slug}: {error.reason}")
    return compiled.call, inputs


def compile_case(slug: str, target: str):
    """Compiles a case with the kernels of this commit.

    Raises:
      NotImplementedError: where it has no such operator or variant, or does not support it here.
    """
    program = program_of(slug, target)
    from analysis.fusion import compile_for
    from benchmarks.cases import Case
    from benchmarks.worker_cases import Compiled

    compilation = compile_for(program.function, program.inputs, target)
    row = compilation.compiled_row()
    return Compiled(Case.from_slug(slug), program, compilation.executable, row["minimum_bytes"])


def program_of(slug: str, target: str):
    """The program of a case, by the kernels of this commit.

    Raises:
      NotImplementedError: where it has no such operator or variant, or does not support it here.
    """
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    try:
        import kernels
        from benchmarks.cases import Case
        from normbench.errors import UserError
    except ImportError as error:
        raise NotImplementedError(f"this commit is too old: {error}") from error
    case = Case.from_slug(slug)
    try:
        reason = kernels.get(case.operator, case.variant).supports(case.problem, target)
        if not reason:
            return kernels.program(case.problem, case.variant)
    except UserError as error:
        raise NotImplementedError(str(error)) from error
    raise NotImplementedError(reason)
