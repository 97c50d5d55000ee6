import numpy as np
import pytest

import pytensor.tensor as pt
from pytensor.configdefaults import config
from pytensor.tensor.batchnorm import batch_normalization
from tests.link.pytorch.test_basic import compare_pytorch_and_py


pytest.importorskip("torch")


@pytest.mark.parametrize("shape", [(5,), (4, 3), (2, 3, 5), (2, 3, 5, 4)], ids=str)
def test_batch_normalization(shape):
    rng = np.random.default_rng(sum(shape))
    channels = shape[min(1, len(shape) - 1)]
    values = [
        *(rng.normal(size=size) for size in (shape, channels, channels, channels)),
        rng.uniform(0.5, 2, size=channels),
    ]
    values = [value.astype(config.floatX) for value in values]
    inputs = [pt.tensor(shape=(None,) * value.ndim) for value in values]
    out = batch_normalization(*inputs, epsilon=1e-3)
    compare_pytorch_and_py(inputs, [out], values)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_batch_normalization_keeps_the_type_of_x(dtype):
    rng = np.random.default_rng(12)
    x = rng.normal(size=(4, 3)).astype(dtype)
    params = rng.uniform(0.5, 2, size=(4, 3)).astype(config.floatX)
    inputs = [pt.matrix(dtype=dtype), *(pt.vector() for _ in params)]
    out = batch_normalization(*inputs)
    _, [res] = compare_pytorch_and_py(inputs, [out], [x, *params])
    assert str(res.dtype).split(".")[-1] == dtype
