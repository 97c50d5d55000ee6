"""Training batch norm in float64 NumPy: the oracle of every variant."""

from typing import Any

import numpy as np

from normbench.kernels.common.activations import activate_numpy


def reference(
    x: Any,
    gamma: Any,
    beta: Any,
    running_mean: Any,
    running_variance: Any,
    epsilon: float = 1e-5,
    *,
    momentum: float = 0.1,
    channel_axis: int = 1,
    activation: str = "none",
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(y, new running mean, new running variance) in float64; see `naive`."""
    arrays = (x, gamma, beta, running_mean, running_variance)
    x, gamma, beta, running_mean, running_variance = (np.asarray(array).astype(np.float64) for array in arrays)
    if not x.size:
        return x, running_mean, running_variance
    x = np.moveaxis(x, channel_axis, -1)
    values = x.reshape(-1, x.shape[-1])
    mean, variance, unbiased = values.mean(0), values.var(0), values.var(0, ddof=1)
    y = activate_numpy((x - mean) / np.sqrt(variance + epsilon) * gamma + beta, activation)
    new_mean, new_variance = (
        (1 - momentum) * running + momentum * batch
        for running, batch in ((running_mean, mean), (running_variance, unbiased))
    )
    return np.moveaxis(y, -1, channel_axis), new_mean, new_variance
