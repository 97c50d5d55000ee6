"""`conv2d` in PyTensor's words, against SciPy's convolution and what PyTensor's former `conv2d` did."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from scipy.signal import convolve2d, correlate2d

from normbench.errors import UserError
from normbench.kernels.pytensor import batch_normalization, conv2d
from tests.kernels.pytensor.pytensor_cases import assert_same, batch_norm_numpy, draw, draw_parameters, run, symbols


def by_scipy(x, w, function, mode):
    return np.stack([[sum(function(a, b, mode=mode) for a, b in zip(i, o, strict=True)) for o in w] for i in x])


def result(values, mode="JAX", **keywords):
    inputs = symbols(values)
    return run(inputs, [conv2d(*inputs, **keywords)], values, mode)[0]


VALUES = [draw(2, 3, 7, 6, dtype="float64"), draw(4, 3, 3, 3, dtype="float64")]


@pytest.mark.parametrize("mode", ["valid", "full"])
@pytest.mark.parametrize("flip", [True, False])
def test_border_mode_and_flip(mode, flip):
    expected = by_scipy(*VALUES, convolve2d if flip else correlate2d, mode)
    assert_same([result(VALUES, border_mode=mode, filter_flip=flip)], [expected])


def test_their_defaults_as_soon_as_one_of_their_words_is_used():
    """A bare call keeps ours: "same" and not flipped."""
    valid = by_scipy(*VALUES, convolve2d, "valid")
    assert_same([result(VALUES, filter_shape=(4, 3, None, 3))], [valid])
    assert_same([result(VALUES, subsample=(2, 1))], [valid[:, :, ::2]])
    assert_same([result(VALUES, input_shape=(None, 3, 7, 6), stride=2)], [valid[:, :, ::2, ::2]])
    assert_same([result(VALUES)], [by_scipy(*VALUES, correlate2d, "same")])


def test_half_pads_by_the_dilated_kernel():
    """Of an even kernel too: one more place than "same"."""
    values = [VALUES[0], draw(4, 3, 2, 3, dtype="float64")]
    padded = np.pad(values[0], ((0, 0), (0, 0), (1, 1), (1, 1)))
    expected = by_scipy(padded, values[1], convolve2d, "valid")
    assert expected.shape[2:] == (8, 6)
    for mode in ("JAX", "FAST_COMPILE", "NUMBA"):
        assert_same([result(values, mode, border_mode="half")], [expected])
    dilated = np.zeros((4, 3, 3, 3))
    dilated[:, :, ::2, ::2] = VALUES[1][:, :, :2, :2]
    values = [VALUES[0], VALUES[1][:, :, :2, :2]]
    expected = by_scipy(np.pad(VALUES[0], ((0, 0), (0, 0), (1, 1), (1, 1))), dilated, convolve2d, "valid")
    assert_same([result(values, border_mode="half", filter_dilation=(2, 2))], [expected])


@pytest.mark.parametrize("mode", [1, (1, 2), ((0, 2), (1, 0))], ids=str)
def test_numbers(mode):
    pads = ((mode, mode),) * 2 if isinstance(mode, int) else tuple(p if isinstance(p, tuple) else (p, p) for p in mode)
    expected = by_scipy(np.pad(VALUES[0], ((0, 0), (0, 0), *pads)), VALUES[1], convolve2d, "valid")
    assert_same([result(VALUES, border_mode=mode)], [expected])


def test_groups():
    values = [draw(1, 4, 5, 5, dtype="float64"), draw(4, 2, 3, 3, dtype="float64")]
    halves = [by_scipy(values[0][:, c : c + 2], values[1][c : c + 2], convolve2d, "valid") for c in (0, 2)]
    assert_same([result(values, num_groups=2)], [np.concatenate(halves, axis=1)])


def test_shapes_are_static():
    x, w = pt.tensor4("x"), pt.tensor4("w")
    y = conv2d(x, w, input_shape=(None, 3, 7, 6), filter_shape=(4, 3, 3, 3), border_mode="half")
    assert y.type.shape == (None, 4, 7, 6)


@pytest.mark.parametrize("mode", ["JAX", "FAST_COMPILE", "NUMBA", "CVM"])
def test_the_block_that_asked_for_it(mode):
    """Convolution, batch norm, x * sigmoid(x), as code for PyTensor's former module says it, with no static shape."""
    sigmoid = pt.sigmoid
    x, w = pt.tensor4("x", dtype="float32"), pt.tensor4("w", dtype="float32")
    gamma, beta, mean, variance = (pt.vector(name, dtype="float32") for name in ("gamma", "beta", "mean", "variance"))
    conv = conv2d(x, w, border_mode="same", filter_flip=False)
    bn = batch_normalization(conv, gamma, beta, mean, variance, epsilon=1e-3)
    output = bn * sigmoid(bn)
    f = pytensor.function([x, w, gamma, beta, mean, variance], output, mode=mode)
    values = [draw(2, 3, 8, 8), draw(16, 3, 3, 3), *draw_parameters(16)]
    z = batch_norm_numpy(by_scipy(*values[:2], correlate2d, "same"), *values[2:], 1e-3)
    assert_same([f(*values)], [(z / (1 + np.exp(-z))).astype("float32")], rtol=1e-4)


def test_errors():
    x, w = pt.tensor4("x"), pt.tensor4("w")
    for keywords, message in (
        ({"stride": 1, "subsample": 1}, "stride 1 and subsample 1"),
        ({"padding": 1, "border_mode": "half"}, "padding 1 and border_mode 'half'"),
        ({"border_mode": "reflect"}, "'reflect'"),
        ({"input_shape": (1, 3)}, r"shape \(1, 3\) given for x"),
    ):
        with pytest.raises(UserError, match=message):
            conv2d(x, w, **keywords)
