"""Bad arrays handed to a variant raise one line that names the argument, its value and what is allowed."""

import jax.numpy as jnp
import numpy as np
import pytest

from normbench import kernels
from normbench.errors import UserError
from normbench.kernels.problem import Problem
from tests.kernels.kernel_cases import arrays_of, run

BATCH_NORM = [kernels.get("batch_norm", name) for name in kernels.variants("batch_norm")]
CONV_BN = [kernels.get("conv_bn", name) for name in kernels.variants("conv_bn")]
X, C = jnp.ones((2, 4, 5, 5)), jnp.ones(4)


@pytest.mark.parametrize("variant", BATCH_NORM, ids=lambda variant: variant.name)
@pytest.mark.parametrize(
    ("arguments", "keywords", "message"),
    [
        ((X, jnp.ones(5), C, C, C), {}, r"gamma has shape \(5,\); allowed: \(4,\), one value for each channel"),
        ((X, C, C, C, jnp.ones((1, 4))), {}, r"variance has shape \(1, 4\); allowed: \(4,\)"),
        ((X.astype("int32"), C, C, C, C), {}, "x has dtype int32; allowed: float32, float64, bfloat16, float16"),
        ((X, C, C, C.astype("int32"), C), {}, "mean has dtype int32"),
        ((X, C, C, C, C, -1.0), {}, "epsilon -1.0 is not allowed; allowed: 0 or more"),
        ((X, C, C, C, C, "1e-5"), {}, "epsilon '1e-5' is not a number"),
        ((X, C, C, C, C), {"channel_axis": 2}, r"channel_axis 2 for x of rank 4; allowed: 1 or -1 \(the last\)"),
        ((X, C, C, C, C), {"activation": "mish"}, "unknown activation 'mish'; allowed: none, relu, silu, gelu"),
        ((jnp.float32(1), C, C, C, C), {}, "x has rank 0"),
        ((jnp.ones((2, 0)), *[jnp.ones(0)] * 4), {}, r"x of shape \(2, 0\) has 0 channels"),
    ],
)
def test_batch_norm(variant, arguments, keywords, message):
    with pytest.raises(UserError, match=message):
        variant(*arguments, **keywords)


W = jnp.ones((6, 4, 3, 3))


@pytest.mark.parametrize("variant", CONV_BN, ids=lambda variant: variant.name)
@pytest.mark.parametrize(
    ("change", "keywords", "message"),
    [
        ({"x": jnp.ones((2, 4, 5))}, {}, r"x of shape \(2, 4, 5\) has rank 3; allowed for layout nchw: rank 4"),
        ({"weight": jnp.ones((6, 2, 3, 3))}, {}, r"weight has shape \(6, 2, 3, 3\); allowed for x .*: \(6, 4, 3, 3\)"),
        ({"weight": W.astype("bfloat16")}, {}, "weight has dtype bfloat16; allowed: x's dtype, float32"),
        ({"bias": jnp.ones(6, "float16")}, {}, "bias has dtype float16; allowed: x's dtype, float32"),
        ({"bias": jnp.ones(4)}, {}, r"bias has shape \(4,\); allowed: \(6,\)"),
        ({"gamma": jnp.ones(4)}, {}, r"gamma has shape \(4,\); allowed: \(6,\)"),
        ({"epsilon": -1}, {}, "epsilon -1 is not allowed"),
        ({}, {"groups": 3}, "4 input channels with groups 3"),
        ({}, {"padding": "valid", "dilation": 3}, r"leaves an output of \(-1, -1\)"),
        ({}, {"layout": "hwcn"}, "unknown layout 'hwcn'"),
        ({}, {"activation": "swish"}, "unknown activation 'swish'"),
    ],
)
def test_conv_bn(variant, change, keywords, message):
    six = jnp.ones(6, "float32")
    arguments = {"x": X.astype("float32"), "weight": W.astype("float32"), "bias": None}
    arguments |= {"gamma": six, "beta": six, "mean": six, "variance": six} | change
    arguments |= {name: a.astype("float32") for name, a in arguments.items() if getattr(a, "dtype", "") == "float64"}
    with pytest.raises(UserError, match=message):
        variant(**arguments, **keywords)


def test_numpy_arrays_are_taken():
    problem = Problem("batch_norm", (2, 3, 4), "ncl")
    arrays = arrays_of(problem)
    assert (run(problem, "folded", [a.__array__() for a in arrays]) == run(problem, "folded", arrays)).all()


WHOLE_NUMBERS = {
    ("layer_norm", "ndim"): ((4, 6), ("x", (6,), (6,)), 1),
    ("rms_norm", "ndim"): ((4, 6), ("x", (6,)), 1),
    ("group_norm", "groups"): ((2, 4, 6), ("x", (4,), (4,)), 2),
    ("local_response_norm", "size"): ((2, 4, 6), ("x",), 3),
    ("batch_norm", "channel_axis"): ((2, 6, 4), ("x", (4,), (4,), (4,), (4,)), -1),
}


@pytest.mark.parametrize(("operator", "name"), WHOLE_NUMBERS)
def test_whole_numbers_of_numpy_are_taken_as_pythons_are(operator, name):
    shape, roles, value = WHOLE_NUMBERS[operator, name]
    arrays = [jnp.arange(48.0).reshape(-1)[: np.prod(one)].reshape(one) for one in (shape, *roles[1:])]
    naive = kernels.get(operator, "naive")
    np.testing.assert_array_equal(naive(*arrays, **{name: np.int64(value)}), naive(*arrays, **{name: value}))
