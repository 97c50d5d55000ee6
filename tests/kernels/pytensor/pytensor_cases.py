"""Inputs, and the comparison of a compiled graph with the Python backend, for the tests of PyTensor's Ops."""

import jax
import numpy as np
import pytensor
from pytensor.compile.mode import Mode

PYTHON = Mode(linker="py", optimizer=None)
RTOL = {"float16": 2e-3, "float32": 1e-5, "float64": 1e-12}


def draw(*shape, dtype="float32", seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(dtype)


def draw_parameters(channels, dtype="float32", seed=0):
    """gamma, beta, mean and variance, none of them one or zero."""
    variance = np.random.default_rng(seed).uniform(0.1, 4.0, channels).astype(dtype)
    return [*(draw(channels, dtype=dtype, seed=seed + i) for i in (1, 2, 3)), variance]


def batch_norm_numpy(x, gamma, beta, mean, variance, epsilon=1e-5):
    """The textbook formula in float64."""
    pattern = [-1 if axis == (x.ndim > 1) else 1 for axis in range(x.ndim)]
    x, *vectors = (a.astype("float64") for a in (x, gamma, beta, mean, variance))
    gamma, beta, mean, variance = (v.reshape(pattern) for v in vectors)
    return (x - mean) / np.sqrt(variance + epsilon) * gamma + beta


def symbols(values, static=False):
    """One tensor variable for each array, with or without its static shape."""
    return [
        pytensor.tensor.tensor(f"v{i}", dtype=v.dtype.name, shape=v.shape if static else (None,) * v.ndim)
        for i, v in enumerate(values)
    ]


def run(inputs, outputs, values, mode):
    return pytensor.function(inputs, outputs, mode=mode)(*values)


def assert_same(results, expected, rtol=None, atol=None):
    """The same shapes and dtypes, and values that agree as far as their dtype allows."""
    for result, wanted in zip(results, expected, strict=True):
        assert result.dtype == wanted.dtype
        assert result.shape == wanted.shape
        tolerance = rtol or RTOL[result.dtype.name]
        scale = float(np.abs(wanted).max()) if wanted.size else 0.0
        np.testing.assert_allclose(np.asarray(result), wanted, rtol=tolerance, atol=atol or tolerance * scale)


def compare(inputs, outputs, values, mode="JAX", rtol=None, atol=None):
    """Compiles for `mode` and for Python, asserts that the results agree, and returns those of `mode`."""
    results = run(inputs, outputs, values, mode)
    expected = run(inputs, outputs, values, PYTHON)
    if mode == "JAX":
        assert all(isinstance(result, jax.Array) for result in results)
    assert_same(results, [np.asarray(e) for e in expected], rtol, atol)
    return [np.asarray(result) for result in results]
