"""Batch norm under JAX: against the Python backend and against the formula in float64."""

import jax
import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest

from normbench.errors import UserError
from normbench.kernels.pytensor import BatchNormalization, batch_normalization
from tests.kernels.pytensor.pytensor_cases import (
    assert_same,
    batch_norm_numpy,
    compare,
    draw,
    draw_parameters,
    run,
    symbols,
)


def check(values, epsilon=1e-5, static=False, rtol=None):
    inputs = symbols(values, static)
    (y,) = compare(inputs, [batch_normalization(*inputs, epsilon=epsilon)], values, rtol=rtol)
    assert_same([y], [batch_norm_numpy(*values, epsilon).astype(values[0].dtype)], rtol)
    return y


@pytest.mark.parametrize("shape", [(5,), (4, 6), (2, 3, 7), (2, 3, 5, 4), (2, 3, 2, 4, 3)], ids=str)
@pytest.mark.parametrize("static", [False, True], ids=["dynamic", "static"])
def test_ranks(shape, static):
    channels = shape[0] if len(shape) == 1 else shape[1]
    check([draw(*shape), *draw_parameters(channels)], static=static)


@pytest.mark.parametrize("epsilon", [1e-3, 1e-5, 1e-7, 0.0])
def test_epsilon(epsilon):
    x, gamma, beta, mean, variance = draw(2, 4, 3, 3), *draw_parameters(4)
    small = (variance * 1e-3).astype("float32")  # so that epsilon matters
    y = check([x, gamma, beta, mean, small], epsilon)
    assert epsilon < 1e-4 or not np.allclose(y, batch_norm_numpy(x, gamma, beta, mean, small, 0.0), rtol=1e-3)


def test_zero_mean_and_unit_variance():
    x, gamma, beta = draw(2, 3, 4, 4), draw(3, seed=1), draw(3, seed=2)
    check([x, gamma, beta, np.zeros(3, "float32"), np.ones(3, "float32")])


def test_identity():
    x, one, zero = draw(2, 3, 4, 4), np.ones(3, "float32"), np.zeros(3, "float32")
    np.testing.assert_allclose(check([x, one, zero, zero, one]), x, rtol=1e-5)


def test_arbitrary_statistics():
    x = draw(2, 3, 4, 4)
    statistics = [np.array([-5.0, 0.25, 40.0], "float32"), np.array([0.01, 3.0, 250.0], "float32")]
    check([x, draw(3, seed=1), draw(3, seed=2), *statistics])


@pytest.mark.parametrize("channels", [1, 512])
def test_channels(channels):
    check([draw(2, channels, 3, 3), *draw_parameters(channels)])


@pytest.mark.parametrize("batch", [0, 8, 16, 32])
def test_batch(batch):
    check([draw(batch, 4, 5, 5), *draw_parameters(4)])


def test_tiny_variance():
    gamma, beta, mean, _ = draw_parameters(3)
    check([draw(2, 3, 4, 4), gamma, beta, mean, np.full(3, 1e-8, "float32")])


def test_learned_gamma_and_beta():
    gamma, beta = np.array([0.5, -2.0, 3.0], "float32"), np.array([-1.0, 0.1, 7.0], "float32")
    check([draw(2, 3, 4, 4), gamma, beta, *draw_parameters(3)[2:]])


