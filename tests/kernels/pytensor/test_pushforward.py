"""Derivatives in a direction, both ways that PyTensor has, against jax.jvp: for several inputs at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from pytensor.gradient import pushforward

from normbench.kernels.pytensor import batch_normalization, conv2d, conv_transpose, group_normalization, max_pool2d
from tests.kernels.pytensor.pytensor_cases import PYTHON, assert_same, draw, draw_parameters, symbols

BOTH = pytest.mark.parametrize("direct", [False, True], ids=["through two pullbacks", "the Ops' own"])


def derivative(graph, values, direct, wrt=None, mode="JAX"):
    """The derivative of `graph` in the direction of drawn tangents, and those."""
    inputs = symbols(values)
    chosen = range(len(values)) if wrt is None else wrt
    tangents = [draw(*values[i].shape, dtype="float64", seed=7 + i) for i in chosen]
    directions = symbols(tangents)
    result = pushforward(graph(*inputs), [inputs[i] for i in chosen], directions, use_op_pushforward=direct)
    f = pytensor.function([*inputs, *directions], result, mode=mode, on_unused_input="ignore")
    return f(*values, *tangents), tangents


def check(graph, values, direct, wrt=None):
    """Against jax.jvp of the same graph's own JAX function, which `test_costs` and others hold to be right."""
    inputs = symbols(values)
    f = pytensor.function(inputs, graph(*inputs), mode="JAX").vm.jit_fn
    result, given = derivative(graph, values, direct, wrt)
    chosen = range(len(values)) if wrt is None else wrt
    tangents = dict(zip(chosen, given, strict=True))
    directions = tuple(jnp.asarray(tangents.get(i, np.zeros_like(v))) for i, v in enumerate(values))
    _, (expected,) = jax.jvp(lambda *a: tuple(f(*a)), tuple(map(jnp.asarray, values)), directions)
    assert_same([result], [np.asarray(expected)], rtol=1e-10)
    assert_same([derivative(graph, values, direct, wrt, PYTHON)[0]], [np.asarray(expected)], rtol=1e-10)


@BOTH
@pytest.mark.parametrize("shape", [(4,), (2, 3), (2, 3, 4, 3)], ids=str)
def test_batch_norm(shape, direct):
    channels = shape[min(len(shape) - 1, 1)]
    check(batch_normalization, [draw(*shape, dtype="float64"), *draw_parameters(channels, "float64")], direct)


@BOTH
@pytest.mark.parametrize("wrt", [(1, 2), (2, 3), (3, 4)], ids=str)
def test_batch_norm_for_some_inputs(wrt, direct):
    check(batch_normalization, [draw(2, 3, 4, 3, dtype="float64"), *draw_parameters(3, "float64")], direct, wrt)


@BOTH
@pytest.mark.parametrize("keywords", [{"padding": "same", "stride": 2}, {"padding": 1, "groups": 2}], ids=str)
def test_convolution(keywords, direct):
    groups = keywords.get("groups", 1)
    values = [draw(2, 4, 6, 5, dtype="float64"), draw(4, 4 // groups, 3, 3, dtype="float64"), draw(4, dtype="float64")]
    check(lambda *a: conv2d(*a, **keywords), values, direct)
    check(lambda *a: conv2d(*a, **keywords), values, direct, wrt=(2,))


@BOTH
def test_gradients_of_a_convolution(direct):
    """A derivative of gradients: Hessian times vector."""
    values = [draw(1, 2, 5, 4, dtype="float64"), draw(3, 2, 3, 3, dtype="float64")]

    def graph(x, filters):
        y = conv2d(x, filters, stride=2)
        dx, dw = pytensor.grad((y * y * y).sum(), [x, filters])
        return (dx * dx).sum() + (dw * dw).sum()  # of a power with a negative base PyTensor's own derivative is NaN

    check(graph, values, direct)


@BOTH
def test_other_layers(direct):
    x = draw(2, 4, 6, 5, dtype="float64")
    vectors = draw_parameters(4, "float64")[:2]
    check(lambda x, g, b: group_normalization(x, 2, g, b), [x, *vectors], direct)
    check(lambda x: max_pool2d(x, 3, stride=2, padding=1), [x], direct)
    check(lambda *a: conv_transpose(*a, stride=2), [x, draw(4, 2, 3, 3, dtype="float64")], direct)


def test_the_upstream_fault_is_still_there():
    """docs/pytensor.md shows this example: delete both when PyTensor gives 2 here."""
    x, b = pt.dvector("x"), pt.dvector("b")
    f = pytensor.function(
        [x, b], pushforward(x + b, [x, b], [pt.ones_like(x), pt.ones_like(b)]), on_unused_input="ignore"
    )
    assert f([1.0], [1.0]).tolist() == [1.0]
