"""Problems of local response norm: AlexNet (Krizhevsky et al. 2012, k = 2) and GoogLeNet (Szegedy et al. 2015)."""

from normbench.cases.presets.family import Family, Layer
from normbench.cases.presets.layers import image_shape

# The paper's alpha of 1e-4 multiplies the sum itself; the operator's is divided by the window's size.
_ALEXNET = (("alpha", 5e-4), ("beta", 0.75), ("k", 2.0), ("size", 5))
_GOOGLENET = (("alpha", 1e-4), ("beta", 0.75), ("k", 1.0), ("size", 5))
_EVEN = (("alpha", 1e-4), ("beta", 0.75), ("k", 1.0), ("size", 4))


def _layer(layout: str, batch: int, channels: int, size: int, provenance: str, options: tuple) -> Layer:
    return Layer(image_shape(layout, batch, channels, size, size), layout, provenance, options=options)


_FIRST = _layer("nchw", 8, 96, 55, "AlexNet@224 norm1", _ALEXNET)
_SECOND = _layer("nhwc", 8, 256, 27, "AlexNet@224 norm2", _ALEXNET)
_GOOGLE_FIRST = _layer("nhwc", 8, 64, 56, "GoogLeNet@224 pool1/norm1", _GOOGLENET)
_GOOGLE_SECOND = _layer("nchw", 8, 192, 56, "GoogLeNet@224 conv2/norm2", _GOOGLENET)
_ODD = (
    _layer("nchw", 1, 97, 13, "off-alignment: 97 channels of 13x13, even window", _EVEN),
    _layer("nhwc", 1, 97, 13, "off-alignment: 97 channels of 13x13, even window", _EVEN),
    _layer("nchw", 8, 3, 57, "off-alignment: fewer channels than the window", _GOOGLENET),
)

LOCAL_RESPONSE_NORM = Family(
    operator="local_response_norm",
    smoke_layers=((_ODD[0], "float32"),),
    quick_layers=((_SECOND, "bfloat16"), (_FIRST, "float32"), (_ODD[0], "float64")),
    layers=(_FIRST, _SECOND, _GOOGLE_FIRST, _GOOGLE_SECOND),
    trained=(_FIRST, _SECOND),
    odd=_ODD,
    contexts=("alone",),
)  # fmt: skip
