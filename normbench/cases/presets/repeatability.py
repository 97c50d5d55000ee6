"""Do timings repeat? Outputs of 0.8, 16 and 32 MB: below and above what an allocator takes from fresh pages."""

from collections.abc import Iterator

from normbench.kernels.problem import Problem

_SHAPES = ((1, 64, 56, 56), (8, 128, 64, 64), (8, 256, 64, 64))


def problems() -> Iterator[tuple[Problem, str]]:
    for shape in _SHAPES:
        yield Problem("batch_norm", shape), "repeatability"


def variants(operator: str) -> tuple[str, ...]:
    return ("naive", "folded")
