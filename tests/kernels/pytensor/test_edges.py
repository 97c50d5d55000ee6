"""Values and arguments at the edge: no variance, whole numbers, channels last, parameters left out, memory."""

import tracemalloc

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest

from normbench.errors import UserError
from normbench.kernels.pytensor import (
    Convolution,
    batch_normalization,
    batch_normalization_train,
    conv2d,
    freeze,
    group_normalization,
    layer_normalization,
    max_pool2d,
    rms_normalization,
)
from normbench.kernels.pytensor.batch_norm import BatchNormalization
from tests.kernels.pytensor.pytensor_cases import assert_same, batch_norm_numpy, draw, draw_parameters, run, symbols

MODES = ["JAX", "NUMBA", "CVM", "FAST_COMPILE"]


@pytest.mark.parametrize("mode", MODES)
def test_no_variance_and_no_epsilon(mode):
    """Infinite where x differs from the mean, as IEEE arithmetic has it, and never an exception."""
    values = [np.array([[1.0, 2.0]]), np.ones(2), np.zeros(2), np.array([0.5, 3.0]), np.zeros(2)]
    inputs = symbols(values)
    with np.errstate(divide="ignore"):
        (y,) = run(inputs, [batch_normalization(*inputs, epsilon=0.0)], values, mode)
    assert np.asarray(y).tolist() == [[np.inf, -np.inf]]


@pytest.mark.parametrize("mode", MODES)
def test_an_image_of_bytes_and_whole_parameters(mode):
    image = np.random.default_rng(0).integers(0, 256, (1, 3, 6, 5), "uint8")
    filters, vectors = draw(4, 3, 3, 3), [np.array([1, 2, -1, 3]), *draw_parameters(4)[1:]]
    inputs = symbols([image, filters, *vectors])
    convolved = conv2d(*inputs[:2], padding=1)
    assert convolved.type.dtype == "float32"
    (y,) = run(inputs, [batch_normalization(convolved, *inputs[2:])], [image, filters, *vectors], mode)
    x = [image.astype("float32"), filters, vectors[0].astype("float32"), *vectors[1:]]
    same = symbols(x)
    assert_same(
        [y], run(same, [batch_normalization(conv2d(*same[:2], padding=1), *same[2:])], x, "FAST_COMPILE"), rtol=1e-4
    )
    (y,) = run(inputs[:1], [max_pool2d(inputs[0], 2)], [image], mode)
    assert y.dtype == pytensor.config.floatX
    (direct,) = run([inputs[0]], [batch_normalization(inputs[0], *draw_parameters(3))], [image], mode)
    assert_same([direct], [batch_norm_numpy(image, *draw_parameters(3)).astype("float32")])


def test_the_integers_of_numpy():
    x, filters = pt.tensor4("x"), pt.tensor4("filters")
    one, two = np.int64(1), np.int32(2)
    y = conv2d(x, filters, stride=np.array([2, 1]), padding=(one, two), dilation=two, groups=two)
    assert y.owner.op == Convolution((2, 1), (1, 2), 2, 2)
    assert hash(y.owner.op) == hash(Convolution((2, 1), (1, 2), 2, 2))
    assert conv2d(x, filters, stride=two, padding=one).owner.op == Convolution(2, 1)
    group_normalization(x, two)
    layer_normalization(x, normalized_rank=two)
    rms_normalization(x, normalized_rank=one)
    for bad in (np.bool_(True), 1.0, np.float64(2)):
        with pytest.raises(UserError, match="stride"):
            conv2d(x, filters, stride=bad)
        with pytest.raises(UserError, match="normalized_rank"):
            layer_normalization(x, normalized_rank=bad)


def test_the_floats_of_numpy():
    x, vectors = pt.tensor4("x", dtype="float32"), [pt.vector(dtype="float32") for _ in range(4)]
    trained = batch_normalization_train(x, *vectors, momentum=np.float32(0.5), epsilon=np.float32(1e-3))
    assert [variable.type.dtype for variable in trained] == ["float32"] * 5
    for bad in (np.float32(1.5), np.bool_(True), np.array(0.5)):
        with pytest.raises(UserError, match="momentum"):
            batch_normalization_train(x, *vectors, momentum=bad)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(4, 3), (2, 5, 3), (2, 5, 4, 3)], ids=str)
