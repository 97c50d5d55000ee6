"""The backbone of YOLO11n through PyTensor's JAX backend, on a small image with all the channels of the model.

The full size: `python -m analysis.pages.pytensor.stack`, which checks each way against plain JAX before it is timed.
"""

import jax
import numpy as np
import pytensor
import pytest
from pytensor.compile import get_mode

from analysis.pages.pytensor.backbone import image, layer, names, parameters
from analysis.pages.pytensor.stack import graph, in_jax, in_pytensor, reference, relative_error
from normbench.kernels.pytensor import BatchNormalization, Convolution

SIZE = 32


@pytest.fixture(scope="module")
def expected():
    return reference(SIZE)


def test_the_blocks_are_those_of_the_model():
    assert len(names()) == len(set(names())) == 31
    assert layer("model.0").size == 640
    weights = sum(filters.size + gamma.size + beta.size for filters, gamma, beta, _, _ in parameters().values())
    # Ultralytics' own summary of yolo11n, modules 0 to 8.
    assert weights == 464 + 4672 + 6640 + 36992 + 26080 + 147712 + 87040 + 295424 + 346112


def test_plain_jax(expected):
    assert expected.shape == (1, 256, SIZE // 32, SIZE // 32)
    assert expected.std() > 0.1
    stack = in_jax("prefolded", image(SIZE), parameters())
    assert relative_error(stack.call(*stack.inputs), expected) < 1e-4


@pytest.mark.parametrize("form", ["unfused", "prefolded", "rewritten"])
def test_pytensor_matches_plain_jax(form, expected):
    given = parameters()
    stack = in_pytensor("pytensor jax", form, image(SIZE), given)
    result = stack.call(*stack.inputs)
    assert isinstance(result, jax.Array)
    assert result.dtype == "float32"
    assert relative_error(result, expected) < 1e-4
    nodes = [type(node.op) for node in stack.call.maker.fgraph.toposort()]
    assert (nodes.count(Convolution), nodes.count(BatchNormalization)) == (31, 31 if form == "unfused" else 0)


def test_shared_parameters_are_not_folded():
    inputs, y, how = graph("unfused", parameters(), shared=True)
    assert how == "shared"
    f = pytensor.function(inputs, y, mode=get_mode("JAX").including("conv_bn_fold"))
    assert [type(node.op) for node in f.maker.fgraph.toposort()].count(BatchNormalization) == 31


def test_the_c_backend(expected):
    stack = in_pytensor("pytensor c", "rewritten", image(SIZE), parameters())
    result = stack.call(*stack.inputs)
    assert isinstance(result, np.ndarray)
    assert relative_error(result, expected) < 1e-4
