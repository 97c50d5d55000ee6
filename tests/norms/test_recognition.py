"""Normalizations are recognised by structure: how they are written does not matter, what they are does."""

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from normbench import kernels
from tests.norms.facts import counted, found
from tests.norms.programs import array, loss_of


def mean(x, axes):
    return x.mean(axes, keepdims=True)


WAYS = {
    "two passes": lambda x, axes: (x - mean(x, axes)) * jax.lax.rsqrt(x.var(axes, keepdims=True) + 1e-5),
    "one pass": lambda x, axes: (
        (x - mean(x, axes)) / jnp.sqrt(jnp.maximum(mean(x * x, axes) - mean(x, axes) ** 2, 0) + 1e-5)
    ),
    "a power": lambda x, axes: (x - mean(x, axes)) * (mean(jnp.square(x - mean(x, axes)), axes) + 1e-5) ** -0.5,
    "epsilon after the root": lambda x, axes: (x - mean(x, axes)) / (x.std(axes, keepdims=True) + 1e-5),
    "sums over n": lambda x, axes: (
        (x - mean(x, axes))
        * jax.lax.rsqrt(jnp.sum((x - mean(x, axes)) ** 2, axes, keepdims=True) * (mean(x, axes).size / x.size))
    ),
    "jax.nn": lambda x, axes: jax.nn.standardize(x, axes),
}


@given(
    way=st.sampled_from(sorted(WAYS)),
    sizes=st.lists(st.integers(3, 9), min_size=2, max_size=4),
    differentiated=st.booleans(),
    data=st.data(),
)
@settings(max_examples=25, deadline=None)
def test_a_layer_norm_is_found_however_it_is_written(way, sizes, differentiated, data):
    count = data.draw(st.integers(1, min(2, len(sizes) - 1)))
    axes = tuple(range(len(sizes) - count, len(sizes)))
    scale = array(*sizes[-count:])

    def function(x, scale):
        return WAYS[way](x, axes) * scale

    whole = jax.grad(loss_of(function), argnums=(0, 1)) if differentiated else function
    assert counted(whole, array(*sizes), scale) == {("layer", axes, "float32"): 1}


@pytest.mark.parametrize("factor", [1.0, 2.0, 0.1])
def test_a_sum_that_is_no_mean_is_no_variance(factor):
    def function(x):
        return x * jax.lax.rsqrt(factor * jnp.sum(x * x, -1, keepdims=True) + 1e-6)

    assert not counted(function, array(8, 64))


def test_heads_that_are_normalised_alone_are_no_groups():
    def function(x, scale):
        heads = x.reshape(2, 8, 4, 16)
        return heads * jax.lax.rsqrt(jnp.mean(heads**2, -1, keepdims=True) + 1e-6) * scale

    assert [kind for kind, _, _ in counted(function, array(2, 8, 64), array(16))] == ["rms"]


def test_given_statistics_need_a_given_mean():
    def normalised(x, mean, variance):
        return (x - mean) * jax.lax.rsqrt(variance + 1e-5)

    def scaled(x, mean, variance):
        return x * jax.lax.rsqrt(variance + 1e-5) + mean

    arguments = array(8, 64), array(64), array(64)
    assert counted(normalised, *arguments) == {("batch", (0,), "float32"): 1}
    assert not counted(scaled, *arguments)


@pytest.mark.parametrize(
    ("operator", "shape", "layout", "options"),
    [
        ("layer_norm", (8, 64), "nc", ()),
        ("rms_norm", (2, 8, 64), "nlc", ()),
        ("batch_norm", (2, 16, 8, 8), "nchw", ()),
        ("batch_norm_training", (2, 8, 8, 16), "nhwc", ()),
        ("batch_norm_training", (2, 16, 8, 8), "nchw", ()),
        ("group_norm", (2, 16, 8, 8), "nchw", (("groups", 4),)),
        ("group_norm", (2, 8, 8, 16), "nhwc", (("groups", 4),)),
        ("instance_norm", (2, 8, 8, 16), "nhwc", ()),
        ("instance_norm", (2, 16, 8, 8), "nchw", ()),
    ],
)
def test_the_registrys_textbook_variants_are_themselves(operator, shape, layout, options):
    """The baseline, gradient included, is recognised as the problem that it was made for."""
    problem = kernels.Problem(operator, shape, layout, "bfloat16", "float32", "forward_backward", options=options)
    program = kernels.program(problem, kernels.variants(operator)[0])
    _, norms = found(program.function, *program.inputs)
    assert len(norms) == 1
    assert norms[0].backward


def test_layers_of_a_python_loop_are_told_apart_by_what_is_next_to_them():
    """All have one name and one line; each operation of the gradient goes to one of them."""

    def function(x, weights):
        for weight in weights:
            x = jax.nn.standardize(x) @ weight
        return x

    _, norms = found(jax.grad(loss_of(function)), array(16, 32), [array(32, 32)] * 3)
    assert len(norms) == 3
    assert all(one.backward for one in norms)
    assert not frozenset.intersection(*(one.members for one in norms))


def test_what_is_rematerialised_is_the_same_normalization():
    from tests.norms.programs import llama

    listed = llama(layers=2, remat=True)
    _, norms = found(listed.function, *listed.arguments)
    assert len(norms) == 4
    assert all(one.repeated and one.backward for one in norms)


def deviation(x):
    return x.std(-1, keepdims=True) + 1e-5


NO_NORMS = {
    "times the deviation": lambda x: (x - mean(x, -1)) * deviation(x),
    "times the root": lambda x: x * jnp.sqrt(mean(x * x, -1)),
    "over 1/sqrt": lambda x: x / jax.lax.rsqrt(mean(x * x, -1)),
    "a power": lambda x: (x - mean(x, -1)) * x.var(-1, keepdims=True) ** 0.5,
    "the root over x": lambda x: jnp.sqrt(mean(x * x, -1)) / x,
    "a cube root": lambda x: x / jnp.cbrt(mean(x * x, -1)),
    "no mean subtracted": lambda x: x / deviation(x),
    "the maximum subtracted": lambda x: (x - x.max(-1, keepdims=True)) / deviation(x),
    "the median subtracted": lambda x: (x - jnp.median(x, -1, keepdims=True)) / deviation(x),
    "deviations over the root mean square": lambda x: (x - mean(x, -1)) * jax.lax.rsqrt(mean(x * x, -1) + 1e-5),
}


@pytest.mark.parametrize("name", NO_NORMS)
def test_what_is_not_divided_by_the_root_or_not_centred_as_it_is_squared_is_no_normalization(name):
    assert not counted(NO_NORMS[name], array(8, 64))


def test_given_statistics_are_divided_by():
    """The way back, y * sqrt(variance) + mean, is none."""
    arguments = array(8, 64), array(64), array(64)
    assert not counted(lambda y, mean, variance: (y - mean) * jnp.sqrt(variance + 1e-5), *arguments)


def _folded(x, scale, shift):
    factor = jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-5) * scale
    return x * factor + (shift - mean(x, -1) * factor)


def _scaled_between(x, scale, shift):
    root = jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-5)
    return x * root * scale - mean(x, -1) * root * scale + shift


@pytest.mark.parametrize("function", [_folded, _scaled_between])
def test_the_mean_may_be_subtracted_after_the_division(function):
    assert counted(function, array(8, 64), array(64), array(64)) == {("layer", (1,), "float32"): 1}
