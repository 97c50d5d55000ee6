"""Batch norm in training mode: against the formula, PyTorch and numerical gradients; updates; folding afterwards."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from pytensor.gradient import verify_grad

from normbench.errors import UserError
from normbench.kernels.pytensor import (
    BatchNormalization,
    batch_normalization,
    batch_normalization_train,
    conv2d,
    freeze,
)
from tests.kernels.pytensor.pytensor_cases import PYTHON, assert_same, draw, draw_parameters, run, symbols

NAMES = ("y", "mean", "inverse", "running_mean", "running_var")


def expected(x, gamma, beta, running_mean, running_var, momentum=0.1, epsilon=1e-5):
    """In float64, channels on axis 1."""
    axes, pattern = (0, *range(2, x.ndim)), (1, -1, *(1,) * (x.ndim - 2))
    x, gamma, beta, running_mean, running_var = (
        a.astype("float64") for a in (x, gamma, beta, running_mean, running_var)
    )
    mean, variance, count = x.mean(axes), x.var(axes), x.size // x.shape[1]
    inverse = 1 / np.sqrt(variance + epsilon)
    y = (x - mean.reshape(pattern)) * (inverse * gamma).reshape(pattern) + beta.reshape(pattern)
    moved = (1 - momentum) * running_mean + momentum * mean
    return [y, mean, inverse, moved, (1 - momentum) * running_var + momentum * variance * count / (count - 1)]


@pytest.mark.parametrize("mode", ["JAX", "NUMBA", "CVM", "FAST_COMPILE"])
@pytest.mark.parametrize("shape", [(6, 3), (2, 3, 5, 4)], ids=str)
def test_forward(shape, mode):
    """float32 stays float32 in every backend."""
    values = [draw(*shape), *draw_parameters(3)]
    inputs = symbols(values)
    results = run(inputs, list(batch_normalization_train(*inputs, momentum=0.3, epsilon=1e-3)), values, mode)
    assert_same(results, [e.astype("float32") for e in expected(*values, 0.3, 1e-3)], rtol=1e-5)


@pytest.mark.usefixtures("eager_torch")
def test_forward_in_the_pytorch_backend():
    values = [draw(2, 3, 5, 4), *draw_parameters(3)]
    inputs = symbols(values)
    results = run(inputs, list(batch_normalization_train(*inputs)), values, "PYTORCH")
    assert_same(results, [e.astype("float32") for e in expected(*values)], rtol=1e-5)


@pytest.mark.parametrize("mode", ["JAX", "CVM"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_against_pytorch(mode, dtype):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    values = [draw(4, 3, 5, 4, dtype=dtype), *draw_parameters(3, dtype)]
    weight = draw(4, 3, 5, 4, dtype=dtype, seed=9)
    inputs = symbols(values)
    result = batch_normalization_train(*inputs, momentum=0.1)
    cost = (result.y * pt.constant(weight)).sum(dtype=dtype, acc_dtype=dtype)
    gradients = pytensor.grad(cost, inputs[:3])
    found = run(inputs, [result.y, result.running_mean, result.running_var, *gradients], values, mode)
    x, gamma, beta, mean, variance = (torch.tensor(v) for v in values)
    for leaf in (x, gamma, beta):
        leaf.requires_grad_()
    y = torch.nn.functional.batch_norm(x, mean, variance, gamma, beta, True, 0.1)
    (y * torch.tensor(weight)).sum().backward()
    wanted = [y.detach(), mean, variance, x.grad, gamma.grad, beta.grad]
    assert_same(found, [w.numpy() for w in wanted], rtol=1e-4 if dtype == "float32" else 1e-10)


@pytest.mark.parametrize("output", range(3), ids=NAMES[:3])
def test_gradients_numerically(output):
    values = [draw(3, 2, 4, dtype="float64"), *draw_parameters(2, "float64")]

    def one(x, gamma, beta):
        found = list(batch_normalization_train(x, gamma, beta, *values[3:]))[output]
        return found + 0 * (gamma.sum() + beta.sum())  # the statistics depend on x alone

    verify_grad(one, values[:3], rng=np.random.default_rng(0), n_tests=1, mode="FAST_COMPILE")


@pytest.mark.parametrize("dtypes", [("float16", "float32"), ("float32", "float64"), ("float32", "float32")], ids=str)
@pytest.mark.parametrize("mode", ["JAX", "FAST_COMPILE"])
def test_dtypes(dtypes, mode):
    """y as x; the batch's statistics as computed; the running ones as given."""
    values = [draw(2, 3, 4, dtype=dtypes[0]), *draw_parameters(3, dtypes[1])[:2], *draw_parameters(3)[2:]]
    inputs = symbols(values)
    results = run(inputs, list(batch_normalization_train(*inputs)), values, mode)
    wide = "float64" if "float64" in dtypes else "float32"
    assert [r.dtype.name for r in results] == [dtypes[0], wide, wide, "float32", "float32"]


