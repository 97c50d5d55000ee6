import numpy as np
import pytest

import pytensor
import pytensor.tensor as pt
from pytensor.compile.mode import get_default_mode
from pytensor.configdefaults import config
from pytensor.gradient import pushforward
from pytensor.graph.replace import vectorize_graph
from pytensor.tensor.batchnorm import BatchNormalization, batch_normalization
from tests import unittest_tools as utt
from tests.tensor.test_blockwise import BlockwiseOpTester


def batch_normalization_numpy(x, gamma, beta, mean, variance, epsilon=1e-5):
    shape = [-1 if axis == (x.ndim > 1) else 1 for axis in range(x.ndim)]
    gamma, beta, mean, variance = (
        param.reshape(shape) for param in (gamma, beta, mean, variance)
    )
    return (x - mean) / np.sqrt(variance + epsilon) * gamma + beta


def random_values(*shape, dtype=None):
    rng = np.random.default_rng([463, *shape])
    channels = shape[min(1, len(shape) - 1)]
    x, gamma, beta, mean = (
        rng.normal(size=size) for size in (shape, channels, channels, channels)
    )
    variance = rng.uniform(0.5, 2, size=channels)
    return [v.astype(dtype or config.floatX) for v in (x, gamma, beta, mean, variance)]


def symbolic(values):
    return [pt.tensor(dtype=v.dtype, shape=(None,) * v.ndim) for v in values]


SHAPES = [(5,), (4, 3), (2, 3, 5), (2, 3, 5, 4)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("epsilon", [1e-3, 0.0])
def test_values(shape, epsilon):
    values = random_values(*shape)
    inputs = symbolic(values)
    out = batch_normalization(*inputs, epsilon=epsilon)
    np.testing.assert_allclose(
        pytensor.function(inputs, out)(*values),
        batch_normalization_numpy(*values, epsilon),
        rtol=1e-6 if config.floatX == "float64" else 1e-4,
        atol=1e-6,
    )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradient(shape):
    values = random_values(*shape, dtype="float64")
    utt.verify_grad(BatchNormalization(1e-3, len(shape)), values)


@pytest.mark.parametrize("use_op_pushforward", [False, True])
@pytest.mark.parametrize("shape", SHAPES[::3], ids=str)
def test_pushforward(shape, use_op_pushforward):
    """Compare with central differences in one direction of all inputs at once."""
    values = random_values(*shape, dtype="float64")
    tangents = [np.cos(v) for v in values]
    inputs, directions = symbolic(values), symbolic(tangents)
    derivative = pushforward(
        batch_normalization(*inputs),
        inputs,
        directions,
        use_op_pushforward=use_op_pushforward,
    )
    f = pytensor.function([*inputs, *directions], derivative, on_unused_input="ignore")
    step = 1e-6
    high, low = (
        batch_normalization_numpy(
            *(v + sign * step * t for v, t in zip(values, tangents, strict=True))
        )
        for sign in (1, -1)
    )
    np.testing.assert_allclose(
        f(*values, *tangents), (high - low) / (2 * step), rtol=1e-5, atol=1e-6
    )


def test_static_shape():
    x = pt.tensor("x", shape=(2, None, 4))
    vectors = [pt.tensor(shape=(size,)) for size in (None, 3, None, 3)]
    assert batch_normalization(x, *vectors).type.shape == (2, 3, 4)

    batched = pt.tensor("batched", shape=(7, 2, None, 4))
    out = vectorize_graph(batch_normalization(x, *vectors), {x: batched})
    assert out.type.shape == (7, 2, 3, 4)


@pytest.mark.parametrize(
    "x_dtype, dtype", [("float32", "float64"), ("float64", "float32")]
)
def test_mixed_dtypes(x_dtype, dtype):
    x, *params = random_values(2, 3, 4, dtype="float64")
    values = [x.astype(x_dtype), *(param.astype(dtype) for param in params)]
    inputs = symbolic(values)
    out = pytensor.function(inputs, batch_normalization(*inputs))(*values)
    assert out.dtype == x_dtype
    np.testing.assert_allclose(out, batch_normalization_numpy(*values), rtol=1e-4)


def test_errors():
    x = pt.tensor("x", shape=(2, 3, 4))
    vectors = [pt.vector() for _ in range(4)]
    with pytest.raises(ValueError, match="beta has length 4"):
        batch_normalization(x, vectors[0], pt.tensor(shape=(4,)), *vectors[2:])
    with pytest.raises(ValueError, match="mean must be a vector"):
        batch_normalization(x, *vectors[:2], pt.matrix(), vectors[3])
    with pytest.raises(TypeError, match="x must be a float tensor"):
        batch_normalization(pt.lmatrix(), *vectors)
    with pytest.raises(ValueError, match="epsilon must be non-negative"):
        batch_normalization(x, *vectors, epsilon=-1)
    values = random_values(2, 3, 4)
    inputs = symbolic(values)
    f = pytensor.function(inputs, batch_normalization(*inputs))
    with pytest.raises(ValueError):
        f(*values[:4], values[4][:1])


def test_constant_parameters():
    x, *params = random_values(2, 3, 4)
    [symbol] = symbolic([x])
    out = batch_normalization(symbol, *params)
    mode = get_default_mode()
    plain = pytensor.function([symbol], out, mode=mode)
    folded = pytensor.function([symbol], out, mode=mode.including("batchnorm_fold"))

    def has_op(f):
        nodes = f.maker.fgraph.apply_nodes
        return any(isinstance(node.op, BatchNormalization) for node in nodes)

    assert has_op(plain)
    assert not has_op(folded)
    np.testing.assert_allclose(folded(x), plain(x), rtol=1e-4, atol=1e-6)


class TestInferShape(utt.InferShapeTester):
    @pytest.mark.parametrize("shape", [(5,), (4, 3), (2, 3, 5, 4)], ids=str)
    def test_infer_shape(self, shape):
        values = random_values(*shape)
        inputs = symbolic(values)
        self._compile_and_check(
            inputs, [batch_normalization(*inputs)], values, BatchNormalization
        )


class TestBatchNormalizationContract(utt.OpContractTestMixin):
    ops = [BatchNormalization(1e-3, 2), BatchNormalization(1e-5, 4)]
    other_op = BatchNormalization(1e-3, 4)

    def clone(self, op):
        return BatchNormalization(op.epsilon, op.ndim)


class TestBlockwise(BlockwiseOpTester):
    core_op = BatchNormalization(1e-3, 2)
    signature = core_op.gufunc_signature.replace("d0", "m").replace("c", "n")

    @classmethod
    def setup_class(cls):
        super().setup_class()
        # All combinations of seven batch shapes of five inputs would be too many
        none = ((),) * 5
        cls.test_batch_shapes = [
            none,
            ((5,), *none[1:]),
            ((3, 1), (5,), (), (1, 5), ()),
        ]

    def create_testvals(self, shape):
        # Variances must not be negative
        return np.abs(super().create_testvals(shape))
