"""y = act((x - mean) / sqrt(variance + epsilon) * gamma + beta) in float64 NumPy: the oracle of every variant."""

from typing import Any

import numpy as np

from normbench.kernels.common.activations import activate_numpy


def reference(
    x: Any,
    gamma: Any,
    beta: Any,
    mean: Any,
    variance: Any,
    epsilon: float = 1e-5,
    *,
    channel_axis: int = 1,
    activation: str = "none",
) -> np.ndarray:
    """Inference batch norm of the values as they are given, computed and returned in float64.

    Args:
      x: any shape with a channel axis of size C.
      gamma, beta, mean, variance: (C,).
    """
    x, gamma, beta, mean, variance = (np.asarray(a).astype(np.float64) for a in (x, gamma, beta, mean, variance))
    x = np.moveaxis(x, channel_axis, -1)
    normalised = (x - mean) / np.sqrt(variance + epsilon)
    return np.moveaxis(activate_numpy(normalised * gamma + beta, activation), -1, channel_axis)
