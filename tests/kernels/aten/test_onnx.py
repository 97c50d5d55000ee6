"""ONNX's normalization operators, from their published definitions (onnx/docs/Operators.md) in NumPy, expressed with
the ATen functions."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from normbench.kernels import aten
from tests.kernels.aten.drawn import Data

DATA = Data(23)
SHAPES = [(3, 6), (2, 6, 5), (2, 6, 3, 4)]
AXES = [(shape, axis) for shape in SHAPES[::2] for axis in range(-len(shape), len(shape))]
EPSILON = 1e-5


def close(ours, expected):
    np.testing.assert_allclose(ours, expected, rtol=1e-11, atol=1e-11)


def channelwise(vector, rank):
    return vector.reshape(1, -1, *(1,) * (rank - 2))


def vectors(channels):
    """scale, B, input_mean, input_var."""
    normal = [DATA.normal(channels, "float64") for _ in range(3)]
    return *normal, DATA.positive(channels, "float64")


@pytest.mark.parametrize("shape", SHAPES)
def test_batch_normalization_inference(shape):
    """BatchNormalization-15, training_mode=0: Y = (X - input_mean) / sqrt(input_var + epsilon) * scale + B."""
    x, (scale, b, mean, var) = DATA.normal(shape, "float64"), vectors(shape[1])
    along = [channelwise(v, len(shape)) for v in (scale, b, mean, var)]
    expected = (x - along[2]) / np.sqrt(along[3] + EPSILON) * along[0] + along[1]
    close(aten.batch_norm(x, scale, b, mean, var, False, 0.1, EPSILON, False), expected)
    close(aten._native_batch_norm_legit_no_training(x, scale, b, mean, var, 0.1, EPSILON)[0], expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_batch_normalization_training(shape):
    """BatchNormalization-15, training_mode=1. ONNX's momentum weighs the old statistic, and its running variance takes
    the population variance: the update is not ATen's, but is made of batch_norm_update_stats."""
    x, (scale, b, mean, var) = DATA.normal(shape, "float64"), vectors(shape[1])
    momentum, axes = 0.9, (0, *range(2, len(shape)))
    current_mean, current_var = x.mean(axes), x.var(axes)
    y = (x - channelwise(current_mean, len(shape))) / np.sqrt(channelwise(current_var, len(shape)) + EPSILON)
    expected = y * channelwise(scale, len(shape)) + channelwise(b, len(shape))
    running_mean = mean * momentum + current_mean * (1 - momentum)
    running_var = var * momentum + current_var * (1 - momentum)

    batch_mean, batch_var = aten.batch_norm_update_stats(x, None, None, 0.0)
    new = aten.native_batch_norm_functional(x, scale, b, mean, var, True, 1 - momentum, EPSILON)
    close(new[0], expected)
    close(new[3], running_mean)
    close(batch_mean, current_mean)
    close(var * momentum + batch_var * (1 - momentum), running_var)


def layer_normalization(x, scale, b, axis, epsilon):
    """LayerNormalization-17: Y, Mean and InvStdDev over the axes [axis, ..., rank - 1]; Scale and B broadcast."""
    axes = tuple(range(axis % x.ndim, x.ndim))
    mean = x.mean(axes, keepdims=True)
    deviation = x - mean
    inverse = 1 / np.sqrt((deviation * deviation).mean(axes, keepdims=True) + epsilon)
    return deviation * inverse * scale + b, mean, inverse


@pytest.mark.parametrize(("shape", "axis"), AXES)
def test_layer_normalization_at_any_axis(shape, axis):
    x, normalized = DATA.normal(shape, "float64"), shape[axis % len(shape) :]
    scale, b = DATA.normal(normalized, "float64"), DATA.normal(normalized[-1:], "float64")
    expected = layer_normalization(x, scale, b, axis, EPSILON)
    outputs = aten.native_layer_norm(x, normalized, scale, jnp.broadcast_to(b, normalized), EPSILON)
    for ours, theirs in zip(outputs, expected, strict=True):
        assert ours.shape == theirs.shape
        close(ours, theirs)


@pytest.mark.parametrize("shape", SHAPES[1:])
@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("opset", [18, 21])
def test_group_normalization(shape, groups, opset):
    """y = scale * (x - mean) / sqrt(variance + epsilon) + bias for each group of each instance; scale and bias for
    each channel in GroupNormalization-21, for each group in GroupNormalization-18."""
    x = DATA.normal(shape, "float64")
    scale, bias = (DATA.normal(shape[1] if opset == 21 else groups, "float64") for _ in range(2))
    if opset == 18:
        scale, bias = (np.repeat(v, shape[1] // groups) for v in (scale, bias))
    grouped = x.reshape(shape[0], groups, -1)
    normalized = (grouped - grouped.mean(2, keepdims=True)) / np.sqrt(grouped.var(2, keepdims=True) + EPSILON)
    expected = normalized.reshape(shape) * channelwise(scale, len(shape)) + channelwise(bias, len(shape))
    close(aten.group_norm(x, groups, scale, bias, EPSILON), expected)


@pytest.mark.parametrize("shape", SHAPES[1:])
def test_instance_normalization(shape):
    """InstanceNormalization-6: y = scale * (x - mean) / sqrt(variance + epsilon) + B, for each instance and channel."""
    x, (scale, b, *_) = DATA.normal(shape, "float64"), vectors(shape[1])
    axes = tuple(range(2, len(shape)))
    normalized = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + EPSILON)
    expected = channelwise(scale, len(shape)) * normalized + channelwise(b, len(shape))
    close(aten.instance_norm(x, scale, b, None, None, True, 0.1, EPSILON, False), expected)


@pytest.mark.parametrize(("shape", "axis"), AXES)
def test_rms_normalization_at_any_axis(shape, axis):
    """RMSNormalization-23: Y = X / sqrt(mean(X^2) + epsilon) * Scale over [axis, ..., rank - 1]; Scale broadcasts."""
    x, normalized = DATA.normal(shape, "float64"), shape[axis % len(shape) :]
    scale = DATA.normal(normalized[-1:], "float64")
    axes = tuple(range(axis % len(shape), len(shape)))
    expected = x / np.sqrt(np.mean(x * x, axes, keepdims=True) + EPSILON) * scale
    close(aten.rms_norm(x, normalized, jnp.broadcast_to(scale, normalized), EPSILON), expected)


@pytest.mark.parametrize("shape", SHAPES[1:])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 13])
def test_lrn(shape, size):
    """LRN-13: square_sum over max(0, c - floor((size - 1) / 2)) <= i <= min(C - 1, c + ceil((size - 1) / 2));
    Y = X / (bias + alpha / size * square_sum)^beta.

    An even size looks one further *up*, PyTorch's one further down: the two differ by the order of the channels.
    """
    x = DATA.normal(shape, "float64", spread=2.0)
    alpha, beta, bias = 0.5, 0.75, 1.5
    square_sum = np.zeros_like(x)
    for c in range(shape[1]):
        first, last = max(0, c - (size - 1) // 2), min(shape[1] - 1, c + math.ceil((size - 1) / 2))
        square_sum[:, c] = np.sum(x[:, first : last + 1] ** 2, 1)
    expected = x / (bias + alpha / size * square_sum) ** beta
    flipped = jnp.flip(aten.local_response_norm(jnp.flip(x, 1), size, alpha, beta, bias), 1)
    close(flipped, expected)
    if size % 2:
        close(aten.local_response_norm(x, size, alpha, beta, bias), expected)
