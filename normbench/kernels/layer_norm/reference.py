"""Layer norm in float64 NumPy: the oracle of every variant."""

from typing import Any

import numpy as np

from normbench.kernels.common.activations import activate_numpy


def reference(
    x: Any, gamma: Any, beta: Any, epsilon: float = 1e-5, *, ndim: int = 1, activation: str = "none"
) -> np.ndarray:
    """y = act((x - mean) / sqrt(variance + epsilon) * gamma + beta) over the last `ndim` axes, in float64."""
    x, gamma, beta = (np.asarray(array).astype(np.float64) for array in (x, gamma, beta))
    axes = tuple(range(-ndim, 0))
    mean = x.mean(axes, keepdims=True)
    variance = np.square(x - mean).mean(axes, keepdims=True)
    return activate_numpy((x - mean) / np.sqrt(variance + epsilon) * gamma + beta, activation)
