"""Problems of the training batch norm: the convolutions of ResNet-50 and YOLO11n, and sizes off any alignment."""

from dataclasses import replace

from normbench.cases.presets.family import OFFSETS, Family, Layer, off_by
from normbench.cases.presets.layers import BY_PROVENANCE, image_shape
from normbench.kernels.contexts import CONTEXTS_AND_RESIDUAL

_YOLO_MOMENTUM = (("momentum", 0.03),)


def _layer(layout: str, batch: int, name: str) -> Layer:
    layer = BY_PROVENANCE[name]
    shape = image_shape(layout, batch, layer.features, layer.out_size, layer.out_size)
    options = _YOLO_MOMENTUM if name.startswith("YOLO") else ()
    return Layer(shape, layout, name, layer.epsilon, layer.context, options)


def _odd(layout: str, channels: int, width: int, provenance: str) -> Layer:
    return Layer(image_shape(layout, 8, channels, 28, width), layout, provenance)


_PREACTIVATION = replace(
    _layer("nhwc", 32, "ResNet-50@224 layer3.0.conv3"), provenance="pre-activation ResNet-50@224, x + branch of layer3",
    context="residual")  # fmt: skip
_SMALL = _layer("nchw", 8, "ResNet-50@224 layer4.0.conv3")
_WIDE = tuple(_layer(layout, 8, "ResNet-50@224 layer1.0.conv3") for layout in ("nchw", "nhwc"))
_WIDE_CAST = replace(_WIDE[1], provenance="ResNet-50@224 layer1.0.conv3, y in float32", context="cast")
_ODD = (
    *(_odd("nhwc", 256 + offset, 28, off_by(offset, "256 channels")) for offset in OFFSETS),
    *(_odd("nchw", 256, 28 + offset, off_by(offset, "width of 28")) for offset in OFFSETS),
    Layer((127, 31), "nc", "off-alignment: primes"),
    Layer((4096, 1), "nc", "one channel"),
    Layer((2, 4099), "nc", "two values for each channel"),
)

BATCH_NORM_TRAINING = Family(
    operator="batch_norm_training",
    smoke_layers=((_layer("nchw", 1, "YOLO11n@640 model.8 cv1"), "float32"),),
    quick_layers=((_SMALL, "bfloat16"), (_layer("nhwc", 1, "YOLO11n@640 model.4 cv2"), "float32"),
                  (_ODD[-3], "float64")),
    layers=tuple(_layer(layout, batch, name) for name, layout, batch in (
        ("YOLO11n@640 model.0", "nhwc", 8),
        ("YOLO11n@640 model.2 cv1", "nchw", 8),
        ("YOLO11n@640 model.4 cv2", "nhwc", 8),
        ("YOLO11n@640 model.6 cv1", "nchw", 8),
        ("YOLO11n@640 model.23 cv3.0.0.1", "nhwc", 8),
        ("ResNet-50@224 conv1", "nchw", 32),
        ("ResNet-50@224 layer1.0.conv1", "nhwc", 32),
        ("ResNet-50@224 layer2.0.conv3", "nchw", 32),
        ("ResNet-50@224 layer3.0.conv3", "nhwc", 32),
        ("ResNet-50@224 layer4.0.conv3", "nchw", 32),
    )),
    trained=(*_WIDE, _layer("nhwc", 32, "ResNet-50@224 layer3.0.conv3")),
    odd=_ODD,
    surrounded=((_PREACTIVATION, "forward"), (_PREACTIVATION, "forward_backward"),
                (_WIDE_CAST, "forward")),
    contexts=CONTEXTS_AND_RESIDUAL,
)  # fmt: skip
