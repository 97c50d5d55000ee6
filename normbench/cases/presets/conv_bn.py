"""Problems of convolution, batch norm and activation: the models' own layers, and channel counts off any alignment."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle, product

from normbench.cases.presets.layers import BY_PROVENANCE, LAYERS, Layer, image_shape
from normbench.kernels.problem import Problem

Entry = tuple[Problem, str]

# Provenance, batch, layout, dtype; under half a GFLOP each: the float64 reference computes them too.
_SMOKE = (
    ("YOLO11n@640 model.8 m.0.cv3", 1, "nchw", "float32"),
    ("MobileNetV3-Large@224 features.5 depthwise", 1, "nhwc", "bfloat16"),
)
_QUICK = (
    ("YOLO11n@640 model.0", 1, "nchw", "float32"),
    ("YOLO11n@640 model.1", 1, "nhwc", "bfloat16"),
    ("YOLO11n@640 model.4 cv2", 1, "nhwc", "float32"),
    ("YOLO11n@640 model.6 m.0.m.0.cv1", 8, "nchw", "float32"),
    ("YOLO11n@640 model.8 m.0.cv3", 32, "nhwc", "bfloat16"),
    ("YOLO11n@640 model.10 m.0.attn.pe", 8, "nchw", "float32"),
    ("YOLO11n@640 model.23 cv3.0.0.0", 1, "nhwc", "bfloat16"),
    ("ResNet-50@224 conv1", 1, "nhwc", "float32"),
    ("ResNet-50@224 layer1.0.conv2", 1, "nchw", "float32"),
    ("MobileNetV3-Large@224 features.5 project", 8, "nhwc", "float64"),
)

# Layers with every feature of a convolution, for what is too costly on every layer.
_VARIED = (
    "YOLO11n@640 model.3",
    "YOLO11n@640 model.6 cv2",
    "YOLO11n@640 model.10 m.0.attn.pe",
    "ResNet-50@224 layer3.0.downsample",
    "pix2pix U-Net@256 up 32",
    "VGG-16-BN@224 features.34",
    "ResNeXt-50-32x4d@224 layer4.1.conv2",
    "DeepLabV3-ResNet-50@224 layer3.1.conv2",
)

_MAX_FLOPS = 2e10  # for the whole batch: about a second on two slow cores


def smoke() -> Iterator[Entry]:
    yield from _chosen(_SMOKE)


def quick() -> Iterator[Entry]:
    yield from _chosen(_QUICK)
    yield _off(127, 131, 1, "nhwc", "float32", "128 to 128 channels minus 1, plus 3 (primes)")


def standard() -> Iterator[Entry]:
    """Every fifth distinct convolution and all of the varied ones once, in turn over dtype and layout."""
    settings = cycle(product(("bfloat16", "float32"), ("nhwc", "nchw")))
    layers = (*_distinct()[::5], *(BY_PROVENANCE[name] for name in _VARIED))
    for layer, (dtype, layout) in zip(layers, settings, strict=False):
        yield _problem(layer, 1, layout, dtype), layer.provenance
    yield from _off_alignment(1, "nhwc", "bfloat16", (1,))
    for context in ("gelu", "cast"):
        problem = _problem(BY_PROVENANCE["ResNet-50@224 layer3.0.downsample"], 1, "nhwc", "bfloat16")
        yield replace(problem, context=context), f"ResNet-50@224 layer3.0.downsample, with {context}"


def exhaustive() -> Iterator[Entry]:
    """Every distinct convolution with each batch size, as on a GPU and as on a CPU; the product for the varied ones."""
    usual = (("nhwc", "bfloat16"), ("nchw", "float32"))
    for layer, batch, (layout, dtype) in product(_distinct(), (1, 8, 32), usual):
        if layer.flops * batch <= _MAX_FLOPS:
            yield _problem(layer, batch, layout, dtype), layer.provenance
    for name, layout, dtype in product(_VARIED, ("nchw", "nhwc"), ("float32", "float64", "bfloat16", "float16")):
        layer = BY_PROVENANCE[name]
        for pass_, param_dtype in product(("forward", "backward", "forward_backward"), ("float32", dtype)):
            yield _problem(layer, 1, layout, dtype, pass_, param_dtype), layer.provenance
    for layout, dtype in usual:
        yield from _off_alignment(8, layout, dtype, (1, 2, 4, 8, 16))


def _chosen(rows: tuple) -> Iterator[Entry]:
    for provenance, batch, layout, dtype in rows:
        yield _problem(BY_PROVENANCE[provenance], batch, layout, dtype), provenance


def _problem(
    layer: Layer, batch: int, layout: str, dtype: str, pass_: str = "forward", param_dtype: str = "float32"
) -> Problem:
    shape = image_shape(layout, batch, layer.channels, layer.size, layer.size)
    return Problem("conv_bn", shape, layout, dtype, param_dtype, pass_, layer.context, layer.epsilon, _options(layer))


def _options(layer: Layer) -> tuple:
    """The layer's options, without those at their default."""
    padding = (layer.padding, layer.padding)
    options = {
        "features": layer.features,
        "kernel": (layer.kernel, layer.kernel),
        "stride": (layer.stride, layer.stride) if layer.stride > 1 else None,
        "padding": (padding, padding) if layer.padding else None,
        "dilation": (layer.dilation, layer.dilation) if layer.dilation > 1 else None,
        "groups": layer.groups if layer.groups > 1 else None,
        "bias": layer.bias or None,
        "transposed": layer.transposed or None,
    }
    return tuple(sorted((name, value) for name, value in options.items() if value is not None))


def _distinct() -> tuple[Layer, ...]:
    """The first layer with each input and options."""
    return tuple({(layer.channels, layer.size, _options(layer)): layer for layer in reversed(LAYERS)}.values())[::-1]


def _off_alignment(batch: int, layout: str, dtype: str, offsets: tuple[int, ...]) -> Iterator[Entry]:
    for offset in offsets:
        for sign, word in ((-1, "minus"), (1, "plus")):
            channels = 128 + sign * offset
            yield _off(channels, channels, batch, layout, dtype, f"128 to 128 channels {word} {offset}")
    yield _off(127, 131, batch, layout, dtype, "128 to 128 channels minus 1, plus 3 (primes)")
    yield _off(1, 1, batch, layout, dtype, "one channel")


def _off(channels: int, features: int, batch: int, layout: str, dtype: str, what: str) -> Entry:
    layer = Layer("off-alignment:", what, channels, 28, features, 3, context="silu")
    return _problem(layer, batch, layout, dtype), layer.provenance