def test_channels_last_and_parameters_left_out():
    x, (_, _, mean, variance) = draw(2, 4, 3), draw_parameters(3)
    inputs = symbols([x, mean, variance])
    results = run(
        inputs, list(batch_normalization_train(inputs[0], None, None, *inputs[1:], axis=-1)), [x, mean, variance], "JAX"
    )
    wanted = expected(np.moveaxis(x, -1, 1), np.ones(3), np.zeros(3), mean, variance)
    wanted[0] = np.moveaxis(wanted[0], 1, -1)
    assert_same(results, [w.astype("float32") for w in wanted], rtol=1e-5)


def _trained(x, filters, mode):
    """A block after two steps, its running statistics updated by `updates`."""
    gamma, beta, mean, variance = (pytensor.shared(v) for v in draw_parameters(4))
    filters = pytensor.shared(filters)
    symbol = pt.tensor4("x", dtype="float32")
    convolved = conv2d(symbol, filters, padding=1)
    result = batch_normalization_train(convolved, gamma, beta, mean, variance)
    updates = [(mean, result.running_mean), (variance, result.running_var)]
    step = pytensor.function([symbol], result.y, updates=updates, mode=mode)
    for _ in range(2):
        step(x)
    inference = batch_normalization(convolved, gamma, beta, mean, variance)
    return symbol, inference, mean, variance


@pytest.mark.parametrize("mode", ["JAX", "CVM"])
def test_updates_and_folding_after_training(mode):
    x, filters = draw(2, 3, 6, 5), draw(4, 3, 3, 3)
    symbol, inference, mean, variance = _trained(x, filters, mode)
    moved = draw_parameters(4)
    (y,) = run([symbol], [conv2d(symbol, filters, padding=1)], [x], PYTHON)
    for _ in range(2):
        moved[2:] = expected(y, *moved)[3:]
    for found, wanted in zip((mean, variance), moved[2:], strict=True):
        np.testing.assert_allclose(np.asarray(found.get_value()), wanted, rtol=1e-5)
    folded = pytensor.function(
        [symbol], freeze(inference), mode=pytensor.compile.get_mode(mode).including("conv_bn_fold")
    )
    assert not any(isinstance(node.op, BatchNormalization) for node in folded.maker.fgraph.toposort())
    assert_same([folded(x)], run([symbol], [inference], [x], PYTHON), rtol=1e-4)


def test_errors():
    x, vectors = pt.tensor(dtype="float32", shape=(2, 3, 4)), [pt.tensor(dtype="float32", shape=(3,))] * 4
    for arguments, keywords, message in (
        ((x, *vectors), {"momentum": 1.5}, "momentum 1.5"),
        ((x, *vectors), {"epsilon": -1}, "epsilon -1"),
        ((x, *vectors), {"axis": 5}, "axis 5"),
        ((pt.vector(), *vectors), {}, "x has rank 1"),
        ((pt.tensor(dtype="float32", shape=(1, 3, 1)), *vectors), {}, "one element per channel"),
        ((x, *vectors[:3], pt.tensor(dtype="float32", shape=(2,))), {}, "running_var 2"),
        ((x, *vectors[:3], None), {}, "running_var is missing"),
    ):
        with pytest.raises(UserError, match=message):
            batch_normalization_train(*arguments, **keywords)
