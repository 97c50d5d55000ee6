"""RMS norm in float64 NumPy: the oracle of every variant."""

from typing import Any

import numpy as np

from normbench.kernels.common.activations import activate_numpy
from normbench.kernels.common.form import FP8_MOST, PLAIN, Form, finished_numpy


def reference(
    x: Any, gamma: Any, epsilon: float = 1e-5, *, ndim: int = 1, activation: str = "none", form: Form = PLAIN
) -> np.ndarray:
    """y = act(x / sqrt(E[x²] + epsilon) * gamma) over the last `ndim` axes, in float64, rounded where `form` rounds."""
    x, gamma = (np.asarray(array).astype(np.float64) for array in (x, gamma))
    square = np.square(x).mean(tuple(range(-ndim, 0)), keepdims=True)
    y = activate_numpy(finished_numpy(x / np.sqrt(square + epsilon), gamma, form), activation)
    return y if form.fp8_scale is None else np.clip(y / form.fp8_scale, -FP8_MOST, FP8_MOST)
