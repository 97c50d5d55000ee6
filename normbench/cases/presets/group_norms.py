"""Problems of group norm and instance norm: U-Nets of diffusion, generators of images, and sizes off any alignment.

Sizes are those of the models' own definitions: the U-Net and the decoder of Stable Diffusion 1.5 (32 groups; blocks of
ResNet with SiLU at epsilon 1e-5, attention alone at 1e-6; two images for guidance), the transformation network of fast
style transfer (Johnson et al. 2016, its instance norm form), CycleGAN's generator (Zhu et al. 2017), and the first
layer of wav2vec 2.0 base (Baevski et al. 2020: a group for each of 512 channels, then GELU, 3199 frames of one second).
"""

from collections.abc import Iterator

from normbench.cases.presets.family import OFFSETS, Family, Layer, off_by
from normbench.cases.presets.layers import image_shape
from normbench.kernels.contexts import CONTEXTS_AND_RESIDUAL

_GROUPS = (("groups", 32),)


def _images(batch: int, channels: int, size: int, provenance: str, **fields) -> tuple[Layer, Layer]:
    """The same images in NCHW and in NHWC."""
    nchw, nhwc = (
        Layer(image_shape(layout, batch, channels, size, size), layout, provenance, **fields)
        for layout in ("nchw", "nhwc")
    )
    return nchw, nhwc


def _diffusion(channels: int, size: int, name: str, **fields) -> tuple[Layer, Layer]:
    fields = {"context": "silu", "options": _GROUPS, **fields}
    return _images(2, channels, size, f"Stable Diffusion 1.5@512 {name}", **fields)


_BLOCK = _diffusion(320, 64, "down_blocks.0.resnets.0.norm1")
_ATTENTION = _diffusion(640, 32, "down_blocks.1.attentions.0.norm", context="alone", epsilon=1e-6)
_DEEP = _diffusion(1280, 16, "down_blocks.2.resnets.1.norm1")
_MIDDLE = _diffusion(1280, 8, "mid_block.resnets.0.norm1")
_UP = _diffusion(960, 64, "up_blocks.3.resnets.0.norm1")
_DECODER = _diffusion(128, 256, "vae.decoder.up_blocks.3 at half size", epsilon=1e-6)
_STUDY = _images(16, 320, 28, "320 channels of 28x28, 32 groups", options=_GROUPS)
_LARGE = _images(16, 320, 64, "Stable Diffusion 1.5@512 down_blocks.0, batch of 16", options=_GROUPS)
_SMALL = _images(1, 48, 17, "off-alignment: 48 channels of 17x17, 3 groups", options=(("groups", 3),))
_SUM = _diffusion(320, 64, "down_blocks.0.resnets.1.norm1 of x + residual", context="residual")
_OUTPUT = _diffusion(320, 64, "conv_norm_out, image in float32", context="cast")
_WAV2VEC = Layer((8, 512, 3199), "ncl", "wav2vec 2.0 base, feature extractor 0, norm and GELU", context="gelu",
                 options=(("groups", 512),))  # fmt: skip


def _odd_sizes(batch: int, channels: int, **fields) -> Iterator[Layer]:
    for index, offset in enumerate(OFFSETS):
        yield _images(batch, channels, 32 + offset, off_by(offset, "images of 32x32"), **fields)[index % 2]


GROUP_NORM = Family(
    operator="group_norm",
    smoke_layers=((_MIDDLE[0], "float32"),),
    quick_layers=((_DEEP[0], "bfloat16"), (_ATTENTION[1], "float32"), (_MIDDLE[0], "float64")),
    layers=(*_BLOCK, *_ATTENTION, *_DEEP, *_MIDDLE, *_UP, *_DECODER),
    trained=(*_STUDY, *_LARGE),
    odd=(*_odd_sizes(8, 320, options=_GROUPS), *_SMALL,
         *_images(8, 320, 28, "one group", options=(("groups", 1),)),
         Layer((32, 320), "nc", "no spatial axes", options=_GROUPS)),
    surrounded=((_SUM[0], "forward"), (_SUM[1], "forward"), (_SUM[1], "forward_backward"), (_OUTPUT[1], "forward"),
                (_WAV2VEC, "forward")),
    contexts=CONTEXTS_AND_RESIDUAL,
)  # fmt: skip


def _style(batch: int, channels: int, size: int, name: str) -> tuple[Layer, Layer]:
    return _images(batch, channels, size, f"fast style transfer@256 {name}", context="relu")


_FIRST = _style(1, 32, 256, "conv1")
_SECOND = _style(1, 64, 128, "conv2")
_RESIDUAL = _style(8, 128, 64, "res1.conv1")
_RESIDUAL_ONE = _style(1, 128, 64, "res1.conv1")
_CYCLE = _images(8, 256, 64, "CycleGAN@256 residual block")
_LAST = _images(1, 32, 256, "fast style transfer@256 deconv2, image in float32", context="cast")
_ODD_IMAGE = _images(1, 47, 17, "off-alignment: 47 channels of 17x17")

INSTANCE_NORM = Family(
    operator="instance_norm",
    smoke_layers=((_ODD_IMAGE[0], "float32"),),
    quick_layers=((_SECOND[0], "bfloat16"), (_RESIDUAL_ONE[1], "float32"), (_ODD_IMAGE[0], "float64")),
    layers=(*_FIRST, *_SECOND, *_RESIDUAL),
    trained=(*_RESIDUAL, *_CYCLE),
    odd=(*_odd_sizes(8, 64), *_ODD_IMAGE, Layer((8, 64, 4096), "ncl", "64 channels of 4096 samples"),
         Layer((8, 4096, 64), "nlc", "64 channels of 4096 samples")),
    surrounded=((_LAST[1], "forward"),),
)  # fmt: skip
