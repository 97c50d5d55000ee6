"""Which checks of the compiled kernels a first run on a GPU has to pass, and what each of them is about.

Interpretation simulates shared memory, copies and barriers; what it cannot see is in
docs/kernels.md#hardware-checklist, item by item, with what JAX's sources say of it. Every item here has its name there.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from normbench.kernels.problem import Problem

MOSAIC, TRITON = "pallas_mosaic", "pallas_triton"
BOTH = (MOSAIC, TRITON)
FORWARD, BOTH_PASSES = "forward", "forward_backward"

PLAIN = "plain"
"""How: compiled, launched, compared with float64, and launched again, with the same bits each time."""
SLICED = "sliced"
"""How: x is a part of another array, cut out in the same program, so that it may begin at any address."""
DIRTY = "dirty"
"""How: the same program runs on NaN before, so that shared memory and registers are full of them."""
TOGETHER = "together"
"""How: six launches in a program, enough for XLA to make a graph of them, on other buffers each time."""
FAR = "far"
"""How: the tensor is made on the device, and only some rows are compared, as the host could not hold it."""
HARD = "hard"
"""How: data whose mean is far above their deviation."""


@dataclass(frozen=True, slots=True)
class Case:
    """One program of a check."""

    problem: Problem
    variant: str
    how: str = PLAIN


@dataclass(frozen=True, slots=True)
class Check:
    """An item of the checklist.

    Attributes:
      name: its anchor in docs/kernels.md.
      risk: what could go wrong, in a sentence.
      cases: sizes that hit it.
    """

    name: str
    risk: str
    cases: tuple[Case, ...]


def _cases(
    operator: str, shape: Sequence[int], layout: str, dtype: str = "bfloat16", pass_: str = BOTH_PASSES,
    context: str = "alone", variants: Sequence[str] = (MOSAIC,), how: str = PLAIN, param_dtype: str = "float32",
    **options: float | str,
) -> tuple[Case, ...]:  # fmt: skip
    problem = Problem(
        operator, tuple(shape), layout, dtype, param_dtype, pass_, context, options=tuple(sorted(options.items()))
    )
    return tuple(Case(problem, variant, how) for variant in variants)


CHECKS = (
    Check(
        "arrivals",
        "a barrier waits for another number of copies than arrive: the kernel hangs, or computes on what is not there",
        (
            *_cases("batch_norm_training", (8, 6, 64), "ncl"),
            *_cases("instance_norm", (2, 256, 64), "nlc"),
            *_cases("batch_norm_training", (2047, 2, 8), "ncl"),
            *_cases("batch_norm_training", (9000, 2, 8), "ncl", pass_=FORWARD),
            *_cases("batch_norm", (640, 8), "nc", "float32", FORWARD),
        ),
    ),
    Check(
        "phases",
        "a barrier that is used again and again is passed one turn early, or one too late",
        (
            *_cases("layer_norm", (7397, 128), "nc"),
            *_cases("rms_norm", (7397, 256), "nc", "float32"),
            *_cases("batch_norm", (50000, 64), "nc"),
            *_cases("layer_norm", (9000, 66), "nc", "float16"),
        ),
    ),
    Check(
        "fences",
        "the copy engine takes what threads have not written yet, or threads read what it has not",
        (
            *_cases("layer_norm", (4001, 256), "nc", "float32", context="residual"),
            *_cases("layer_norm", (8447, 256), "nc"),  # several rows to a block; the last is short
            *_cases("rms_norm", (4001, 384), "nc", context="cast"),
            *_cases("group_norm", (8, 64, 1024), "ncl", "float16", groups=8),
            *_cases("batch_norm_training", (4096, 64), "nc"),
        ),
    ),
    Check(
        "device-memory",
        "sums that a bulk store wrote to device memory are fetched again before they are there",
        (
            *_cases("rms_norm", (5, 65664), "nc"),
            *_cases("layer_norm", (4, 65537), "nc", "float32"),
            *_cases("batch_norm", (150, 12000), "nc", "float32"),
        ),
    ),
    Check(
        "scalars",
        "a scalar that every thread stores is overwritten, or read, out of turn: no barrier stands around it",
        (
            *_cases("group_norm", (2, 96, 64), "nlc", groups=8),
            *_cases("group_norm", (2, 1000, 48), "nlc", "float32", groups=3),
            *_cases("batch_norm_training", (300, 16), "nc", "float32"),
            *_cases("layer_norm", (64, 7), "nc", "float16"),
        ),
    ),
    Check(
        "exit",
        "a program ends, and its shared memory is given away, while copies to or from it are under way",
        (
            *_cases("layer_norm", (1, 1024), "nc", variants=BOTH),
            *_cases("layer_norm", (133, 1024), "nc", variants=BOTH),
            *_cases("rms_norm", (1057, 4096), "nc", variants=BOTH),
        ),
    ),
    Check(
        "alignment",
        "a bulk copy begins at an address that is no multiple of 16 bytes, or of 128 where it has lines",
        (
            *_cases("layer_norm", (8, 129), "nc", pass_=FORWARD, variants=BOTH, how=SLICED),
            *_cases("rms_norm", (16, 256), "nc", pass_=FORWARD, variants=BOTH, how=SLICED),
            *_cases("group_norm", (2, 8, 129), "ncl", pass_=FORWARD, variants=BOTH, how=SLICED, groups=2),
            *_cases("batch_norm", (4096, 32), "nc", "float32", FORWARD),
            *_cases("layer_norm", (1001, 1025), "nc"),
            *_cases("group_norm", (2, 8, 1023), "ncl", groups=2),
        ),
    ),
    Check(
        "left-behind",
        "what a former launch has left in shared memory is computed with where a window reaches beyond its slab",
        (
            *_cases("layer_norm", (5, 129), "nc", variants=BOTH, how=DIRTY),
            *_cases("group_norm", (1, 6, 7), "ncl", "float32", variants=BOTH, how=DIRTY, groups=2),
            *_cases("instance_norm", (2, 131, 8), "nlc", variants=BOTH, how=DIRTY),
            *_cases("batch_norm_training", (3, 5, 127), "ncl", "float16", variants=BOTH, how=DIRTY),
        ),
    ),
    Check(
        "shared-memory",
        "a program asks for more shared memory than the driver gives: all 227 KiB of it, arrays at whole KiB",
        (
            *_cases("layer_norm", (300, 11392), "nc", "float16"),
            *_cases("layer_norm", (140, 12288), "nc", "float32"),
            *_cases("group_norm", (1, 2, 56000), "ncl", groups=1),
        ),
    ),
    Check(
        "registers",
        "a row that is kept in registers is spilled, or an unrolled loop of it goes wrong",
        (
            *_cases("layer_norm", (264, 12288), "nc", pass_=FORWARD, variants=BOTH),
            *_cases("layer_norm", (66, 12288), "nc", "float32", FORWARD, "gelu"),
            *_cases("rms_norm", (66, 8192), "nc", "float32", BOTH_PASSES, "silu", BOTH),
        ),
    ),
    Check(
        "graphs",
        "launched from a CUDA graph, a kernel sees the buffers of the launch before",
        (
            *_cases("layer_norm", (64, 1024), "nc", pass_=FORWARD, variants=BOTH, how=TOGETHER),
            *_cases("rms_norm", (64, 129), "nc", pass_=FORWARD, variants=BOTH, how=TOGETHER),
            *_cases("batch_norm", (2, 16, 196), "ncl", pass_=FORWARD, variants=BOTH, how=TOGETHER),
        ),
    ),
    Check(
        "programs",
        "more programs than the 65535 that a grid's second dimension takes",
        _cases("instance_norm", (70, 1001, 128), "ncl", pass_=FORWARD, variants=BOTH),
    ),
    Check(
        "addresses",
        "an offset of more than 2 GiB is counted in 32 bits",
        (
            *_cases("layer_norm", (523000, 4096), "nc", pass_=FORWARD, variants=BOTH, how=FAR),
            *_cases("rms_norm", (523000, 4099), "nc", pass_=FORWARD, variants=BOTH, how=FAR),
        ),
    ),
    Check(
        "instructions",
        "the device's own exponential, error function, root and roundings are coarser than those of a CPU",
        (
            *_cases("layer_norm", (65, 512), "nc", "float32", context="gelu", variants=BOTH),
            *_cases("rms_norm", (65, 512), "nc", "float16", context="silu", variants=BOTH),
            *_cases("batch_norm", (4, 32, 256), "ncl", "float32", FORWARD, "gelu", BOTH),
            *_cases("layer_norm", (65, 4096), "nc", "float32", FORWARD, variants=BOTH, how=HARD),
            *_cases("instance_norm", (1, 2, 60000), "ncl", "float32", FORWARD, variants=BOTH, how=HARD),
            *_cases(
                "rms_norm", (65, 4096), "nc", pass_=FORWARD, variants=BOTH, fp8_scale=0.03125, hat_dtype="bfloat16"
            ),
            *_cases("rms_norm", (65, 999), "nc", variants=(TRITON,), fp8_scale=0.005),
        ),
    ),
    Check(
        "masks",
        "a masked element beyond the end of an array is read, counted or written all the same",
        (
            *_cases("layer_norm", (3, 4097), "nc", variants=BOTH),
            *_cases("batch_norm", (7, 129, 127), "ncl", "float16", variants=BOTH),
            *_cases("batch_norm_training", (127, 129), "nc", "float32", variants=(TRITON,)),
            *_cases("group_norm", (1, 385, 14), "nlc", variants=(TRITON,), groups=2),
            *_cases("instance_norm", (2, 3, 16385), "ncl", variants=BOTH),
        ),
    ),
    Check(
        "order",
        "sums of many programs are added before all are written, or in another order each time",
        (
            *_cases("layer_norm", (3000, 768), "nc", variants=BOTH),
            *_cases("rms_norm", (3000, 1000), "nc", "float16", variants=BOTH),
            *_cases("batch_norm_training", (32, 64, 3136), "ncl", variants=BOTH),
            *_cases("group_norm", (8, 3136, 64), "nlc", variants=BOTH, groups=32),
        ),
    ),
)
"""In the order in which they run: what makes all else wrong comes first."""


def named(names: Sequence[str]) -> tuple[Check, ...]:
    """The checks of these names, in their own order."""
    return tuple(check for check in CHECKS if check.name in names)
