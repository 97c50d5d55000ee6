"""What PyTensor's backends make of the operators, beside JAX: sizes from call overhead alone to a layer of a model."""

from collections.abc import Iterator
from typing import Any

from normbench import kernels
from normbench.cases.presets.layers import BY_PROVENANCE, Layer, image_shape
from normbench.kernels.problem import Problem

Entry = tuple[Problem, str]

_NORMS = ("YOLO11n@640 model.0", "YOLO11n@640 model.8 cv1", "ResNet-50@224 layer1.0.conv1")
_CONVOLUTIONS = ("YOLO11n@640 model.1", "YOLO11n@640 model.4 cv2", "YOLO11n@640 model.8 m.0.cv3")
_OTHERS = (
    (Problem("batch_norm", (4, 8), "nc"), "call overhead"),
    (Problem("batch_norm", (8, 64, 28, 28), dtype="float64", param_dtype="float64"), "float64"),
    (Problem("layer_norm", (1, 128, 768), "nlc"), "BERT-base"),
    (Problem("rms_norm", (1, 128, 768), "nlc"), "768 features"),
    (Problem("group_norm", (1, 320, 64, 64)), "Stable Diffusion U-Net"),
    (Problem("instance_norm", (1, 64, 128, 128)), "style transfer@256"),
)


def problems() -> Iterator[Entry]:
    for provenance in _NORMS:
        layer = BY_PROVENANCE[provenance]
        shape = image_shape("nchw", 1, layer.features, layer.out_size, layer.out_size)
        yield Problem("batch_norm", shape, context=layer.context, epsilon=layer.epsilon), provenance
    for provenance in _CONVOLUTIONS:
        yield _convolution(BY_PROVENANCE[provenance]), provenance
    yield from _OTHERS


def variants(operator: str) -> tuple[str, ...]:
    """The baseline, what is folded ahead of the call, and what PyTensor compiles."""
    baseline, *others = kernels.variants(operator)
    ahead = (name for name in others if name == "prefolded")
    return (baseline, *ahead, *kernels.variants(operator, ("pytensor",)))


def _convolution(layer: Layer) -> Problem:
    options: dict[str, Any] = {"features": layer.features, "kernel": (layer.kernel,) * 2}
    if layer.padding:
        options["padding"] = ((layer.padding, layer.padding),) * 2
    if layer.stride > 1:
        options["stride"] = (layer.stride,) * 2
    shape = image_shape("nchw", 1, layer.channels, layer.size, layer.size)
    return Problem(
        "conv_bn", shape, context=layer.context, epsilon=layer.epsilon, options=tuple(sorted(options.items()))
    )
