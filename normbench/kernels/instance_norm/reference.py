"""Instance norm in float64 NumPy: the oracle of every variant."""

from typing import Any

import numpy as np

from normbench.kernels.common.activations import activate_numpy


def reference(
    x: Any, gamma: Any, beta: Any, epsilon: float = 1e-5, *, channel_axis: int = 1, activation: str = "none"
) -> np.ndarray:
    """y = act((x - mean) / sqrt(variance + epsilon) * gamma + beta), statistics over each image's channel."""
    x, gamma, beta = (np.asarray(array).astype(np.float64) for array in (x, gamma, beta))
    x = np.moveaxis(x, channel_axis, -1)
    spatial = tuple(range(1, x.ndim - 1))
    mean = x.mean(spatial, keepdims=True)
    variance = np.square(x - mean).mean(spatial, keepdims=True)
    normalized = (x - mean) / np.sqrt(variance + epsilon)
    return np.moveaxis(activate_numpy(normalized * gamma + beta, activation), -1, channel_axis)
