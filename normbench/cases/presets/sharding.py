"""Norms whose arrays are divided between devices: what the compiler makes of them, and variants written for many.

Sizes are those of models in training: ResNet-50 with 32 images on each of 8 or 64 devices, Llama-3-8B's rows over a
sequence of 8192 (tensor parallel: the hidden dimension over 8; sequence parallel: the sequence over 8), and a block of
Stable Diffusion 1.5 with its channels over 4. They are compiled for devices that need not be there, and never timed.
"""

from collections.abc import Iterator
from dataclasses import replace

from normbench import kernels
from normbench.kernels.problem import Problem
from normbench.kernels.registry import MESH

Entry = tuple[Problem, str]

OURS = ("naive", "one_pass", "custom_vjp", "pallas_triton")
"""Of the variants for one device: the textbook formula, one read of x, a gradient by hand, and a kernel by hand."""

_RESNET = "ResNet-50@224 layer1.0.conv3, 32 images on each device"
_LLAMA = "Llama-3-8B@8192 input_layernorm"
_PROBLEMS = (
    (Problem("batch_norm_training", (256, 56, 56, 256), "nhwc", "bfloat16", context="batch8"), _RESNET),
    (Problem("batch_norm_training", (2048, 56, 56, 256), "nhwc", "bfloat16", context="batch64"), _RESNET),
    (Problem("layer_norm", (1, 8192, 4096), "nlc", "bfloat16", context="hidden8"), "8192 rows of 4096"),
    (Problem("layer_norm", (1, 8192, 4096), "nlc", "bfloat16", context="sequence8"), "8192 rows of 4096"),
    (Problem("rms_norm", (1, 8192, 4096), "nlc", "bfloat16", context="hidden8"), _LLAMA),
    (Problem("rms_norm", (1, 8192, 4096), "nlc", "bfloat16", context="sequence8"), _LLAMA),
    (
        Problem("group_norm", (16, 64, 64, 320), "nhwc", "bfloat16", context="channels4", options=(("groups", 32),)),
        "Stable Diffusion 1.5@512 down_blocks.0, batch of 16",
    ),
)


def problems() -> Iterator[Entry]:
    for problem, provenance in _PROBLEMS:
        for pass_ in ("forward", "forward_backward"):
            yield replace(problem, pass_=pass_), provenance


def variants(operator: str) -> tuple[str, ...]:
    """The baseline and some more that the compiler divides, and those that are written for many devices."""
    return (*(name for name in kernels.variants(operator) if name in OURS), *kernels.variants(operator, (MESH,)))
