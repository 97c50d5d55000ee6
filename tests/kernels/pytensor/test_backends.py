"""The same results in every backend, and by compiled code where the backend compiles."""

import warnings

import numpy as np
import pytensor
import pytest

from normbench.errors import UserError
from normbench.kernels.pytensor import batch_normalization, conv2d, silu
from tests.kernels.pytensor.pytensor_cases import (
    assert_same,
    batch_norm_numpy,
    compare,
    draw,
    draw_parameters,
    run,
    symbols,
)

BATCH_NORM = [
    ((5,), "float32", "float32"),
    ((4, 6), "float32", "float64"),
    ((2, 3, 5, 4), "float64", "float32"),
]


def block(values, **keywords):
    inputs = symbols(values)
    x, filters, *vectors = inputs
    return inputs, silu(batch_normalization(conv2d(x, filters, **keywords), *vectors))


@pytest.mark.parametrize(("shape", "x_dtype", "dtype"), BATCH_NORM, ids=str)
def test_batch_norm_numba(shape, x_dtype, dtype):
    channels = shape[min(len(shape) - 1, 1)]
    values = [draw(*shape, dtype=x_dtype), *draw_parameters(channels, dtype)]
    inputs = symbols(values)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*object mode.*")
        f = pytensor.function(inputs, batch_normalization(*inputs), mode="NUMBA")
        assert_same([f(*values)], [batch_norm_numpy(*values).astype(x_dtype)])
    values[3] = draw(1, dtype=dtype)
    with pytest.raises(ValueError, match="length"):
        f(*values)


def test_half_precision_numba():
    values = [draw(2, 3, dtype="float16"), *draw_parameters(3)]
    inputs = symbols(values)
    with pytest.raises(NotImplementedError, match="float16"):
        run(inputs, [batch_normalization(*inputs)], values, "NUMBA")


def test_block_numba():
    """Stride, dilation, groups and uneven padding, in compiled code."""
    values = [draw(2, 4, 9, 8), draw(6, 2, 3, 2), *draw_parameters(6)]
    keywords = {"stride": (2, 1), "padding": ((1, 2), (0, 3)), "dilation": (1, 2), "groups": 2}
    inputs, y = block(values, **keywords)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*object mode.*")
        compare(inputs, [y], values, "NUMBA")


def test_gradients_numba():
    values = [draw(2, 4, 5, 6, dtype="float64"), draw(4, 2, 3, 3, dtype="float64"), draw(4, dtype="float64")]
    inputs = symbols(values)
    y = conv2d(*inputs, stride=2, groups=2)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*object mode.*")
        compare(inputs, pytensor.grad((y * y).sum(), inputs), values, "NUMBA")


@pytest.mark.parametrize(("shape", "x_dtype", "dtype"), BATCH_NORM, ids=str)
@pytest.mark.usefixtures("eager_torch")
def test_batch_norm_pytorch(shape, x_dtype, dtype):
    channels = shape[min(len(shape) - 1, 1)]
    values = [draw(*shape, dtype=x_dtype), *draw_parameters(channels, dtype)]
    inputs = symbols(values)
    f = pytensor.function(inputs, batch_normalization(*inputs), mode="PYTORCH")
    assert_same([f(*values)], [batch_norm_numpy(*values).astype(x_dtype)])
    values[3] = draw(1, dtype=dtype)
    with pytest.raises(UserError, match="mean 1"):
        f(*values)


@pytest.mark.parametrize("padding", ["same", ((1, 2), (0, 3))], ids=str)
@pytest.mark.usefixtures("eager_torch")
def test_block_and_gradients_pytorch(padding):
    values = [draw(2, 4, 9, 8, dtype="float64"), draw(6, 2, 3, 2, dtype="float64"), *draw_parameters(6, "float64")]
    inputs, y = block(values, stride=(2, 1), padding=padding, dilation=(1, 2), groups=2)
    compare(inputs, [y, *pytensor.grad((y * y).sum(), inputs)], values, "PYTORCH")


def test_batch_norm_by_the_compiler_of_pytorch():
    pytest.importorskip("torch", reason="PyTorch is not installed")
    from normbench.kernels.pytensor import register

    register("pytorch")
    values = [draw(2, 3, 4, 4), *draw_parameters(3)]
    inputs = symbols(values)
    compare(inputs, [batch_normalization(*inputs)], values, "PYTORCH")


def test_mlx():
    pytest.importorskip("mlx.core", reason="MLX is not installed")
    values = [draw(2, 4, 9, 8), draw(6, 2, 3, 2), *draw_parameters(6)]
    inputs, y = block(values, stride=(2, 1), groups=2)
    (result,) = run(inputs, [y], values, "MLX")
    (expected,) = run(inputs, [y], values, "FAST_COMPILE")
    assert_same([np.asarray(result)], [expected], rtol=1e-4)


def test_block_c():
    values = [draw(2, 4, 9, 8), draw(6, 2, 3, 2), *draw_parameters(6)]
    inputs, y = block(values, groups=2)
    compare(inputs, [y], values, "CVM")
