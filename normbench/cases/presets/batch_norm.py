"""Problems of the inference batch norm: the outputs of the models' convolutions, and sizes off any alignment."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle, product

from normbench.cases.presets.layers import BY_PROVENANCE, LAYERS, Layer, image_shape
from normbench.kernels.contexts import CONTEXTS_AND_RESIDUAL
from normbench.kernels.problem import Problem

Entry = tuple[Problem, str]

# Provenance, batch, layout, dtype. One image of 0.2 to 8 MB mostly; two tensors of 16 to 32 MB, one above most caches.
_SMOKE = (
    ("YOLO11n@640 model.8 cv1", 1, "nchw", "float32"),
    ("ResNet-50@224 layer1.0.conv1", 1, "nhwc", "bfloat16"),
)
_QUICK = (
    ("YOLO11n@640 model.0", 1, "nchw", "float32"),
    ("YOLO11n@640 model.0", 1, "nhwc", "bfloat16"),
    ("YOLO11n@640 model.6 cv1", 8, "nhwc", "bfloat16"),
    ("YOLO11n@640 model.10 m.0.attn.qkv", 8, "nchw", "float32"),
    ("ResNet-50@224 layer1.0.conv1", 8, "nchw", "bfloat16"),
    ("ResNet-50@224 layer1.0.conv3", 8, "nhwc", "float32"),
    ("ResNet-50@224 layer2.0.conv3", 1, "nchw", "float64"),
    ("ResNet-50@224 layer4.0.conv3", 32, "nchw", "float32"),
    ("MobileNetV3-Large@224 features.1 depthwise", 1, "nhwc", "float64"),
    ("MobileNetV3-Large@224 features.14 depthwise", 32, "nhwc", "bfloat16"),
    ("U-Net-32@256 bottleneck.conv2", 8, "nhwc", "bfloat16"),
)

# Context, layout and provenance of what is more than an activation: 32 images in bfloat16.
_SURROUNDED = (
    ("residual", "nhwc", "pre-activation ResNet-50@224, x + branch of layer3"),
    ("residual", "nchw", "pre-activation ResNet-50@224, x + branch of layer3"),
    ("cast", "nhwc", "ResNet-50@224 layer3.0.conv3, features in float32"),
    ("gelu", "nhwc", "ResNet-50@224 layer3.0.conv3, with GELU"),
)
_ALIGNED = (256, 56, 56)  # ResNet-50 layer1: a multiple of every vector width and tile size
_OFFSETS = (1, 2, 4, 8, 16)
_PRIMES = ((251, 53, 47), (127, 31, 37), (3, 257, 251))

# Everything but images, NCHW and NHWC: shape, layout, provenance.
_OTHER_RANKS = (
    ((4096,), "c", "one vector"),
    ((4097,), "c", "off-alignment: one vector of 4096 plus 1"),
    ((32, 512), "nc", "PointNet fc1"),
    ((2048, 1000), "nc", "off-alignment: 2048x1024 minus 24 channels"),
    ((32, 64, 1024), "ncl", "PointNet@1024 conv1"),
    ((32, 1024, 64), "nlc", "PointNet@1024 conv1"),
    ((1, 64, 16, 56, 56), "ncdhw", "R3D-18@16x112 layer1"),
    ((1, 16, 56, 56, 64), "ndhwc", "R3D-18@16x112 layer1"),
)

_MAX_BYTES = 2**30  # of x; larger ones leave no room for a cold rotation of inputs on a common machine
_ITEM_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


def smoke() -> Iterator[Entry]:
    yield from _chosen(_SMOKE)


def quick() -> Iterator[Entry]:
    yield from _chosen(_QUICK)
    yield _off((255, 56, 56), 1, "nhwc", "bfloat16", "256x56x56 minus 1 channel")
    yield _off((257, 56, 56), 1, "nchw", "float32", "256x56x56 plus 1 channel")
    yield _off((127, 31, 37), 8, "nhwc", "float32", "primes")
    yield _other(((32, 512), "nc", "PointNet fc1"), "float32")


def standard() -> Iterator[Entry]:
    """Every distinct output of the models once, in turn over dtype and layout; backward passes for a few."""
    settings = cycle(product((1, 8), ("bfloat16", "float32"), ("nhwc", "nchw")))
    for layer, (batch, dtype, layout) in zip(_distinct(), settings, strict=False):
        yield _problem(layer, batch, layout, dtype), layer.provenance
    for name, pass_ in product(_TRAINED[::2], ("backward", "forward_backward")):
        layer = BY_PROVENANCE[name]
        yield replace(_problem(layer, 8, "nhwc", "bfloat16"), pass_=pass_), layer.provenance
    yield from _off_alignment(8, "nhwc", "bfloat16", _OFFSETS[:1])
    for other in _OTHER_RANKS:
        yield _other(other, "float32")
    yield from _surrounded()


def exhaustive() -> Iterator[Entry]:
    """Every distinct output with each batch size, layout and dtype; passes, contexts and parameter dtypes for some."""
    for problem, provenance in _everything():
        if problem.channels and _bytes(problem) <= _MAX_BYTES:
            yield problem, provenance


def _everything() -> Iterator[Entry]:
    half_or_single = ("bfloat16", "float32")
    for layer, batch, layout, dtype in product(_distinct(), (1, 8, 32), ("nchw", "nhwc"), half_or_single):
        yield _problem(layer, batch, layout, dtype), layer.provenance
    for name, layout, dtype in product(_TRAINED, ("nchw", "nhwc"), ("float32", "float64", "bfloat16", "float16")):
        layer = BY_PROVENANCE[name]
        forward = _problem(layer, 8, layout, dtype)
        for pass_, context in product(("forward", "backward", "forward_backward"), CONTEXTS_AND_RESIDUAL):
            yield replace(forward, pass_=pass_, context=context), layer.provenance
        for param_dtype in ("bfloat16", "float16", "float64"):
            yield replace(forward, param_dtype=param_dtype), layer.provenance
    for batch, layout, dtype in product((1, 8), ("nchw", "nhwc"), half_or_single):
        yield from _off_alignment(batch, layout, dtype, _OFFSETS)
    for other, dtype in product(_OTHER_RANKS, ("float32", "float64", "bfloat16", "float16")):
        yield _other(other, dtype)
    yield from _surrounded()


# Layers for what is too costly on every layer: one of each size class, from early and wide to late and deep.
_TRAINED = (
    "YOLO11n@640 model.2 cv1",
    "YOLO11n@640 model.23 cv3.0.0.1",
    "ResNet-50@224 layer1.0.conv3",
    "ResNet-50@224 layer4.0.conv3",
    "MobileNetV3-Large@224 features.11 expand",
    "U-Net-32@256 encoder3.conv2",
)


def _chosen(rows: tuple) -> Iterator[Entry]:
    for provenance, batch, layout, dtype in rows:
        yield _problem(BY_PROVENANCE[provenance], batch, layout, dtype), provenance


def _problem(layer: Layer, batch: int, layout: str, dtype: str) -> Problem:
    shape = image_shape(layout, batch, layer.features, layer.out_size, layer.out_size)
    return Problem("batch_norm", shape, layout, dtype, context=layer.context, epsilon=layer.epsilon)


def _surrounded() -> Iterator[Entry]:
    for context, layout, provenance in _SURROUNDED:
        problem = _problem(BY_PROVENANCE["ResNet-50@224 layer3.0.conv3"], 32, layout, "bfloat16")
        yield replace(problem, context=context), provenance


def _distinct() -> tuple[Layer, ...]:
    """The first layer with each output size."""
    return tuple({(layer.features, layer.out_size): layer for layer in reversed(LAYERS)}.values())[::-1]


def _off_alignment(batch: int, layout: str, dtype: str, offsets: tuple[int, ...]) -> Iterator[Entry]:
    channels, height, width = _ALIGNED
    for offset in offsets:
        plural = "channel" if offset == 1 else "channels"
        for sign, word in ((-1, "minus"), (1, "plus")):
            sizes = (channels + sign * offset, height, width)
            yield _off(sizes, batch, layout, dtype, f"256x56x56 {word} {offset} {plural}")
            sizes = (channels, height, width + sign * offset)
            yield _off(sizes, batch, layout, dtype, f"256x56x56 {word} {offset} of width")
    for sizes in _PRIMES:
        yield _off(sizes, batch, layout, dtype, "primes")
    yield _off((1, 56, 56), batch, layout, dtype, "one channel")
    yield _off((256, 1, 1), batch, layout, dtype, "one pixel")


def _off(sizes: tuple[int, int, int], batch: int, layout: str, dtype: str, what: str) -> Entry:
    return Problem("batch_norm", image_shape(layout, batch, *sizes), layout, dtype), f"off-alignment: {what}"


def _other(row: tuple[tuple[int, ...], str, str], dtype: str) -> Entry:
    shape, layout, provenance = row
    return Problem("batch_norm", shape, layout, dtype), provenance


def _bytes(problem: Problem) -> int:
    size = _ITEM_BYTES[problem.dtype]
    for axis in problem.shape:
        size *= axis
    return size
