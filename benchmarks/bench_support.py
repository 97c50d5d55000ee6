"""What the asv classes share. Only `benchmarks` is of the working tree there: the package is each commit's.

The parameters are written down in `bench_slugs.txt`, as asv hands them over by index: a list made of the variants that
a commit happens to have would shift. A commit that lacks one is skipped. A test holds that file to `normbench list`.
"""

import ctypes
import os
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
SLUGS = tuple((FOLDER / "bench_slugs.txt").read_text(encoding="utf-8").split())
TARGETS = ("h200", "a100")
NOT_TIMED = ("pallas_", "mosaic_", "flax", "pytensor_", "native")
"""Variants that a CPU only interprets, and packages and a C++ compiler that the environments of asv need not have."""
MALLOPT = {  # names of the environment and numbers of mallopt, from glibc's malloc.h
    "MALLOC_MMAP_THRESHOLD_": -3,
    "MALLOC_TRIM_THRESHOLD_": -1,
    "MALLOC_TOP_PAD_": -2,
    "MALLOC_ARENA_MAX": -8,
}


def timed(slugs: Iterable[str]) -> tuple[str, ...]:
    """The cases that are timed, each in processes of its own: of each operator the first problem."""
    first: dict[str, str] = {}
    found = []
    for slug in slugs:
        problem, _, variant = slug.rpartition(".")
        if first.setdefault(slug.partition(".")[0], problem) == problem and not variant.startswith(NOT_TIMED):
            found.append(slug)
    return tuple(found)


TIMED = timed(SLUGS)


def labels(slugs: Iterable[str]) -> tuple[str, ...]:
    """The slugs as asv's pages are to show them: the variant first, as the pages cut off the end."""
    return tuple(" ".join(reversed(slug.rsplit(".", 1))) for slug in slugs)


def slug_of(label: str) -> str:
    variant, _, problem = label.partition(" ")
    return f"{problem}.{variant}"


def asv(**attributes: Any) -> Callable[[Callable], Callable]:
    """Sets what asv reads from a method: its unit, its timeout."""

    def mark(method: Callable) -> Callable:
        vars(method).update(attributes)
        return method

    return mark


@contextmanager
def older_commits_skipped() -> Iterator[None]:
    """Turns into a skip what goes wrong between these modules and an older commit's packages, and nothing else.

    A name or a keyword that the commit lacks is missed by a line of this folder; an error of the commit itself is
    raised by a line of its own, and fails the benchmark.

    Raises:
      NotImplementedError: which asv takes for a skip.
    """
    try:
        yield
    except (ImportError, AttributeError, TypeError) as error:
        raised_by = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        if FOLDER not in raised_by.parents:
            raise
        raise NotImplementedError(f"this commit is too old: {error}") from error


def use(device: str) -> None:
    """Has JAX use the CPU, unless told otherwise, for all but the GPU of this machine; to be called before JAX is
    imported."""
    if device != "gpu":
        os.environ.setdefault("JAX_PLATFORMS", "cpu")


def settle_allocator() -> None:
    """Gives this process the allocator's settings that workers are started with; to be called before JAX starts.

    Left alone, glibc returns the memory of large results at once, and each call faults its pages in again.
    """
    from normbench.study.clocks.memory import ALLOCATOR_ENVIRONMENT

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for name, number in MALLOPT.items():  # a tunable of glibc can be set only before a process starts
            mallopt(number, min(int(ALLOCATOR_ENVIRONMENT[name]), 2**31 - 1))


@cache
def prepare_timing(slug: str, device: str = "cpu") -> tuple[Callable, tuple]:
    """As `prepare`, with the memory that the timed calls will need at hand."""
    use(device)
    with older_commits_skipped():
        settle_allocator()
        from normbench.study.clocks.memory import prefault
        from normbench.study.worker.series import working_bytes

        compiled, inputs = prepare(slug, device)
        if device == "cpu":
            prefault(working_bytes(compiled))
    return compiled.call, inputs


@cache
def prepare(slug: str, device: str = "cpu") -> tuple[Any, tuple]:
    """A case that is compiled for this process's device, checked and called once, and its inputs.

    Raises:
      NotImplementedError: where this commit cannot do it; asv then skips the case.
      AssertionError: where its result is wrong.
    """
    compiled, inputs, error = _checked(slug, device)
    assert error.ok, f"{slug}: {error.reason}"
    return compiled, inputs


def error_of(slug: str) -> dict[str, Any]:
    """The error of a case on the CPU as `max_ulp`; or why there is none, as `skipped` or `failed`."""
    return _row(lambda: {"max_ulp": _checked(slug, "cpu")[2].max_ulp})


def structure_of(slug: str, target: str) -> dict[str, Any]:
    """What a case compiles to, as the columns of the table "compiled"; or why not, as `skipped` or `failed`."""
    return _row(lambda: _structure(slug, target))


def _row(find: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return find()
    except NotImplementedError as error:
        return {"skipped": str(error)}
    except Exception as error:  # whatever a compiler raises
        return {"failed": f"{type(error).__name__}: {error}"}


def _structure(slug: str, target: str) -> dict[str, Any]:
    use(target)
    with older_commits_skipped():
        from normbench.errors import UserError
        from normbench.fusion import compile_environment, compile_for

        os.environ.update(compile_environment())  # XLA's flags are read when its backend starts
        program = program_of(slug, target)
        try:
            return compile_for(program.function, program.inputs, target).compiled_row()
        except UserError as error:  # no compiler for it
            raise NotImplementedError(str(error)) from error


def _checked(slug: str, device: str):
    """A compiled case, its inputs, and its error.

    Raises:
      NotImplementedError: where this commit cannot do it.
    """
    use(device)
    with older_commits_skipped():
        from normbench.study.worker.compiled_case import check, compile_case, draw, inputs_of

        program_of(slug, device)  # skips what the commit does not have
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "hlo").mkdir()  # where a run keeps its compiled programs
            compiled, _ = compile_case(_case(slug), device, Path(folder))
        oracle = draw(compiled.case)
        inputs = inputs_of(compiled.program, oracle)
        return compiled, inputs, check(compiled, inputs, oracle, device)


def program_of(slug: str, target: str):
    """The program of a case, by the kernels of this commit.

    Raises:
      NotImplementedError: where it has no such operator or variant, or does not support it here.
    """
    with older_commits_skipped():
        from normbench import kernels
        from normbench.errors import UserError

        try:
            case = _case(slug)
            reason = kernels.get(case.operator, case.variant).supports(case.problem, target)
            if not reason:
                return kernels.program(case.problem, case.variant)
        except UserError as error:
            raise NotImplementedError(str(error)) from error
    raise NotImplementedError(reason)


def _case(slug: str):
    from normbench.cases.case import Case

    return Case.from_slug(slug)
