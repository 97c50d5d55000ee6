"""The convolutions of four models, each with the batch norm that follows it: where the presets' shapes come from.

Sizes are those of the models' own definitions at the stated image size:
YOLO11n (ultralytics/cfg/models/11/yolo11.yaml, scale n), ResNet-50 v1.5 (torchvision.models.resnet),
MobileNetV3-Large (torchvision.models.mobilenetv3), the 32-feature U-Net of Buda et al. (2019, doi
10.1016/j.compbiomed.2019.05.002), and single layers for what these lack: transposed convolution (the generator of
pix2pix, Isola et al. 2017), bias (VGG-16-BN), groups (ResNeXt-50 32x4d) and dilation (DeepLabV3), all torchvision.
A layer that occurs several times in a model is listed once. Hard-swish and leaky ReLU are not among the
activations, so layers with those are studied without their activation.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Layer:
    """A convolution and its batch norm on one square image.

    Attributes:
      model: e.g. "YOLO11n@640".
      name: path of the layer in the model.
      channels: of the input.
      size: height and width of the input.
      features: channels of the output.
      kernel, stride, groups, dilation, bias, transposed: of the convolution; its padding keeps the size
        (divided by the stride, or multiplied by it where transposed).
      context: the activation that follows.
      epsilon: of the model's batch norm.
    """

    model: str
    name: str
    channels: int
    size: int
    features: int
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    context: str = "alone"
    epsilon: float = 1e-5
    transposed: bool = False
    dilation: int = 1
    bias: bool = False

    @property
    def provenance(self) -> str:
        return f"{self.model} {self.name}"

    @property
    def padding(self) -> int:
        return self.dilation * (self.kernel - 1) // 2

    @property
    def out_size(self) -> int:
        return self.size * self.stride if self.transposed else -(-self.size // self.stride)

    @property
    def flops(self) -> int:
        """Multiplications and additions of the convolution for one image."""
        positions = self.size if self.transposed else self.out_size
        return 2 * positions**2 * self.kernel**2 * self.channels * self.features // self.groups


def _yolo(name, channels, size, features, kernel=1, stride=1, groups=1, context="silu") -> Layer:
    return Layer("YOLO11n@640", name, channels, size, features, kernel, stride, groups, context, epsilon=1e-3)


def _resnet(name, channels, size, features, kernel=1, stride=1, context="relu") -> Layer:
    return Layer("ResNet-50@224", name, channels, size, features, kernel, stride, 1, context)


def _mobilenet(name, channels, size, features, kernel=1, stride=1, groups=1, context="alone") -> Layer:
    return Layer("MobileNetV3-Large@224", name, channels, size, features, kernel, stride, groups, context, 1e-3)


def _unet(name, channels, size, features) -> Layer:
    return Layer("U-Net-32@256", name, channels, size, features, 3, context="relu")


def _pix2pix(name, channels, size, features) -> Layer:
    return Layer("pix2pix U-Net@256", name, channels, size, features, 4, 2, context="relu", transposed=True)


YOLO11N = (
    _yolo("model.0", 3, 640, 16, 3, 2),
    _yolo("model.1", 16, 320, 32, 3, 2),
    _yolo("model.2 cv1", 32, 160, 32),
    _yolo("model.2 m.0.cv1", 16, 160, 8, 3),
    _yolo("model.2 m.0.cv2", 8, 160, 16, 3),
    _yolo("model.2 cv2", 48, 160, 64),
    _yolo("model.3", 64, 160, 64, 3, 2),
    _yolo("model.4 cv1", 64, 80, 64),
    _yolo("model.4 m.0.cv1", 32, 80, 16, 3),
    _yolo("model.4 m.0.cv2", 16, 80, 32, 3),
    _yolo("model.4 cv2", 96, 80, 128),
    _yolo("model.5", 128, 80, 128, 3, 2),
    _yolo("model.6 cv1", 128, 40, 128),
    _yolo("model.6 m.0.cv1", 64, 40, 32),
    _yolo("model.6 m.0.m.0.cv1", 32, 40, 32, 3),
    _yolo("model.6 m.0.cv3", 64, 40, 64),
    _yolo("model.6 cv2", 192, 40, 128),
    _yolo("model.7", 128, 40, 256, 3, 2),
    _yolo("model.8 cv1", 256, 20, 256),
    _yolo("model.8 m.0.cv1", 128, 20, 64),
    _yolo("model.8 m.0.m.0.cv1", 64, 20, 64, 3),
    _yolo("model.8 m.0.cv3", 128, 20, 128),
    _yolo("model.8 cv2", 384, 20, 256),
    _yolo("model.9 cv1", 256, 20, 128),
    _yolo("model.9 cv2", 512, 20, 256),
    _yolo("model.10 m.0.attn.qkv", 128, 20, 256, context="alone"),
    _yolo("model.10 m.0.attn.proj", 128, 20, 128, context="alone"),
    _yolo("model.10 m.0.attn.pe", 128, 20, 128, 3, groups=128, context="alone"),
    _yolo("model.10 m.0.ffn.0", 128, 20, 256),
    _yolo("model.10 m.0.ffn.1", 256, 20, 128, context="alone"),
    _yolo("model.13 cv1", 384, 40, 128),
    _yolo("model.13 m.0.cv1", 64, 40, 32, 3),
    _yolo("model.13 m.0.cv2", 32, 40, 64, 3),
    _yolo("model.16 cv1", 256, 80, 64),
    _yolo("model.16 cv2", 96, 80, 64),
    _yolo("model.17", 64, 80, 64, 3, 2),
    _yolo("model.19 cv1", 192, 40, 128),
    _yolo("model.20", 128, 40, 128, 3, 2),
    _yolo("model.22 cv1", 384, 20, 256),
    _yolo("model.23 cv2.0.0", 64, 80, 64, 3),
    _yolo("model.23 cv2.1.0", 128, 40, 64, 3),
    _yolo("model.23 cv2.1.1", 64, 40, 64, 3),
    _yolo("model.23 cv2.2.0", 256, 20, 64, 3),
    _yolo("model.23 cv3.0.0.0", 64, 80, 64, 3, groups=64),
    _yolo("model.23 cv3.0.0.1", 64, 80, 80),
    _yolo("model.23 cv3.0.1.0", 80, 80, 80, 3, groups=80),
    _yolo("model.23 cv3.0.1.1", 80, 80, 80),
    _yolo("model.23 cv3.1.0.0", 128, 40, 128, 3, groups=128),
    _yolo("model.23 cv3.1.0.1", 128, 40, 80),
    _yolo("model.23 cv3.1.1.0", 80, 40, 80, 3, groups=80),
    _yolo("model.23 cv3.1.1.1", 80, 40, 80),
    _yolo("model.23 cv3.2.0.0", 256, 20, 256, 3, groups=256),
    _yolo("model.23 cv3.2.0.1", 256, 20, 80),
    _yolo("model.23 cv3.2.1.0", 80, 20, 80, 3, groups=80),
    _yolo("model.23 cv3.2.1.1", 80, 20, 80),
)

RESNET50 = (
    _resnet("conv1", 3, 224, 64, 7, 2),
    _resnet("layer1.0.conv1", 64, 56, 64),
    _resnet("layer1.0.conv2", 64, 56, 64, 3),
    _resnet("layer1.0.conv3", 64, 56, 256, context="alone"),
    _resnet("layer1.1.conv1", 256, 56, 64),
    _resnet("layer2.0.conv1", 256, 56, 128),
    _resnet("layer2.0.conv2", 128, 56, 128, 3, 2),
    _resnet("layer2.0.conv3", 128, 28, 512, context="alone"),
    _resnet("layer2.0.downsample", 256, 56, 512, 1, 2, context="alone"),
    _resnet("layer2.1.conv1", 512, 28, 128),
    _resnet("layer2.1.conv2", 128, 28, 128, 3),
    _resnet("layer3.0.conv1", 512, 28, 256),
    _resnet("layer3.0.conv2", 256, 28, 256, 3, 2),
    _resnet("layer3.0.conv3", 256, 14, 1024, context="alone"),
    _resnet("layer3.0.downsample", 512, 28, 1024, 1, 2, context="alone"),
    _resnet("layer3.1.conv1", 1024, 14, 256),
    _resnet("layer3.1.conv2", 256, 14, 256, 3),
    _resnet("layer4.0.conv1", 1024, 14, 512),
    _resnet("layer4.0.conv2", 512, 14, 512, 3, 2),
    _resnet("layer4.0.conv3", 512, 7, 2048, context="alone"),
    _resnet("layer4.0.downsample", 1024, 14, 2048, 1, 2, context="alone"),
    _resnet("layer4.1.conv1", 2048, 7, 512),
    _resnet("layer4.1.conv2", 512, 7, 512, 3),
)

MOBILENETV3 = (
    _mobilenet("features.0", 3, 224, 16, 3, 2),
    _mobilenet("features.1 depthwise", 16, 112, 16, 3, groups=16, context="relu"),
    _mobilenet("features.1 project", 16, 112, 16),
    _mobilenet("features.2 expand", 16, 112, 64, context="relu"),
    _mobilenet("features.2 depthwise", 64, 112, 64, 3, 2, groups=64, context="relu"),
    _mobilenet("features.2 project", 64, 56, 24),
    _mobilenet("features.3 expand", 24, 56, 72, context="relu"),
    _mobilenet("features.3 depthwise", 72, 56, 72, 3, groups=72, context="relu"),
    _mobilenet("features.3 project", 72, 56, 24),
    _mobilenet("features.4 depthwise", 72, 56, 72, 5, 2, groups=72, context="relu"),
    _mobilenet("features.4 project", 72, 28, 40),
    _mobilenet("features.5 expand", 40, 28, 120, context="relu"),
    _mobilenet("features.5 depthwise", 120, 28, 120, 5, groups=120, context="relu"),
    _mobilenet("features.5 project", 120, 28, 40),
    _mobilenet("features.7 expand", 40, 28, 240),
    _mobilenet("features.7 depthwise", 240, 28, 240, 3, 2, groups=240),
    _mobilenet("features.7 project", 240, 14, 80),
    _mobilenet("features.8 expand", 80, 14, 200),
    _mobilenet("features.8 depthwise", 200, 14, 200, 3, groups=200),
    _mobilenet("features.9 expand", 80, 14, 184),
    _mobilenet("features.9 depthwise", 184, 14, 184, 3, groups=184),
    _mobilenet("features.11 expand", 80, 14, 480),
    _mobilenet("features.11 depthwise", 480, 14, 480, 3, groups=480),
    _mobilenet("features.11 project", 480, 14, 112),
    _mobilenet("features.12 expand", 112, 14, 672),
    _mobilenet("features.12 depthwise", 672, 14, 672, 3, groups=672),
    _mobilenet("features.13 depthwise", 672, 14, 672, 5, 2, groups=672),
    _mobilenet("features.13 project", 672, 7, 160),
    _mobilenet("features.14 expand", 160, 7, 960),
    _mobilenet("features.14 depthwise", 960, 7, 960, 5, groups=960),
    _mobilenet("features.14 project", 960, 7, 160),
)

UNET = (
    _unet("encoder1.conv1", 3, 256, 32),
    _unet("encoder1.conv2", 32, 256, 32),
    _unet("encoder2.conv2", 64, 128, 64),
    _unet("encoder3.conv2", 128, 64, 128),
    _unet("encoder4.conv2", 256, 32, 256),
    _unet("bottleneck.conv2", 512, 16, 512),
    _unet("decoder3.conv1", 256, 64, 128),
    _unet("decoder1.conv1", 64, 256, 32),
    _pix2pix("up 4", 1024, 4, 512),
    _pix2pix("up 16", 1024, 16, 256),
    _pix2pix("up 32", 512, 32, 128),
    _pix2pix("up 64", 256, 64, 64),
)

OTHERS = (
    Layer("VGG-16-BN@224", "features.7", 64, 112, 128, 3, context="relu", bias=True),
    Layer("VGG-16-BN@224", "features.34", 512, 14, 512, 3, context="relu", bias=True),
    Layer("ResNeXt-50-32x4d@224", "layer1.0.conv2", 128, 56, 128, 3, groups=32, context="relu"),
    Layer("ResNeXt-50-32x4d@224", "layer4.1.conv2", 1024, 7, 1024, 3, groups=32, context="relu"),
    Layer("DeepLabV3-ResNet-50@224", "layer3.1.conv2", 256, 28, 256, 3, context="relu", dilation=2),
    Layer("DeepLabV3-ResNet-50@224", "layer4.1.conv2", 512, 28, 512, 3, context="relu", dilation=4),
)

MODELS = (YOLO11N, RESNET50, MOBILENETV3, UNET, OTHERS)
LAYERS = tuple(layer for model in MODELS for layer in model)


BY_PROVENANCE = {layer.provenance: layer for layer in LAYERS}
"""Layers by model and name, e.g. "YOLO11n@640 model.0"."""


def image_shape(layout: str, batch: int, channels: int, height: int, width: int) -> tuple[int, ...]:
    """The shape in the order of `layout`, "nchw" or "nhwc"."""
    sizes = {"n": batch, "c": channels, "h": height, "w": width}
    return tuple(sizes[axis] for axis in layout)
