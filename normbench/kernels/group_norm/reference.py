"""Group norm in float64 NumPy: the oracle of every variant."""

from typing import Any

import numpy as np

from normbench.kernels.common.activations import activate_numpy


def reference(
    x: Any,
    gamma: Any,
    beta: Any,
    epsilon: float = 1e-5,
    *,
    groups: int = 32,
    channel_axis: int = 1,
    activation: str = "none",
) -> np.ndarray:
    """y = act((x - mean) / sqrt(variance + epsilon) * gamma + beta), statistics over each image's group of channels."""
    x, gamma, beta = (np.asarray(array).astype(np.float64) for array in (x, gamma, beta))
    x = np.moveaxis(x, channel_axis, -1)
    grouped = x.reshape(x.shape[0], -1, groups, x.shape[-1] // groups) if x.size else x.reshape(0, 1, groups, 1)
    mean = grouped.mean((1, 3), keepdims=True)
    variance = np.square(grouped - mean).mean((1, 3), keepdims=True)
    normalized = ((grouped - mean) / np.sqrt(variance + epsilon)).reshape(x.shape)
    return np.moveaxis(activate_numpy(normalized * gamma + beta, activation), -1, channel_axis)