@pytest.mark.parametrize("rank", [2, 4])
def test_values_by_channel(rank):
    """gamma, beta, mean and variance that differ by channel, with results worked out by hand."""
    x = np.full((2, 3, 4, 5)[:rank], 10.0, "float64")
    vectors = [np.array(v) for v in ([1.0, 2.0, 3.0], [0.0, 1.0, -1.0], [10.0, 8.0, 4.0], [1.0, 4.0, 9.0])]
    y = check([x, *vectors], epsilon=0.0)
    for channel, expected in enumerate((0.0, 3.0, 5.0)):
        np.testing.assert_allclose(y[:, channel], expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_dtypes(dtype):
    y = check([draw(2, 3, 4, 4, dtype=dtype), *draw_parameters(3, dtype)])
    assert y.dtype == dtype


@pytest.mark.parametrize("mode", ["JAX", "FAST_COMPILE", "CVM"])
@pytest.mark.parametrize(
    ("x_dtype", "dtype"), [("float32", "float64"), ("float64", "float32"), ("float16", "float32")], ids=str
)
def test_mixed_dtypes(x_dtype, dtype, mode):
    values = [draw(2, 3, 4, 4, dtype=x_dtype), *draw_parameters(3, dtype)]
    inputs = symbols(values)
    (y,) = run(inputs, [batch_normalization(*inputs)], values, mode)
    assert_same([y], [batch_norm_numpy(*values).astype(x_dtype)])


def test_results_are_jax_arrays_of_any_batch():
    values = [draw(2, 3, 4, 4), *draw_parameters(3)]
    inputs = symbols(values)
    f = pytensor.function(inputs, batch_normalization(*inputs), mode="JAX")
    for batch in (2, 5):
        x = draw(batch, 3, 4, 4)
        y = f(x, *values[1:])
        assert isinstance(y, jax.Array)
        assert_same([y], [batch_norm_numpy(x, *values[1:]).astype("float32")])


def test_static_shapes_are_reconciled():
    x = pt.tensor("x", dtype="float32", shape=(2, None, 4, 4))
    vectors = [pt.tensor(dtype="float32", shape=(size,)) for size in (None, 3, None, 3)]
    assert batch_normalization(x, *vectors).type.shape == (2, 3, 4, 4)
    assert batch_normalization(pt.vector("v"), *vectors).type.shape == (3,)


def test_shape_without_the_values():
    values = [draw(2, 3, 4, 5), *draw_parameters(3)]
    inputs = symbols(values)
    f = pytensor.function(inputs, batch_normalization(*inputs).shape, mode="FAST_COMPILE", on_unused_input="ignore")
    assert tuple(f(*values)) == (2, 3, 4, 5)
    assert not any(isinstance(node.op, BatchNormalization) for node in f.maker.fgraph.toposort())


def test_equality():
    assert BatchNormalization(1e-3) == BatchNormalization(1e-3) != BatchNormalization(1e-5)
    assert hash(BatchNormalization(1e-3)) == hash(BatchNormalization(1e-3))


NAMES = ("gamma", "beta", "mean", "variance")


@pytest.mark.parametrize("index", range(4), ids=NAMES)
def test_parameter_errors(index):
    x = pt.tensor("x", dtype="float32", shape=(2, 3, 4, 4))
    vectors = [pt.tensor(dtype="float32", shape=(3,)) for _ in range(4)]
    for wrong, message in (
        (pt.tensor(dtype="float32", shape=(4,)), f"{NAMES[index]} 4"),
        (pt.matrix(), f"{NAMES[index]} has rank 2"),
        (pt.zvector(), f"{NAMES[index]} has dtype complex128"),
    ):
        given = [*vectors[:index], wrong, *vectors[index + 1 :]]
        with pytest.raises(UserError, match=message):
            batch_normalization(x, *given)


def test_x_errors():
    vectors = [pt.vector() for _ in range(4)]
    with pytest.raises(UserError, match="x has rank 0"):
        batch_normalization(pt.scalar(), *vectors)
    with pytest.raises(UserError, match="x has rank 6"):
        batch_normalization(pt.tensor(dtype="float64", shape=(None,) * 6), *vectors)
    with pytest.raises(UserError, match="x has dtype bool"):
        batch_normalization(pt.bmatrix().astype("bool"), *vectors)


@pytest.mark.parametrize("epsilon", [-1e-5, float("nan"), "small", None, True])
def test_epsilon_errors(epsilon):
    with pytest.raises(UserError, match="epsilon"):
        BatchNormalization(epsilon)


@pytest.mark.parametrize("mode", ["FAST_COMPILE", "JAX"])
@pytest.mark.parametrize("length", [1, 4])
def test_lengths_that_differ_at_run_time(mode, length):
    """Also a length of 1, which would be repeated without a word."""
    values = [draw(2, 3, 4, 4), *draw_parameters(3)]
    inputs = symbols(values)
    f = pytensor.function(inputs, batch_normalization(*inputs), mode=mode)
    values[2] = draw(length)
    with pytest.raises(UserError, match=f"beta {length}"):
        f(*values)
