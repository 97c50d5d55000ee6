"""ResNet-18 and the backbone and neck of YOLO11n, written once over a set of layers, PyTensor's or PyTorch's.

Architectures: He et al., Deep Residual Learning (2015), as torchvision builds ResNet-18; Ultralytics' yolo11.yaml at
scale n (depth 0.50, width 0.25), modules 0 to 22. Channels are on axis 1.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

Parameters = dict[str, np.ndarray]


class Layers(Protocol):
    """What a framework gives. Names say which parameters a layer takes: `name.filters`, `name.gamma` and so on."""

    def conv(self, x: Any, name: str, stride: int, padding: int, groups: int) -> Any: ...
    def norm(self, x: Any, name: str, epsilon: float) -> Any: ...
    def dense(self, x: Any, name: str) -> Any: ...
    def relu(self, x: Any) -> Any: ...
    def silu(self, x: Any) -> Any: ...
    def max_pool(self, x: Any, kernel: int, stride: int, padding: int) -> Any: ...
    def upsample(self, x: Any) -> Any: ...
    def global_avg_pool(self, x: Any) -> Any: ...
    def concatenate(self, parts: Sequence[Any]) -> Any: ...
    def split(self, x: Any, sizes: Sequence[int]) -> list[Any]: ...
    def attend(self, qkv: Any, heads: int, key: int) -> tuple[Any, Any]: ...


class Channels(int):
    """The number of channels of an array; adding arrays leaves it."""

    def __add__(self, other: Any) -> "Channels":
        return self


@dataclass(frozen=True, slots=True)
class Shapes:
    """Layers that compute nothing and write down the shapes of their parameters; x is its number of channels."""

    found: dict[str, tuple[int, ...]]
    outputs: dict[str, tuple[int, int, int]]

    def conv(self, x: int, name: str, stride: int, padding: int, groups: int) -> int:
        features, kernel, _ = self.outputs[name]
        self.found[f"{name}.filters"] = (features, x // groups, kernel, kernel)
        return Channels(features)

    def norm(self, x: int, name: str, epsilon: float) -> int:
        self.found.update({f"{name}.{part}": (x,) for part in ("gamma", "beta", "mean", "variance")})
        return x

    def dense(self, x: int, name: str) -> int:
        features = self.outputs[name][0]
        self.found.update({f"{name}.weight": (features, x), f"{name}.bias": (features,)})
        return Channels(features)

    def relu(self, x: int) -> int:
        return x

    silu = upsample = global_avg_pool = relu

    def max_pool(self, x: int, kernel: int, stride: int, padding: int) -> int:
        return x

    def concatenate(self, parts: Sequence[int]) -> int:
        return Channels(sum(int(part) for part in parts))

    def split(self, x: int, sizes: Sequence[int]) -> list[int]:
        return [Channels(size) for size in sizes]

    def attend(self, qkv: int, heads: int, key: int) -> tuple[int, int]:
        values = Channels(qkv - 2 * heads * key)
        return values, values


Model = Callable[[Any, Layers, Callable[[str, int, int, int], None]], list[Any]]


def _ignore(name: str, features: int, kernel: int, stride: int) -> None:
    pass


def resnet18(x: Any, to: Layers, note: Callable = _ignore, width: int = 64, classes: int = 1000) -> list[Any]:
    """[(N, classes)] of images (N, 3, H, W); `width` is the number of channels after the stem, 64 in the model."""

    def conv_norm(x: Any, name: str, features: int, kernel: int, stride: int) -> Any:
        note(name, features, kernel, stride)
        return to.norm(to.conv(x, name, stride, kernel // 2, 1), name, 1e-5)

    x = to.relu(conv_norm(x, "stem", width, 7, 2))
    x = to.max_pool(x, 3, 2, 1)
    for stage in range(4):
        features = width << stage
        for block in range(2):
            name, stride = f"stage{stage}.{block}", 2 if stage and not block else 1
            y = to.relu(conv_norm(x, f"{name}.1", features, 3, stride))
            y = conv_norm(y, f"{name}.2", features, 3, 1)
            x = conv_norm(x, f"{name}.skip", features, 1, 2) if stride == 2 else x
            x = to.relu(y + x)
    note("classes", classes, 1, 1)
    return [to.dense(to.global_avg_pool(x), "classes")]


def yolo11n(x: Any, to: Layers, note: Callable = _ignore) -> list[Any]:
    """The maps that the head takes, of 64, 128 and 256 channels at strides 8, 16 and 32, of images (N, 3, H, W)."""
    block = _Blocks(to, note)
    x = block.conv(x, "0", 16, 3, 2)
    x = block.conv(x, "1", 32, 3, 2)
    x = block.c3k2(x, "2", 64, 0.25)
    p3 = block.c3k2(block.conv(x, "3", 64, 3, 2), "4", 128, 0.25)
    p4 = block.c3k2(block.conv(p3, "5", 128, 3, 2), "6", 128, 0.5, deep=True)
    x = block.c3k2(block.conv(p4, "7", 256, 3, 2), "8", 256, 0.5, deep=True)
    p5 = block.attention(block.pooled(x, "9", 256), "10", 256)
    up4 = block.c3k2(to.concatenate([to.upsample(p5), p4]), "13", 128, 0.5)
    small = block.c3k2(to.concatenate([to.upsample(up4), p3]), "16", 64, 0.5)
    middle = block.c3k2(to.concatenate([block.conv(small, "17", 64, 3, 2), up4]), "19", 128, 0.5)
    large = block.c3k2(to.concatenate([block.conv(middle, "20", 128, 3, 2), p5]), "22", 256, 0.5, deep=True)
    return [small, middle, large]


@dataclass(frozen=True, slots=True)
class _Blocks:
    """The blocks of YOLO11, each of convolutions with batch norm and mostly SiLU."""

    to: Layers
    note: Callable

    def conv(
        self, x: Any, name: str, features: int, kernel: int = 1, stride: int = 1, groups: int = 1, act: bool = True
    ) -> Any:
        self.note(name, features, kernel, stride)
        y = self.to.norm(self.to.conv(x, name, stride, kernel // 2, groups), name, 1e-3)
        return self.to.silu(y) if act else y

    def bottleneck(self, x: Any, name: str, features: int, hidden: int) -> Any:
        y = self.conv(x, f"{name}.cv1", hidden, 3)
        return x + self.conv(y, f"{name}.cv2", features, 3)

    def c3k(self, x: Any, name: str, features: int) -> Any:
        hidden = features // 2
        y = self.conv(x, f"{name}.cv1", hidden)
        for index in range(2):
            y = self.bottleneck(y, f"{name}.m.{index}", hidden, hidden)
        return self.conv(self.to.concatenate([y, self.conv(x, f"{name}.cv2", hidden)]), f"{name}.cv3", features)

    def c3k2(self, x: Any, name: str, features: int, share: float, deep: bool = False) -> Any:
        hidden = int(features * share)
        parts = self.to.split(self.conv(x, f"{name}.cv1", 2 * hidden), [hidden, hidden])
        if deep:
            parts.append(self.c3k(parts[-1], f"{name}.m.0", hidden))
        else:
            parts.append(self.bottleneck(parts[-1], f"{name}.m.0", hidden, hidden // 2))
        return self.conv(self.to.concatenate(parts), f"{name}.cv2", features)

    def pooled(self, x: Any, name: str, features: int) -> Any:
        """SPPF: three maximum poolings of 5 x 5, one after another."""
        parts = [self.conv(x, f"{name}.cv1", features // 2)]
        for _ in range(3):
            parts.append(self.to.max_pool(parts[-1], 5, 1, 2))
        return self.conv(self.to.concatenate(parts), f"{name}.cv2", features)

    def attention(self, x: Any, name: str, features: int) -> Any:
        """C2PSA with one block: heads of 64 values and 32 keys."""
        half, heads, key = features // 2, features // 128, 32
        kept, y = self.to.split(self.conv(x, f"{name}.cv1", features), [half, half])
        qkv = self.conv(y, f"{name}.m.0.attn.qkv", half + 2 * heads * key, act=False)
        attended, values = self.to.attend(qkv, heads, key)
        place = self.conv(values, f"{name}.m.0.attn.pe", half, 3, groups=half, act=False)
        y = y + self.conv(attended + place, f"{name}.m.0.attn.proj", half, act=False)
        z = self.conv(y, f"{name}.m.0.ffn.0", 2 * half)
        y = y + self.conv(z, f"{name}.m.0.ffn.1", half, act=False)
        return self.conv(self.to.concatenate([kept, y]), f"{name}.cv2", features)


def parameters(model: Callable, seed: int = 0, **options: int) -> Parameters:
    """Drawn such that values neither grow nor vanish, float32."""
    shapes, outputs = {}, {}  # type: ignore[var-annotated]
    model(3, Shapes(shapes, outputs), lambda name, *facts: outputs.update({name: facts}), **options)
    rng = np.random.default_rng(seed)
    found = {}
    for name, shape in shapes.items():
        kind = name.rsplit(".", 1)[1]
        if kind in ("filters", "weight"):
            value = rng.normal(size=shape) * np.sqrt(1 / np.prod(shape[1:]))
        elif kind in ("gamma", "variance"):
            value = rng.uniform(0.5, 1.5, shape)
        else:
            value = rng.normal(size=shape) * 0.3
        found[name] = value.astype(np.float32)
    return found


class PyTensorLayers:
    """The layers of `normbench.kernels.pytensor`; in training mode with the statistics of the batch.

    `updates` has, after training mode was built, the new running statistics by name.
    """

    def __init__(self, given: dict[str, Any], train: bool = False):
        self.given, self.train, self.updates = given, train, {}  # type: ignore[var-annotated]

    def conv(self, x: Any, name: str, stride: int, padding: int, groups: int) -> Any:
        from normbench.kernels.pytensor import conv2d

        return conv2d(x, self.given[f"{name}.filters"], stride=stride, padding=padding, groups=groups)

    def norm(self, x: Any, name: str, epsilon: float) -> Any:
        from normbench.kernels.pytensor import batch_normalization, batch_normalization_train

        gamma, beta, mean, variance = (self.given[f"{name}.{part}"] for part in ("gamma", "beta", "mean", "variance"))
        if not self.train:
            return batch_normalization(x, gamma, beta, mean, variance, epsilon)
        result = batch_normalization_train(x, gamma, beta, mean, variance, 0.1, epsilon)
        self.updates |= {f"{name}.mean": result.running_mean, f"{name}.variance": result.running_var}
        return result.y

    def dense(self, x: Any, name: str) -> Any:
        return x @ self.given[f"{name}.weight"].T + self.given[f"{name}.bias"]

    def relu(self, x: Any) -> Any:
        import pytensor.tensor as pt

        return pt.maximum(x, np.zeros((), x.type.dtype))

    def silu(self, x: Any) -> Any:
        from normbench.kernels.pytensor import silu

        return silu(x)

    def max_pool(self, x: Any, kernel: int, stride: int, padding: int) -> Any:
        from normbench.kernels.pytensor import max_pool2d

        return max_pool2d(x, kernel, stride=stride, padding=padding)

    def upsample(self, x: Any) -> Any:
        from normbench.kernels.pytensor import upsample2d

        return upsample2d(x, 2)

    def global_avg_pool(self, x: Any) -> Any:
        from normbench.kernels.pytensor import global_avg_pool

        return global_avg_pool(x)

    def concatenate(self, parts: Sequence[Any]) -> Any:
        import pytensor.tensor as pt

        return pt.concatenate(list(parts), axis=1)

    def split(self, x: Any, sizes: Sequence[int]) -> list[Any]:
        ends = np.cumsum([0, *sizes])
        return [x[:, start:stop] for start, stop in pairwise(ends)]

    def attend(self, qkv: Any, heads: int, key: int) -> tuple[Any, Any]:
        """softmax(q · k / sqrt(key)) on the values, and the values; static shapes."""
        import pytensor.tensor as pt

        batch, channels, height, width = qkv.type.shape
        value = channels // heads - 2 * key
        parts = qkv.reshape((batch, heads, channels // heads, height * width))
        q, k, v = parts[:, :, :key], parts[:, :, key : 2 * key], parts[:, :, 2 * key :]
        scores = pt.matmul(q.swapaxes(-1, -2), k) * np.asarray(key**-0.5, qkv.type.dtype)
        attended = pt.matmul(v, pt.special.softmax(scores, axis=-1).swapaxes(-1, -2))
        shape = (batch, heads * value, height, width)
        return attended.reshape(shape), v.reshape(shape)


class TorchLayers:
    """The same layers by `torch.nn.functional`."""

    def __init__(self, given: dict[str, Any], train: bool = False):
        self.given, self.train = given, train

    def conv(self, x: Any, name: str, stride: int, padding: int, groups: int) -> Any:
        from torch.nn.functional import conv2d

        return conv2d(x, self.given[f"{name}.filters"], None, stride, padding, 1, groups)

    def norm(self, x: Any, name: str, epsilon: float) -> Any:
        from torch.nn.functional import batch_norm

        gamma, beta, mean, variance = (self.given[f"{name}.{part}"] for part in ("gamma", "beta", "mean", "variance"))
        return batch_norm(x, mean, variance, gamma, beta, self.train, 0.1, epsilon)

    def dense(self, x: Any, name: str) -> Any:
        return x @ self.given[f"{name}.weight"].T + self.given[f"{name}.bias"]

    def relu(self, x: Any) -> Any:
        return x.relu()

    def silu(self, x: Any) -> Any:
        from torch.nn.functional import silu

        return silu(x)

    def max_pool(self, x: Any, kernel: int, stride: int, padding: int) -> Any:
        from torch.nn.functional import max_pool2d

        return max_pool2d(x, kernel, stride, padding)

    def upsample(self, x: Any) -> Any:
        from torch.nn.functional import interpolate

        return interpolate(x, scale_factor=2, mode="nearest")

    def global_avg_pool(self, x: Any) -> Any:
        return x.mean(dim=(2, 3))

    def concatenate(self, parts: Sequence[Any]) -> Any:
        import torch

        return torch.cat(list(parts), 1)

    def split(self, x: Any, sizes: Sequence[int]) -> list[Any]:
        return list(x.split(list(sizes), 1))

    def attend(self, qkv: Any, heads: int, key: int) -> tuple[Any, Any]:
        batch, channels, height, width = qkv.shape
        parts = qkv.view(batch, heads, channels // heads, height * width)
        q, k, v = parts.split([key, key, channels // heads - 2 * key], 2)
        attended = v @ ((q.transpose(-2, -1) @ k) * key**-0.5).softmax(-1).transpose(-2, -1)
        shape = (batch, -1, height, width)
        return attended.reshape(shape), v.reshape(shape)
