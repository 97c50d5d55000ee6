"""Local response norm in float64 NumPy: the oracle of every variant."""

from typing import Any

import numpy as np


def reference(
    x: Any, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0, *, channel_axis: int = 1
) -> np.ndarray:
    """y = x / (k + alpha / size * sum of x² over the window of channels)^beta, in float64."""
    x = np.moveaxis(np.asarray(x).astype(np.float64), channel_axis, -1)
    channels = x.shape[-1]
    # How often a channel lies in the window of another: 1 where it is from size // 2 before to (size - 1) // 2 after.
    distance = np.arange(channels)[:, None] - np.arange(channels)[None, :]
    window = ((distance >= -(size // 2)) & (distance <= (size - 1) // 2)).astype(np.float64)
    base = k + alpha / size * (np.square(x) @ window)
    return np.moveaxis(x / base**beta, -1, channel_axis)
