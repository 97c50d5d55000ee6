"""Batches of the Ops under `vectorize_graph`: static shapes stay known, and values are those of each element."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from pytensor.graph.replace import vectorize_graph

from normbench.kernels.pytensor import batch_normalization, conv2d, conv_transpose, max_pool2d
from tests.kernels.pytensor.pytensor_cases import assert_same, draw, draw_parameters

SHAPES = {"x": (2, 3, 6, 5), "filters": (4, 3, 3, 3)}
GRAPHS = {
    "batch_norm": lambda x, w, v: batch_normalization(x, *v),
    "channels last": lambda x, w, v: batch_normalization(x.dimshuffle(0, 2, 3, 1), *v, axis=-1),
    "conv2d": lambda x, w, v: conv2d(x, w, padding=1),
    "conv_transpose": lambda x, w, v: conv_transpose(x, w[:3], stride=2),
    "max_pool2d": lambda x, w, v: max_pool2d(x, 2),
    "gradient": lambda x, w, v: pytensor.grad((conv2d(x, w, stride=2) ** 2).sum(), x),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_a_batch_of_images(name):
    x, w = (pt.tensor(n, dtype="float64", shape=shape) for n, shape in SHAPES.items())
    vectors = [pt.constant(v) for v in draw_parameters(3, "float64")]
    graph = GRAPHS[name](x, w, vectors)
    batched = pt.tensor("batched", dtype="float64", shape=(2, *SHAPES["x"]))
    y = vectorize_graph(graph, {x: batched})
    assert y.type.shape == (2, *graph.type.shape)
    values = [draw(2, *SHAPES["x"], dtype="float64"), draw(*SHAPES["filters"], dtype="float64")]
    each = pytensor.function([x, w], graph, mode="FAST_COMPILE", on_unused_input="ignore")
    expected = np.stack([each(one, values[1]) for one in values[0]])
    f = pytensor.function([batched, w], y, mode="JAX", on_unused_input="ignore")
    assert_same([f(*values)], [expected])
