"""1,000 drawn folds of batch norm into a convolution, in extended precision; and what float16 does not hold."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from normbench.errors import UserError
from normbench.kernels.conv_bn import fold_conv_bn, prefolded
from normbench.kernels.conv_bn.geometry import geometry
from normbench.kernels.conv_bn.reference import convolve

Wide = np.longdouble
FOLDS = 1000
SHARE = 1e-15
"""Of the terms that a number is the sum of, in magnitude, which for a weight is the weight itself; 9 roundings of
float64. Where the terms of a bias or of an output cancel, no program that takes rounded numbers is right to a share of
what is left: each of the terms had been rounded before."""


def parameters(shape, rng, dtype="float64"):
    """Of six input and twelve output channels, of very different sizes, gamma with zeros and negative values."""
    weight = rng.normal(size=shape.weight_shape(6, 12, (2,) * shape.spatial_rank))
    sizes = 10.0 ** rng.integers(-3, 4, 12)
    values = {
        "weight": weight,
        "bias": rng.normal(size=12) * sizes,
        "gamma": np.where(rng.uniform(size=12) < 0.1, 0, rng.normal(size=12)),
        "beta": rng.normal(size=12),
        "mean": rng.normal(size=12) * sizes,
        "variance": 10.0 ** rng.uniform(-8, 6, 12),
    }
    return {name: value.astype(dtype if name == "weight" else "float64") for name, value in values.items()}


def over_outputs(vector, shape, weight):
    """A vector over the output channels lined up with the weight."""
    axis = shape.weight_axes()[0] % weight.ndim
    if not shape.transposed or shape.groups == 1:
        return vector.reshape([-1 if a == axis else 1 for a in range(weight.ndim)])
    # The output channels of a group lie across the groups of input channels.
    inputs = shape.weight_axes()[1] % weight.ndim
    spread = np.repeat(vector.reshape(shape.groups, -1), weight.shape[inputs] // shape.groups, axis=0)
    spread = spread if inputs < axis else spread.T
    return spread.reshape([weight.shape[a] if a in (axis, inputs) else 1 for a in range(weight.ndim)])


@settings(max_examples=FOLDS, deadline=None, derandomize=True, database=None)
@given(
    layout=st.sampled_from(("ncl", "nlc", "nchw", "nhwc")),
    groups=st.sampled_from((1, 2, 3, 6)),
    transposed=st.booleans(),
    epsilon=st.sampled_from((1e-5, 1e-3, 0.0)),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_fold_in_float64(layout, groups, transposed, epsilon, seed):
    shape, rng = geometry(layout, 1, "same", 1, groups, transposed), np.random.default_rng(seed)
    params = parameters(shape, rng)
    folded = fold_conv_bn(params, epsilon=epsilon, layout=layout, groups=groups, transposed=transposed)
    wide = {name: value.astype(Wide) for name, value in params.items()}
    scale = wide["gamma"] / np.sqrt(wide["variance"] + Wide(epsilon))
    weight = wide["weight"] * over_outputs(scale, shape, params["weight"])
    bias = (wide["bias"] - wide["mean"]) * scale + wide["beta"]
    terms = (np.abs(wide["bias"]) + np.abs(wide["mean"])) * np.abs(scale) + np.abs(wide["beta"])
    assert (np.abs(np.asarray(folded["weight"]) - weight) <= SHARE * np.abs(weight)).all()
    assert (np.abs(np.asarray(folded["bias"]) - bias) <= SHARE * terms).all()
    # And as a convolution, against batch norm after it, of the same numbers in extended precision.
    size = (1, 6, *(3,) * shape.spatial_rank)
    x = rng.normal(size=size if not shape.channels_last else (size[0], *size[2:], size[1]))
    lined_up = [-1 if axis == shape.channel_axis() % x.ndim else 1 for axis in range(x.ndim)]
    scale, shift, mean, beta = (v.reshape(lined_up) for v in (scale, wide["bias"], wide["mean"], wide["beta"]))
    y = convolved(jnp.asarray(x), folded["weight"], folded["bias"], layout, groups, transposed)
    right = (convolve(x.astype(Wide), wide["weight"], shape) + shift - mean) * scale + beta
    added = convolve(np.abs(x).astype(Wide), np.abs(wide["weight"]), shape) * np.abs(scale) + terms.reshape(lined_up)
    assert (np.abs(np.asarray(y) - right) <= SHARE * added).all()


@partial(jax.jit, static_argnums=(3, 4, 5))
def convolved(x, weight, bias, layout, groups, transposed):
    return prefolded.apply(x, weight, bias, layout=layout, groups=groups, transposed=transposed, activation="none")


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(seed=st.integers(0, 2**32 - 1), size=st.sampled_from((1.0, 30.0, 1000.0)))
def test_a_fold_in_float16_is_finite_or_refused(seed, size):
    shape, rng = geometry("nchw"), np.random.default_rng(seed)
    params = parameters(shape, rng, "float16")
    params["weight"] = (params["weight"] * size).astype("float16")
    params["bias"], params["mean"] = params["bias"].astype("float16"), params["mean"].astype("float16")
    assert np.isfinite(params["weight"]).all()
    wide = fold_conv_bn(params, epsilon=1e-5, dtype="float32")
    assert {array.dtype for array in wide.values()} == {jnp.dtype("float32")}
    assert all(np.isfinite(np.asarray(array)).all() for array in wide.values())
    largest = max(float(np.abs(np.asarray(array)).max()) for array in wide.values())
    if largest >= 65520:  # rounds to infinity in float16
        with pytest.raises(UserError, match='dtype="float32" holds more'):
            fold_conv_bn(params, epsilon=1e-5)
        return
    folded = fold_conv_bn(params, epsilon=1e-5)
    assert all(array.dtype == "float16" and np.isfinite(np.asarray(array)).all() for array in folded.values())


def test_a_weight_of_float16_that_overflows_is_refused_with_the_way_out():
    params = {
        "weight": np.full((1, 1, 1, 1), 1000, np.float16),
        "mean": np.zeros(1, np.float16),
        "variance": np.full(1, 1e-6, np.float32),
    }
    with pytest.raises(UserError, match=r"the folded weight reaches 1e\+06; allowed in float16: 65504; dtype="):
        fold_conv_bn(params, epsilon=0.0)
    folded = fold_conv_bn(params, epsilon=0.0, dtype="float32")
    np.testing.assert_allclose(folded["weight"], 1e6, rtol=1e-6)
    mixed = fold_conv_bn(params, epsilon=1.0, bias_dtype="float32")
    assert [str(mixed[name].dtype) for name in ("weight", "bias")] == ["float16", "float32"]
    with pytest.raises(UserError, match="dtype 'int8'"):
        fold_conv_bn(params, dtype="int8")


@pytest.mark.parametrize(
    ("variance", "epsilon", "said"),
    [(-1e-3, 1e-5, "variance of channel 1 is -0.001"), (0.0, 0.0, "0 with an epsilon of 0"), (-1.0, 2.0, "below 0")],
)
def test_a_variance_that_is_none_is_refused(variance, epsilon, said):
    params = {"weight": np.ones((2, 1, 1, 1)), "mean": np.zeros(2), "variance": np.array([1.0, variance])}
    with pytest.raises(UserError, match=said):
        fold_conv_bn(params, epsilon=epsilon)


def test_traced_values_are_folded_unseen():
    params = {"weight": np.ones((1, 1, 1, 1)), "mean": np.zeros(1), "variance": np.array([-1.0])}
    assert np.isnan(jax.jit(lambda p: fold_conv_bn(p, epsilon=0.0))(params)["weight"]).all()
