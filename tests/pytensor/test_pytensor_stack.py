"""A stack of ConvBNSiLU blocks with the sizes of YOLO11n's backbone at 640 x 640, through PyTensor's JAX backend."""

import jax
import jax.numpy as jnp
import numpy as np
import pytensor
import pytensor.tensor as pt
from pytensor.compile import get_mode
from pytensor_cases import assert_same, draw, draw_parameters

from kernels.pytensor import BatchNormalization, Conv2D, batch_normalization, conv2d, freeze, silu

# Input channels, output channels, kernel, stride: model.0, .1, .2 cv1, .3, .4 cv1, .5, .6 cv1, .7, .8 cv1; the 1 x 1
# convolutions take what precedes them in place of what lies between in the model.
LAYERS = (
    (3, 16, 3, 2),
    (16, 32, 3, 2),
    (32, 64, 1, 1),
    (64, 64, 3, 2),
    (64, 128, 1, 1),
    (128, 128, 3, 2),
    (128, 128, 1, 1),
    (128, 256, 3, 2),
    (256, 256, 1, 1),
)
EPSILON = 1e-3


def parameters():
    for index, (channels, features, kernel, _) in enumerate(LAYERS):
        scale = np.float32(1 / np.sqrt(channels * kernel * kernel))
        yield [draw(features, channels, kernel, kernel, seed=index) * scale, *draw_parameters(features, seed=index)]


def in_jax(x, layers):
    for (filters, *vectors), (_, _, _, stride) in zip(layers, LAYERS, strict=True):
        numbers = ("NCHW", "OIHW", "NCHW")
        pads = [(filters.shape[-1] // 2,) * 2] * 2
        z = jax.lax.conv_general_dilated(x, filters, (stride, stride), pads, dimension_numbers=numbers)
        gamma, beta, mean, variance = (v.reshape(-1, 1, 1) for v in vectors)
        x = jax.nn.silu((z - mean) * (gamma * jax.lax.rsqrt(variance + EPSILON)) + beta)
    return x


def in_pytensor(x, layers):
    for (filters, *vectors), (_, _, kernel, stride) in zip(layers, LAYERS, strict=True):
        z = conv2d(x, pytensor.shared(filters), padding=kernel // 2, stride=stride)
        x = silu(batch_normalization(z, *map(pytensor.shared, vectors), epsilon=EPSILON))
    return x


def test_yolo_backbone():
    layers, image = list(parameters()), draw(1, 3, 640, 640)
    x = pt.tensor4("x", dtype="float32")
    y = in_pytensor(x, layers)
    expected = np.asarray(jax.jit(in_jax)(jnp.asarray(image), layers))
    assert expected.shape == (1, 256, 20, 20)
    assert expected.std() > 0.01
    folding = get_mode("JAX").including("conv_bn_fold")
    for outputs, mode, norms in ((y, get_mode("JAX"), len(LAYERS)), (freeze(y), folding, 0)):
        f = pytensor.function([x], outputs, mode=mode)
        nodes = [type(node.op) for node in f.maker.fgraph.toposort()]
        assert (nodes.count(Conv2D), nodes.count(BatchNormalization)) == (len(LAYERS), norms)
        assert_same([np.asarray(f(image))], [expected], rtol=1e-3)
