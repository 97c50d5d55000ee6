"""Gradients of the costs that people write, with no static shape: sums, means, pooled, flattened, powers.

The gradient of a sum is spread to a shape that the backend must be able to compute. Under JAX it has to be whole
numbers while tracing, and a cost like (y**2).sum() would never ask for it.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest

from normbench.kernels.pytensor import (
    avg_pool2d,
    batch_normalization,
    conv2d,
    conv_transpose,
    global_avg_pool,
    max_pool2d,
    upsample2d,
)
from tests.kernels.pytensor.pytensor_cases import PYTHON, assert_same, compare, draw, draw_parameters, run, symbols

COSTS = {
    "sum": lambda y: y.sum(),
    "mean": lambda y: y.mean(),
    "cube": lambda y: (y**3).sum(),
    "pooled": lambda y: (y.mean(axis=(2, 3)) ** 2).sum(),
    "flattened": lambda y: (y.flatten(2) ** 2).mean(),
    "zeros_like": lambda y: (y + pt.zeros_like(y)).mean(),
    "global_avg_pool": lambda y: (global_avg_pool(y) ** 2).sum(),
}
WINDOWS = [
    {"padding": "same"},
    {"padding": "same", "stride": 2},
    {"padding": 1, "stride": 2},
    {"padding": "half", "dilation": 2},
    {"padding": "full", "stride": (1, 2)},
]
LAYERS = {
    "max_pool": lambda x: max_pool2d(x, 3, stride=2, padding=1),
    "avg_pool": lambda x: avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False),
    "upsample": upsample2d,
    "two in a row": lambda x: max_pool2d(upsample2d(x), 2, padding="same"),
}


def arrays():
    return [draw(2, 3, 7, 6, dtype="float64"), draw(4, 3, 3, 3, dtype="float64")]


@pytest.mark.parametrize("keywords", WINDOWS, ids=str)
@pytest.mark.parametrize("static", [False, True], ids=["dynamic", "static"])
def test_convolution_jax(keywords, static):
    """All costs in one function; against jax.grad the sum and the mean, the others against the Python backend."""
    values, gradients = arrays(), []
    inputs = symbols(values, static)
    for cost in COSTS.values():
        gradients += pytensor.grad(cost(conv2d(*inputs, **keywords)), inputs)
    results = compare(inputs, gradients, values)
    if "half" in keywords.values() or "full" in keywords.values():
        return
    pads = keywords["padding"].upper() if keywords["padding"] == "same" else [(1, 1)] * 2
    stride = keywords.get("stride", 1)

    def y(x, w):
        return jax.lax.conv_general_dilated(x, w, (stride,) * 2, pads, dimension_numbers=("NCHW", "OIHW", "NCHW"))

    for i, cost in enumerate((jnp.sum, jnp.mean)):
        expected = jax.grad(lambda *a, cost=cost: cost(y(*a)), argnums=(0, 1))(*map(jnp.asarray, values))
        assert_same(results[2 * i : 2 * i + 2], [np.asarray(e) for e in expected], rtol=1e-10)


@pytest.mark.parametrize("name", COSTS)
def test_each_cost_alone_jax(name):
    """One function each: in a larger one a shape could be at hand from elsewhere."""
    values = arrays()
    inputs = symbols(values)
    compare(inputs, pytensor.grad(COSTS[name](conv2d(*inputs, stride=2)), inputs), values)


@pytest.mark.parametrize("name", LAYERS)
def test_layers_jax(name):
    values = arrays()[:1]
    inputs = symbols(values)
    gradients = [pytensor.grad(COSTS[cost](LAYERS[name](*inputs)), inputs[0]) for cost in ("sum", "mean", "cube")]
    compare(inputs, gradients, values)


def _everything(x, filters, *vectors):
    y = batch_normalization(conv2d(x, filters, stride=2), *vectors)
    y = max_pool2d(upsample2d(y), 3, stride=2, padding=1)
    return conv_transpose(avg_pool2d(y, 2, stride=1), filters, stride=2, padding=1)


# Numba takes minutes to compile all of it
@pytest.mark.parametrize("mode", ["JAX", pytest.param("NUMBA", marks=pytest.mark.torture), "CVM"])
def test_a_stack_in_every_backend(mode):
    values = [*arrays(), *draw_parameters(4, "float64")]
    inputs = symbols(values)
    y = _everything(*inputs)
    gradients = [g for name in ("sum", "mean", "cube") for g in pytensor.grad(COSTS[name](y), inputs)]
    compare(inputs, [y, *gradients], values, mode, rtol=1e-9)


@pytest.mark.usefixtures("eager_torch")
def test_a_stack_in_pytorch():
    values = [*arrays(), *draw_parameters(4, "float64")]
    inputs = symbols(values)
    y = _everything(*inputs)
    gradients = [g for name in ("sum", "mean", "cube") for g in pytensor.grad(COSTS[name](y), inputs)]
    assert_same(
        run(inputs, [y, *gradients], values, "PYTORCH"), run(inputs, [y, *gradients], values, PYTHON), rtol=1e-9
    )
