"""`fold_conv_bn`: the same result with fewer parameters, in every layout, or a refusal that says why."""

import jax.numpy as jnp
import numpy as np
import pytest

from normbench.errors import UserError
from normbench.kernels.batch_norm.reference import reference as batch_norm
from normbench.kernels.conv_bn import fold_conv_bn, folding_refusal
from normbench.kernels.conv_bn.geometry import geometry
from normbench.kernels.conv_bn.reference import convolve

RANDOM = np.random.default_rng(0)


def parameters(shape, channels, features, normalised, dtype="float64", kernel=3):
    size = shape.weight_shape(channels, features, (kernel,) * shape.spatial_rank)
    return {
        "weight": jnp.asarray(RANDOM.normal(size=size), dtype),
        "bias": jnp.asarray(RANDOM.normal(size=features), dtype),
        "gamma": jnp.asarray(RANDOM.normal(size=normalised)),
        "beta": jnp.asarray(RANDOM.normal(size=normalised)),
        "mean": jnp.asarray(RANDOM.normal(size=normalised)),
        "variance": jnp.asarray(RANDOM.uniform(0.1, 2, size=normalised)),
    }


def convolution(x, params, shape):
    y = convolve(np.asarray(x, "float64"), np.asarray(params["weight"], "float64"), shape)
    return np.moveaxis(np.moveaxis(y, shape.channel_axis(), -1) + params["bias"], -1, shape.channel_axis())


def normalised(x, params, shape):
    values = (params[name] for name in ("gamma", "beta", "mean", "variance"))
    return batch_norm(x, *values, 1e-3, channel_axis=shape.channel_axis())


LAYOUT_SHAPES = [("ncl", (2, 6, 9)), ("nlc", (2, 9, 6)), ("nchw", (2, 6, 7, 5)), ("nhwc", (2, 7, 5, 6)),
                 ("ncdhw", (1, 6, 4, 5, 3)), ("ndhwc", (1, 4, 5, 3, 6))]  # fmt: skip


@pytest.mark.parametrize(("layout", "x_shape"), LAYOUT_SHAPES)
@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("transposed", [False, True])
def test_batch_norm_after_the_convolution(layout, x_shape, groups, transposed):
    shape = geometry(layout, 2, "same", 1, groups, transposed)
    params, x = parameters(shape, 6, 12, 12), RANDOM.normal(size=x_shape)
    folded = fold_conv_bn(params, epsilon=1e-3, layout=layout, groups=groups, transposed=transposed)
    expected = normalised(convolution(x, params, shape), params, shape)
    np.testing.assert_allclose(convolution(x, folded, shape), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("layout", "x_shape"), LAYOUT_SHAPES)
@pytest.mark.parametrize("groups", [1, 2, 6])
def test_batch_norm_before_a_convolution_without_padding(layout, x_shape, groups):
    shape = geometry(layout, 1, "valid", 1, groups)
    params, x = parameters(shape, 6, 12, 6), RANDOM.normal(size=x_shape)
    folded = fold_conv_bn(params, epsilon=1e-3, layout=layout, groups=groups, order="bn_conv", padding="valid")
    expected = convolution(normalised(x, params, shape), params, shape)
    np.testing.assert_allclose(convolution(x, folded, shape), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("padding", ["same", 1, (0, 1), ((0, 0), (0, 1))])
def test_batch_norm_before_a_padded_convolution_is_refused(padding):
    params = parameters(geometry("nchw"), 6, 12, 6)
    with pytest.raises(UserError, match="cannot fold: batch norm before a convolution with zero padding"):
        fold_conv_bn(params, order="bn_conv", padding=padding)


def test_folding_it_all_the_same_would_be_wrong_at_the_border_only():
    shape = geometry("nchw", 1, "same")
    params, x = parameters(shape, 6, 12, 6), RANDOM.normal(size=(2, 6, 7, 7))
    folded = fold_conv_bn(params, epsilon=1e-3, order="bn_conv", padding="valid")
    error = np.abs(convolution(x, folded, shape) - convolution(normalised(x, params, shape), params, shape))
    assert error[:, :, 1:-1, 1:-1].max() < 1e-9
    assert error.max() > 1e-2


def test_a_kernel_of_one_element_is_never_padded_by_same():
    shape = geometry("nhwc", 1, "same")
    params, x = parameters(shape, 6, 4, 6, kernel=1), RANDOM.normal(size=(2, 5, 5, 6))
    folded = fold_conv_bn(params, epsilon=1e-3, layout="nhwc", order="bn_conv", padding="same")
    expected = convolution(normalised(x, params, shape), params, shape)
    np.testing.assert_allclose(convolution(x, folded, shape), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("keywords", "reason"),
    [
        ({"shared_output": True}, "the output of the convolution has another consumer"),
        ({"activation_between": "relu"}, "the activation relu between convolution and batch norm"),
        ({"order": "bn_conv", "padding": "valid", "transposed": True}, "before a transposed convolution"),
        ({"order": "bn_conv", "padding": "valid", "shared_output": True}, "the output of the batch norm has another"),
    ],
)
def test_refusals_say_why(keywords, reason):
    assert reason in folding_refusal(**keywords)
    with pytest.raises(UserError, match=reason):
        fold_conv_bn(parameters(geometry("nchw"), 6, 6, 6), **keywords)


def test_what_can_be_folded_is_not_refused():
    assert folding_refusal() is None
    assert folding_refusal(order="bn_conv", padding="valid") is None
    assert folding_refusal(transposed=True) is None


def test_absent_parameters_are_one_and_zero():
    params = parameters(geometry("nchw"), 6, 12, 12)
    few = {**params, "gamma": None, "beta": None}
    del few["bias"]
    full = {**params, "gamma": jnp.ones(12), "beta": jnp.zeros(12), "bias": jnp.zeros(12)}
    for name, value in fold_conv_bn(full).items():
        np.testing.assert_allclose(fold_conv_bn(few)[name], value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_folds_wide_and_rounds_once(dtype):
    params = parameters(geometry("nchw"), 6, 12, 12, dtype)
    params = {**params, "variance": params["variance"].at[0].set(1e6)}  # infinite in float16
    wide = fold_conv_bn({name: value.astype("float64") for name, value in params.items()})
    folded = fold_conv_bn(params)
    for name in ("weight", "bias"):
        assert folded[name].dtype == dtype
        np.testing.assert_array_equal(folded[name], wide[name].astype(dtype))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": None}, "params has no weight"),
        ({"gama": 1}, "unknown parameter 'gama'"),
        ({"gamma": jnp.ones(5)}, r"gamma has shape \(5,\); allowed: \(12,\)"),
        ({"bias": jnp.ones(7)}, r"bias has shape \(7,\); allowed: \(12,\)"),
        ({"mean": jnp.ones(12, "int32")}, "mean has dtype int32"),
        ({"weight": jnp.ones((12, 3, 3))}, r"weight has shape \(12, 3, 3\); allowed for layout nchw: rank 4"),
    ],
)
def test_bad_parameters_are_named(change, message):
    with pytest.raises(UserError, match=message):
        fold_conv_bn({**parameters(geometry("nchw"), 6, 12, 12), **change})