def test_channels_last(shape, mode):
    values = [draw(*shape), *draw_parameters(3)]
    inputs = symbols(values)
    y = batch_normalization(*inputs, axis=-1)
    cost = (y**2).sum(acc_dtype="float32")
    results = run(inputs, [y, *pytensor.grad(cost, inputs)], values, mode)
    first = [np.moveaxis(values[0], -1, 1), *values[1:]]
    same = symbols(first)
    z = batch_normalization(*same)
    expected = run(same, [z, *pytensor.grad((z**2).sum(acc_dtype="float32"), same)], first, "FAST_COMPILE")
    expected[:2] = [np.moveaxis(e, 1, -1) for e in expected[:2]]
    assert_same(results, expected, rtol=1e-4)


def test_axis_errors():
    x = pt.tensor(dtype="float32", shape=(2, 3, 4))
    with pytest.raises(UserError, match="axis 3 for x of rank 3"):
        batch_normalization(x, *[pt.vector()] * 4, axis=3)
    with pytest.raises(UserError, match="axis 'last'"):
        BatchNormalization(axis="last")
    with pytest.raises(UserError, match="x 4, gamma 3"):
        batch_normalization(x, pt.tensor(dtype="float32", shape=(3,)), *[pt.vector()] * 3, axis=-1)


@pytest.mark.parametrize("mode", MODES)
def test_parameters_left_out(mode):
    x, (gamma, beta, mean, variance) = draw(2, 3, 4, 4), draw_parameters(3)
    inputs = symbols([x, mean, variance, gamma, beta])
    s, m, v, g, b = inputs
    graphs = [
        batch_normalization(s, None, None, m, v),
        batch_normalization(s, g, mean=m, variance=v),
        batch_normalization(s, beta=b, mean=m, variance=v),
    ]
    results = run(inputs, graphs, [x, mean, variance, gamma, beta], mode)
    one, zero = np.ones(3), np.zeros(3)
    expected = [batch_norm_numpy(x, *p, mean, variance) for p in ((one, zero), (gamma, zero), (one, beta))]
    assert_same(results, [e.astype("float32") for e in expected], rtol=1e-4)
    with pytest.raises(UserError, match="mean is missing"):
        batch_normalization(s, g, b)


@pytest.mark.parametrize("count", [2, 3])
def test_several_batch_norms_fold_into_one_convolution(count):
    x = pt.tensor4("x", dtype="float64")
    y = conv2d(x, draw(4, 3, 3, 3, dtype="float64"))
    for seed in range(count):
        y = batch_normalization(y, *[pytensor.shared(v) for v in draw_parameters(4, "float64", seed)])
    value = draw(1, 3, 5, 5, dtype="float64")
    for mode in ("JAX", "CVM"):
        folding = pytensor.compile.get_mode(mode).including("conv_bn_fold", "batchnorm_fold")
        f = pytensor.function([x], freeze(y), mode=folding)
        assert [type(node.op) for node in f.maker.fgraph.toposort()] == [Convolution]
        assert_same([f(value)], run([x], [y], [value], "FAST_COMPILE"))


@pytest.mark.parametrize("keywords", [{}, {"stride": 2}, {"groups": 4}], ids=str)
def test_a_convolution_in_numpy_needs_little_memory(keywords):
    """With its gradients: the columns of a 3 x 3 kernel for all of x at once would be nine times x."""
    x, filters = draw(2, 16, 128, 128), draw(16, 16 // keywords.get("groups", 1), 3, 3)
    inputs = symbols([x, filters])
    y = conv2d(*inputs, padding=1, **keywords)
    f = pytensor.function(inputs, [y, *pytensor.grad((y**2).sum(), inputs)], mode="FAST_COMPILE")
    f(x, filters)
    tracemalloc.start()
    f(x, filters)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * x.nbytes
