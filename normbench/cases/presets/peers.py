"""What a user would pick instead, beside the best of ours: a layer or two of a model for each operator.

Sizes of 3 to 34 MB, which a CPU measures in some minutes; a budget of time on a GPU takes the peers into its own plan.
"""

from collections.abc import Iterator
from dataclasses import replace

from normbench import kernels
from normbench.kernels.problem import Problem
from normbench.kernels.registry import PEERS

Entry = tuple[Problem, str]

OURS = ("folded", "prefolded", "one_pass", "custom_vjp", "jax_nn", "flax", "pallas_triton", "pallas_mosaic")
"""Beside the baseline: the forms that are the fastest somewhere, and what comes with JAX and Flax."""


def _narrow(problem: Problem, channels_last: tuple[int, ...] | None = None) -> Problem:
    """In bfloat16, and in NHWC where a shape is given."""
    last = replace(problem, shape=channels_last, layout="nhwc") if channels_last else problem
    return replace(last, dtype="bfloat16")


_RESNET = "ResNet-50@224 layer1.0.conv1"
_DIFFUSION = "Stable Diffusion 1.5@512 down_blocks.1.resnets.1.norm1"
_BATCH_NORM = Problem("batch_norm", (8, 64, 56, 56), context="relu")
_TRAINING = replace(_BATCH_NORM, operator="batch_norm_training")
_TRAINING_LAST = _narrow(_TRAINING, (8, 56, 56, 64))
_GPT2 = _narrow(Problem("layer_norm", (4, 1024, 768), "nlc"))
_LLAMA = _narrow(Problem("rms_norm", (1, 1024, 4096), "nlc"))
_GROUPS = Problem("group_norm", (2, 640, 32, 32), context="silu", options=(("groups", 32),))
_STYLE = Problem("instance_norm", (2, 64, 128, 128), context="relu")
_ALEXNET = Problem(
    "local_response_norm", (8, 96, 55, 55), options=(("alpha", 5e-4), ("beta", 0.75), ("k", 2.0), ("size", 5))
)

_FORWARD = (
    (_BATCH_NORM, _RESNET),
    (_narrow(_BATCH_NORM, (8, 56, 56, 64)), _RESNET),
    (_TRAINING, _RESNET),
    (_TRAINING_LAST, _RESNET),
    (_GPT2, "GPT-2@1024 ln_1"),
    (Problem("layer_norm", (16, 128, 1024), "nlc", epsilon=1e-12), "BERT-large@128 attention.output.LayerNorm"),
    (replace(_GPT2, context="residual"), "GPT-2@1024 ln_2 of x + attention"),
    (_LLAMA, "Llama-3-8B@1024 input_layernorm"),
    (replace(_LLAMA, context="residual"), "Llama-3-8B@1024 post_attention_layernorm of x + attention"),
    (_GROUPS, _DIFFUSION),
    (_narrow(_GROUPS, (2, 32, 32, 640)), _DIFFUSION),
    (_STYLE, "fast style transfer@256 conv2"),
    (_ALEXNET, "AlexNet@224 norm1"),
)
_TRAINED = (
    (replace(_TRAINING_LAST, context="alone"), _RESNET),
    (_GPT2, "GPT-2@1024 ln_1"),
    (_LLAMA, "Llama-3-8B@1024 input_layernorm"),
    (_GROUPS, _DIFFUSION),
    (_ALEXNET, "AlexNet@224 norm1"),
)


def problems() -> Iterator[Entry]:
    yield from _FORWARD
    yield from ((replace(problem, pass_="forward_backward"), provenance) for problem, provenance in _TRAINED)


def variants(operator: str) -> tuple[str, ...]:
    """The baseline, the best of ours, and the peers."""
    baseline, *others = kernels.variants(operator)
    return (baseline, *(name for name in others if name in OURS), *kernels.variants(operator, PEERS))
