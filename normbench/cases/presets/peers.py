"""What a user would pick instead, beside the best of ours: layers of models for each operator, small, middle and large.

Sizes of 3 KB to 34 MB, in float32 and bfloat16, with channels first and last, forward and with gradients, which a CPU
measures in some minutes; a budget of time on a GPU takes the peers into its own plan.
"""

from collections.abc import Iterator
from dataclasses import replace

from normbench import kernels
from normbench.cases.presets.layers import image_shape
from normbench.kernels.problem import Problem
from normbench.kernels.registry import PEERS

Entry = tuple[Problem, str]

OURS = ("prefolded", "custom_vjp", "jax_nn", "flax", "native", "pallas_triton", "pallas_mosaic")
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


def _trained(problem: Problem) -> Problem:
    return replace(problem, pass_="forward_backward")


def _images(problem: Problem, batch: int, channels: int, size: int, *dtypes: str) -> Iterator[Problem]:
    """The images in NCHW and in NHWC, each in its own dtype."""
    for layout, dtype in zip(("nchw", "nhwc"), dtypes, strict=True):
        yield replace(problem, shape=image_shape(layout, batch, channels, size, size), layout=layout, dtype=dtype)


_YOLO = Problem("batch_norm", (1, 64, 80, 80), context="silu", epsilon=1e-3)
_DEEP = Problem("batch_norm", (8, 2048, 7, 7), context="relu")
_ROWS = {
    "layer_norm": (
        ((1, 1, 768), "float32", "GPT-2 decoding, ln_1"),
        ((1, 197, 768), "float32", "ViT-B/16@224 encoder.ln_1, one image"),
        ((8, 197, 768), "bfloat16", "ViT-B/16@224 encoder.ln_1"),
        ((1, 56 * 56, 96), "float32", "ConvNeXt-T@224 features.1.0 norm"),
    ),
    "rms_norm": (
        ((1, 1, 4096), "bfloat16", "Llama-3-8B decoding, input_layernorm"),
        ((32, 1, 4096), "float32", "Llama-3-8B decoding, batch of 32, input_layernorm"),
        ((1, 512, 4096), "float32", "Llama-3-8B@512 input_layernorm"),
        ((512, 32, 128), "bfloat16", "Qwen3@512 self_attn.q_norm, 32 heads of 128"),
    ),
}


def _more() -> Iterator[Entry]:
    """Small and large, both layouts, both passes: each operator beyond its first layers."""
    for operator, rows in _ROWS.items():
        for shape, dtype, provenance in rows:
            problem = Problem(operator, shape, "nlc", dtype)
            yield problem, provenance
            yield _trained(problem), provenance
    for problem in _images(_YOLO, 1, 64, 80, "float32", "bfloat16"):
        yield problem, "YOLO11n@640 model.4 cv1"
    for problem in _images(_YOLO, 1, 256, 20, "bfloat16", "float32"):
        yield problem, "YOLO11n@640 model.8 cv1"
    for problem in _images(_DEEP, 8, 2048, 7, "bfloat16", "float32"):
        yield problem, "ResNet-50@224 layer4.0.conv3"
        yield _trained(replace(problem, operator="batch_norm_training")), "ResNet-50@224 layer4.0.conv3"
    for problem in _images(replace(_YOLO, operator="batch_norm_training"), 4, 32, 160, "bfloat16", "float32"):
        yield _trained(problem), "YOLO11n@640 model.2 cv1"
    for problem in _images(_GROUPS, 1, 1280, 8, "float32", "bfloat16"):
        yield problem, "Stable Diffusion 1.5@512 mid_block.resnets.0.norm1"
    for problem in _images(_GROUPS, 2, 320, 64, "bfloat16", "float32"):
        yield problem, "Stable Diffusion 1.5@512 down_blocks.0.resnets.0.norm1"
        yield _trained(problem), "Stable Diffusion 1.5@512 down_blocks.0.resnets.0.norm1"
    for problem in _images(_STYLE, 1, 128, 64, "bfloat16", "float32"):
        yield problem, "fast style transfer@256 res1.conv1"
        yield _trained(problem), "fast style transfer@256 res1.conv1"
    for problem in _images(_ALEXNET, 8, 256, 27, "float32", "bfloat16"):
        yield problem, "AlexNet@224 norm2"


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
    yield from ((_trained(problem), provenance) for problem, provenance in _TRAINED)
    yield from _more()


def variants(operator: str) -> tuple[str, ...]:
    """The baseline, the best of ours, and the peers."""
    baseline, *others = kernels.variants(operator)
    return (baseline, *(name for name in others if name in OURS), *kernels.variants(operator, PEERS))
