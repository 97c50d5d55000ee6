"""The backbone of YOLO11n: 31 blocks of convolution, batch norm and SiLU, model.0 to model.8, with random weights.

Channels, kernels, strides and the connections between the blocks are the model's
(ultralytics/cfg/models/11/yolo11.yaml, scale n; the pooling and attention of model.9 and model.10 are left out), and
the image is of any size that 32 divides. Every function works on arrays of JAX and on PyTensor's symbols alike.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from normbench.cases.presets.layers import BY_PROVENANCE, Layer

EPSILON = 1e-3
Block = Callable[[Any, str], Any]
Concatenate = Callable[[Sequence[Any]], Any]

_SAME_SIZES = {
    "model.6 m.0.cv2": "model.6 m.0.cv1",
    "model.6 m.0.m.0.cv2": "model.6 m.0.m.0.cv1",
    "model.6 m.0.m.1.cv1": "model.6 m.0.m.0.cv1",
    "model.6 m.0.m.1.cv2": "model.6 m.0.m.0.cv1",
    "model.8 m.0.cv2": "model.8 m.0.cv1",
    "model.8 m.0.m.0.cv2": "model.8 m.0.m.0.cv1",
    "model.8 m.0.m.1.cv1": "model.8 m.0.m.0.cv1",
    "model.8 m.0.m.1.cv2": "model.8 m.0.m.0.cv1",
}
"""Blocks that the table of layers lists once."""


def layer(name: str) -> Layer:
    return BY_PROVENANCE[f"YOLO11n@640 {_SAME_SIZES.get(name, name)}"]


def backbone(x: Any, block: Block, concatenate: Concatenate) -> Any:
    """(N, 3, S, S) to (N, 256, S/32, S/32); `block(x, name)` is convolution, batch norm and SiLU."""
    y = block(block(x, "model.0"), "model.1")
    y = _c3k2(y, "model.2", block, concatenate, _bottleneck)
    y = _c3k2(block(y, "model.3"), "model.4", block, concatenate, _bottleneck)
    y = _c3k2(block(y, "model.5"), "model.6", block, concatenate, _c3k)
    return _c3k2(block(y, "model.7"), "model.8", block, concatenate, _c3k)


def _c3k2(x: Any, name: str, block: Block, concatenate: Concatenate, inner: Callable[..., Any]) -> Any:
    """Half of the channels pass through `inner`; both halves and its result are joined."""
    y = block(x, f"{name} cv1")
    half = layer(f"{name} cv1").features // 2
    first, second = y[:, :half], y[:, half:]
    return block(concatenate([first, second, inner(second, f"{name} m.0", block, concatenate)]), f"{name} cv2")


def _bottleneck(x: Any, name: str, block: Block, _: Concatenate) -> Any:
    return x + block(block(x, f"{name}.cv1"), f"{name}.cv2")


def _c3k(x: Any, name: str, block: Block, concatenate: Concatenate) -> Any:
    y = block(x, f"{name}.cv1")
    for index in range(2):
        y = _bottleneck(y, f"{name}.m.{index}", block, concatenate)
    return block(concatenate([y, block(x, f"{name}.cv2")]), f"{name}.cv3")


def names() -> tuple[str, ...]:
    """The blocks in the order in which they are computed."""
    found: list[str] = []

    class Nothing:
        def __getitem__(self, _: Any) -> "Nothing":
            return self

        def __add__(self, _: Any) -> "Nothing":
            return self

    def record(x: Any, name: str) -> Any:
        found.append(name)
        return x

    backbone(Nothing(), record, lambda parts: parts[0])
    return tuple(found)


def parameters(seed: int = 0) -> dict[str, tuple[np.ndarray, ...]]:
    """By block: filters, gamma, beta, mean and variance, float32, such that values neither grow nor vanish."""
    rng = np.random.default_rng(seed)
    found = {}
    for name in names():
        one = layer(name)
        filters = rng.normal(size=(one.features, one.channels, one.kernel, one.kernel))
        filters *= 2 / np.sqrt(one.channels * one.kernel**2)
        gamma, variance = rng.uniform(0.5, 1.5, (2, one.features))
        beta, mean = rng.normal(scale=0.3, size=(2, one.features))
        found[name] = tuple(array.astype(np.float32) for array in (filters, gamma, beta, mean, variance))
    return found


def image(size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, size]).normal(size=(1, 3, size, size)).astype(np.float32)
