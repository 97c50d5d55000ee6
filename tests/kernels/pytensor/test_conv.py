"""Convolution: every keyword against lax, gradients, the ConvBNSiLU block, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest

from normbench.errors import UserError
from normbench.kernels.pytensor import Convolution, batch_normalization, conv2d, silu
from tests.kernels.pytensor.pytensor_cases import assert_same, compare, draw, draw_parameters, run, symbols

KEYWORDS = [
    {"padding": "same"},
    {"padding": "same", "stride": 2},
    {"padding": "same", "stride": (2, 3), "dilation": (2, 1)},
    {"padding": "valid", "stride": (1, 2)},
    {"padding": 2, "dilation": 2},
    {"padding": (1, 0), "stride": 2},
    {"padding": ((0, 3), (2, 1)), "stride": (3, 1)},
    {"padding": "same", "groups": 2},
    {"padding": ((1, 2), (0, 1)), "groups": 4, "stride": 2, "dilation": (1, 2)},
]


def lax_conv2d(x, filters, stride=1, padding="same", dilation=1, groups=1):
    def pair(v):
        return (v, v) if isinstance(v, int) else tuple(v)

    pads = padding.upper() if isinstance(padding, str) else [pair(p) for p in pair(padding)]
    return jax.lax.conv_general_dilated(
        x,
        filters,
        pair(stride),
        pads,
        rhs_dilation=pair(dilation),
        dimension_numbers=("NCHW", "OIHW", "NCHW"),
        feature_group_count=groups,
    )


def arrays(groups=1, dtype="float64", features=8):
    return [draw(2, 4, 9, 8, dtype=dtype), draw(features, 4 // groups, 3, 2, dtype=dtype, seed=1)]


@pytest.mark.parametrize("keywords", KEYWORDS, ids=str)
@pytest.mark.parametrize("static", [False, True], ids=["dynamic", "static"])
def test_against_lax(keywords, static):
    values = [*arrays(keywords.get("groups", 1)), draw(8, dtype="float64", seed=2)]
    inputs = symbols(values, static)
    y = conv2d(*inputs, **keywords)
    (result,) = compare(inputs, [y], values)
    assert_same([result], [np.asarray(lax_conv2d(*values[:2], **keywords)) + values[2][:, None, None]])
    assert all(known in (None, size) for known, size in zip(y.type.shape, result.shape, strict=True))
    assert not static or y.type.shape == result.shape


@pytest.mark.parametrize("keywords", KEYWORDS, ids=str)
def test_gradients_against_jax(keywords):
    values = arrays(keywords.get("groups", 1))
    inputs = symbols(values)
    gradients = pytensor.grad((conv2d(*inputs, **keywords) ** 3).sum(), inputs)
    results = compare(inputs, gradients, values)
    expected = jax.grad(lambda *a: (lax_conv2d(*a, **keywords) ** 3).sum(), argnums=(0, 1))(*map(jnp.asarray, values))
    assert_same(results, [np.asarray(e) for e in expected], rtol=1e-10)


def test_second_order():
    values = arrays(groups=2)
    inputs = symbols(values)
    first = pytensor.grad((conv2d(*inputs, stride=2, groups=2) ** 2).sum(), inputs)
    results = run(inputs, pytensor.grad(sum((g**2).sum() for g in first), inputs), values, "JAX")

    def cost(*a):
        gradients = jax.grad(lambda *b: (lax_conv2d(*b, stride=2, groups=2) ** 2).sum(), argnums=(0, 1))(*a)
        return sum((g**2).sum() for g in gradients)

    assert_same(results, [np.asarray(e) for e in jax.grad(cost, argnums=(0, 1))(*map(jnp.asarray, values))], rtol=1e-9)


@pytest.mark.parametrize("dtypes", [("float16",) * 3, ("float32", "float64", "float32"), ("float16", "float32")])
def test_dtypes(dtypes):
    values = [draw(*shape, dtype=d) for shape, d in zip(((1, 2, 5, 5), (3, 2, 3, 3), (3,)), dtypes, strict=False)]
    inputs = symbols(values)
    y = conv2d(*inputs)
    (result,) = compare(inputs, [y], values, rtol=5e-3 if "float16" in dtypes else None)
    assert result.dtype == np.result_type(*dtypes)
    for gradient, given in zip(pytensor.grad(y.sum(), inputs), inputs, strict=True):
        assert gradient.type.dtype == given.type.dtype


def test_bias_gradient_keeps_its_dtype():
    values = [*arrays(dtype="float32"), draw(8)]
    inputs = symbols(values)
    gradient = pytensor.grad((conv2d(*inputs) ** 2).sum(acc_dtype="float32"), inputs[2])
    compare(inputs, [gradient], values, rtol=1e-4)


@pytest.mark.parametrize("mode", ["JAX", "FAST_COMPILE", "CVM"])
def test_yolo_block(mode):
    """Convolution without bias, batch norm with epsilon 1e-3, SiLU: the block of YOLO, with no static shape.

    YOLO pads one zero on each side; "same" at stride 2 and an even size pads none at the low end.
    """
    values = [draw(1, 16, 20, 20), draw(32, 16, 3, 3) / 12, *draw_parameters(32)]
    inputs = symbols(values)
    y = silu(batch_normalization(conv2d(*inputs[:2], padding=1, stride=2), *inputs[2:], epsilon=1e-3))
    (result,) = run(inputs, [y], values, mode)
    x, filters, gamma, beta, mean, variance = (jnp.asarray(v, "float64") for v in values)
    z = lax_conv2d(x, filters, stride=2, padding=1) - mean[:, None, None]
    z = z * (gamma / jnp.sqrt(variance + 1e-3))[:, None, None] + beta[:, None, None]
    assert_same([result], [np.asarray(jax.nn.silu(z), "float32")], rtol=1e-4)
    assert mode != "JAX" or isinstance(result, jax.Array)


def test_shape_without_the_values():
    values = arrays()
    inputs = symbols(values)
    for keywords in KEYWORDS[:7]:
        y = conv2d(*inputs, **keywords)
        f = pytensor.function(inputs, y.shape, mode="FAST_COMPILE", on_unused_input="ignore")
        assert tuple(f(*values)) == lax_conv2d(*values, **keywords).shape
        assert not any(isinstance(node.op, Convolution) for node in f.maker.fgraph.toposort())


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"padding": "reflect"}, "padding 'reflect'"),
        ({"padding": -1}, "padding -1"),
        ({"padding": ((1, 2, 3), (0, 0))}, "padding"),
        ({"padding": True}, "padding True"),
        ({"stride": 0}, "stride 0"),
        ({"stride": (1, 2, 3)}, "stride"),
        ({"dilation": (1, 0)}, "dilation"),
        ({"groups": 0}, "groups 0"),
        ({"groups": 3}, "groups 3"),
    ],
    ids=str,
)
def test_keyword_errors(keywords, message):
    x, filters = pt.tensor(dtype="float32", shape=(2, 4, 9, 8)), pt.tensor(dtype="float32", shape=(8, 4, 3, 3))
    with pytest.raises(UserError, match=message):
        conv2d(x, filters, **keywords)


def test_argument_errors():
    x, filters = pt.tensor(dtype="float32", shape=(2, 4, 9, 8)), pt.tensor(dtype="float32", shape=(8, 4, 3, 3))
    for arguments, message in (
        ((pt.tensor3(), filters), "x has rank 3"),
        ((x, pt.matrix()), "filters has rank 2"),
        ((pt.ctensor4(), filters), "x has dtype complex64"),
        ((x, filters, pt.matrix()), "bias has rank 2"),
        ((x, filters, pt.tensor(dtype="float32", shape=(4,))), "bias 4"),
        ((x, pt.tensor(dtype="float32", shape=(8, 2, 3, 3))), "x has 4 channels"),
    ):
        with pytest.raises(UserError, match=message):
            conv2d(*arguments)
    with pytest.raises(UserError, match="no output"):
        conv2d(x, pt.tensor(dtype="float32", shape=(8, 4, 11, 3)), padding="valid")


@pytest.mark.parametrize("mode", ["FAST_COMPILE", "JAX"])
def test_errors_at_run_time(mode):
    inputs = [pt.tensor4("x"), pt.tensor4("filters"), pt.vector("bias")]
    f = pytensor.function(inputs, conv2d(*inputs, padding="valid"), mode=mode)
    x, filters, bias = draw(1, 4, 5, 5, dtype="float64"), draw(2, 4, 3, 3, dtype="float64"), np.ones(2)
    for values, message in (
        ((x[:, :3], filters, bias), "x has 3 channels"),
        ((x, filters, bias[:1]), "bias 1"),
        ((x[:, :, :2], filters, bias), "no output"),
    ):
        with pytest.raises(UserError, match=message):
            f(*values)
