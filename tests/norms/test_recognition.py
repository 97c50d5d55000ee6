"""Normalizations are recognised by structure: how they are written does not matter, what they are does."""

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from normbench import kernels
from normbench.norms.recognise import epsilon_of
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


def _of_squares(mask, count):
    def function(x, there):
        squares = jnp.sum(mask(x * x, there), -1, keepdims=True)
        return x * jax.lax.rsqrt(squares / count(there) + 1e-6)

    return function


def _kept(x, there):
    return jnp.where(there, x, 0)


def _each(there):
    return there.sum(-1, keepdims=True)


def _deviation(ddof):
    def function(x, there):
        mean = jnp.mean(x, -1, keepdims=True, where=there)
        return (x - mean) / jnp.std(x, -1, keepdims=True, where=there, ddof=ddof)

    return function


MASKED = {  # and the kind that each is
    "standardize": (lambda x, there: jax.nn.standardize(x, where=there), "layer"),
    "n": (_deviation(0), "layer"),
    "n - 1": (_deviation(1), "layer"),
    "selected": (_of_squares(_kept, _each), "rms"),
    "multiplied": (_of_squares(lambda x, there: x * there, _each), "rms"),
    "at least one": (_of_squares(_kept, lambda there: jnp.maximum(_each(there), 1)), "rms"),
    "times a number": (_of_squares(_kept, lambda there: 2 * _each(there[:, ::2])), None),  # another mask
    "of all rows": (_of_squares(_kept, lambda there: there.sum()), None),
    "twice as many": (_of_squares(_kept, lambda there: 2 * _each(there)), None),
    "two less": (_of_squares(_kept, lambda there: _each(there) - 2), None),
    "nothing masked": (_of_squares(lambda x, there: x, _each), None),
}


@pytest.mark.parametrize("differentiated", [False, True])
@pytest.mark.parametrize("name", MASKED)
def test_what_a_mask_leaves_is_a_mean_where_the_sum_of_that_mask_divides(name, differentiated):
    function, kind = MASKED[name]
    whole = jax.grad(loss_of(function)) if differentiated else function
    _, norms = found(whole, array(8, 64), array(8, 64, dtype=jnp.bool_))
    assert [one.match.statistic.masked for one in norms] == [True] * (kind is not None)
    right = {} if kind is None else {(kind, (1,), "float32"): 1}
    assert counted(whole, array(8, 64), array(8, 64, dtype=jnp.bool_)) == right


def _synchronised(mean):
    def function(x):
        centred = x - mean(x)
        return centred * jax.lax.rsqrt(mean(centred * centred) + 1e-5)

    return function


def _of_columns(total):
    return lambda x: x * jax.lax.rsqrt(total(jnp.mean(x * x, -1, keepdims=True), "d") + 1e-6)


SEVERAL = {  # the function, the axis that is cut, and the kind that it is
    "means of means": (_synchronised(lambda x: jax.lax.pmean(x.mean(0), "d")), 0, "batch"),
    "sums over n": (_synchronised(lambda x: jax.lax.psum(x.sum(0), "d") / jax.lax.psum(x.shape[0], "d")), 0, "batch"),
    "columns": (_of_columns(jax.lax.pmean), 1, "rms"),
    "a sum of means": (_of_columns(jax.lax.psum), 1, None),
    "the largest of means": (_of_columns(lambda mean, axis: jax.lax.pmax(mean, axis) / 4), 1, None),
}


@pytest.mark.parametrize("name", SEVERAL)
def test_sums_of_several_devices_are_over_the_terms_of_all(name):
    function, cut, kind = SEVERAL[name]
    mesh = jax.sharding.AbstractMesh((4,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec(*(None,) * cut, "d")
    whole = jax.shard_map(function, mesh=mesh, in_specs=spec, out_specs=spec)
    _, norms = found(whole, array(64, 128))
    assert [one.match.statistic.devices for one in norms] == [4] * (kind is not None)
    assert counted(whole, array(64, 128)) == ({} if kind is None else {(kind, (1 - (kind == "batch"),), "float32"): 1})


def test_in_a_shard_map_each_array_has_its_own_part():
    """A scale that is cut with x is no x."""
    mesh = jax.sharding.AbstractMesh((4,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    rows, whole = jax.sharding.PartitionSpec("d"), jax.sharding.PartitionSpec()

    def part(x, scale, shift):
        return jax.nn.standardize(x) * scale + shift

    function = jax.shard_map(part, mesh=mesh, in_specs=(rows, whole, whole), out_specs=rows)
    values, (one,) = found(function, array(64, 32), array(32), array(32))
    assert values[one.match.x].shape.dimensions == (16, 32)
    assert (one.match.statistic.devices, one.match.beyond) == (1, "")
    assert values[one.match.scale].elements == values[one.match.shift].elements == 16 * 32


@pytest.mark.parametrize("differentiated", [False, True])
def test_an_epsilon_may_be_an_argument(differentiated):
    def function(x, epsilon):
        return (x - mean(x, -1)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + epsilon)

    whole = jax.grad(loss_of(function)) if differentiated else function
    assert counted(whole, array(8, 64), array()) == {("layer", (1,), "float32"): 1}


def _length(x):
    return jnp.linalg.norm(x, axis=-1, keepdims=True)


def _root(x, epsilon=0.0):
    return jnp.sqrt(jnp.sum(x * x, -1, keepdims=True) + epsilon)


OVER_LENGTHS = {  # of 64 elements
    "then by 8": (lambda x: x / jnp.maximum(_length(x), 1e-12) * 8, "rms"),
    "by a part of the length": (lambda x: x / (_length(x) / 8 + 1e-6), "rms"),
    "by 8 over the length": (lambda x: x * (8 / _root(x, 1e-6)), "rms"),
    "by an eighth of the length": (lambda x: x / (_root(x) * 0.125), "rms"),
    "centred": (lambda x: (x - mean(x, -1)) / _length(x - mean(x, -1)) * 8, "layer"),
    "by 7": (lambda x: x / _length(x) * 7, None),
    "by an eighth": (lambda x: x / (_root(x) * 8), None),
    "a length": (lambda x: x / _length(x), None),
}


@pytest.mark.parametrize("differentiated", [False, True])
@pytest.mark.parametrize("name", OVER_LENGTHS)
def test_x_over_its_length_is_normalised_where_it_is_multiplied_by_the_root_of_n(name, differentiated):
    function, kind = OVER_LENGTHS[name]

    def scaled(x, scale):
        return function(x) * scale

    whole = jax.grad(loss_of(scaled), argnums=(0, 1)) if differentiated else scaled
    values, norms = found(whole, array(8, 64), array(64))
    right = {} if kind is None else {(kind, (1,), "float32"): 1}
    assert counted(whole, array(8, 64), array(64)) == right
    assert all(one.match.scale is not None and one.match.beyond for one in norms)
    assert [epsilon_of(values, one.match) for one in norms] in ([], [0.0], [pytest.approx(1e-6 / 64)], [1e-6])
