"""The twenty cases of the plan that asked for batch norm under JAX, its block of YOLO included.

JAX against the Python backend as PyTensor's own helper compares them: a relative tolerance of 1e-4 and no absolute one.
"""

import numpy as np
import pytensor.tensor as pt
import pytest

from normbench.kernels.pytensor import batch_normalization, conv2d
from tests.kernels.pytensor.pytensor_cases import PYTHON, run

IDENTITY = {"gamma": 1.0, "beta": 0.0, "mean": 0.0, "variance": 1.0}
DRAWN = {"gamma": (0.5, 1.5), "beta": (-1.0, 1.0), "mean": (-2.0, 2.0), "variance": (0.5, 2.0)}
FOUR = {"gamma": [1, 2, 0.5, 1.5], "beta": [0, 1, -1, 0.5], "mean": [1, 2, 3, 4], "variance": [1, 1, 1, 1]}
SMALL = IDENTITY | {"variance": 1e-8}
LEARNED = IDENTITY | {"gamma": (0.1, 2.0), "beta": (-3.0, 3.0)}
CASES = {
    "4d": ((2, 16, 8, 8), IDENTITY, 1e-5, "float32"),
    "2d": ((32, 128), IDENTITY, 1e-5, "float32"),
    "1d": ((64,), IDENTITY, 1e-5, "float32"),
    "epsilon 1e-3": ((2, 16, 8, 8), IDENTITY, 1e-3, "float32"),
    "epsilon 1e-7": ((2, 16, 8, 8), IDENTITY, 1e-7, "float32"),
    "statistics": ((2, 16, 8, 8), DRAWN, 1e-5, "float32"),
    "one channel": ((2, 1, 8, 8), IDENTITY, 1e-5, "float32"),
    "512 channels": ((2, 512, 8, 8), IDENTITY, 1e-5, "float32"),
    "batch of 8": ((8, 16, 8, 8), IDENTITY, 1e-5, "float32"),
    "batch of 16": ((16, 16, 8, 8), IDENTITY, 1e-5, "float32"),
    "batch of 32": ((32, 16, 8, 8), IDENTITY, 1e-5, "float32"),
    "small variance": ((2, 16, 8, 8), SMALL, 1e-5, "float32"),
    "learned": ((2, 16, 8, 8), LEARNED, 1e-5, "float32"),
    "by channel, 4d": ((2, 4, 4, 4), FOUR, 1e-5, "float32"),
    "by channel, 2d": ((8, 4), FOUR, 1e-5, "float32"),
    "float64": ((2, 16, 8, 8), IDENTITY, 1e-5, "float64"),
}


def vector(rule, channels, rng, dtype):
    """Uniform between the two of a pair, else the given number or numbers."""
    value = rng.uniform(*rule, channels) if isinstance(rule, tuple) else np.broadcast_to(rule, channels)
    return value.astype(dtype)


def check(inputs, output, values):
    result = run(inputs, [output], values, "JAX")[0]
    expected = run(inputs, [output], values, PYTHON)[0]
    assert result.dtype == expected.dtype == values[0].dtype
    np.testing.assert_allclose(np.asarray(result), expected, rtol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_batch_norm(name):
    shape, rules, epsilon, dtype = CASES[name]
    rng, channels = np.random.default_rng(42), shape[len(shape) > 1]
    x = rng.normal(size=shape)
    if rules is FOUR:
        x[...] = np.arange(1, 5).reshape(-1, *(1,) * (len(shape) - 2))
    values = [x.astype(dtype), *(vector(rules[part], channels, rng, dtype) for part in IDENTITY)]
    inputs = [pt.tensor(dtype=dtype, shape=(None,) * value.ndim) for value in values]
    check(inputs, batch_normalization(*inputs, epsilon=epsilon), values)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("seed", [42, 43])
def test_the_block(seed, groups):
    """Of 16384 values some are the rests of terms ten thousand times as large: both backends add in the same order."""
    rng = np.random.default_rng(seed)
    channels = 3 if groups == 1 else 2 * groups
    x, filters = rng.normal(size=(1, channels, 32, 32)), rng.normal(size=(16, channels // groups, 3, 3))
    values = [a.astype("float32") for a in (x, filters)]
    values += [vector(IDENTITY[part], 16, rng, "float32") for part in IDENTITY]
    inputs = [pt.tensor(dtype="float32", shape=(None,) * value.ndim) for value in values]
    convolved = conv2d(*inputs[:2], border_mode="same", filter_flip=False, num_groups=groups)
    normalized = batch_normalization(convolved, *inputs[2:])
    check(inputs, normalized * pt.sigmoid(normalized), values)
