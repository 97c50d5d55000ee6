"""Layer, RMS, group and instance normalization: values, gradients, dtypes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest

from normbench.errors import UserError
from normbench.kernels.pytensor import (
    group_normalization,
    instance_normalization,
    layer_normalization,
    rms_normalization,
)
from tests.kernels.pytensor.pytensor_cases import assert_same, draw, run, symbols


def standardize(x, axes, epsilon=1e-5):
    mean = x.mean(axes, keepdims=True)
    return (x - mean) / jnp.sqrt(((x - mean) ** 2).mean(axes, keepdims=True) + epsilon)


def by_channel(vector, x):
    return vector.reshape([-1 if axis == 1 else 1 for axis in range(x.ndim)])


def jax_channels(x, gamma, beta, y):
    return y * by_channel(gamma, x) + by_channel(beta, x)


def jax_group(x, gamma, beta):
    grouped = x.reshape(x.shape[0], 3, -1)
    return jax_channels(x, gamma, beta, standardize(grouped, (2,)).reshape(x.shape))


CASES = {
    "layer": (layer_normalization, lambda x, g, b: standardize(x, (-1,)) * g + b, (3, 4, 10), (10,), 2),
    "layer over two axes": (
        lambda *a: layer_normalization(*a, normalized_rank=2),
        lambda x, g, b: standardize(x, (-2, -1)) * g + b,
        (3, 4, 10),
        (4, 10),
        2,
    ),
    "rms": (
        rms_normalization,
        lambda x, g: x / jnp.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * g,
        (3, 4, 10),
        (10,),
        1,
    ),
    "group": (lambda x, g, b: group_normalization(x, 3, g, b), jax_group, (2, 6, 4, 5), (6,), 2),
    "instance": (
        instance_normalization,
        lambda x, g, b: jax_channels(x, g, b, standardize(x, (2, 3))),
        (2, 6, 4, 5),
        (6,),
        2,
    ),
}


def arguments(name, dtype, param_dtype=None):
    _, _, shape, parameter, count = CASES[name]
    parameters = [draw(*parameter, dtype=param_dtype or dtype, seed=seed) for seed in range(1, count + 1)]
    return [draw(*shape, dtype=dtype) * 3 + 2, *parameters]


@pytest.mark.parametrize(("name", "dtype"), [*((name, "float32") for name in CASES), ("layer", "float64")])
def test_values_and_gradients_under_jax(name, dtype):
    """Where 64 bits are enabled float32 stays float32, also in gradients, and nothing large is computed in float64."""
    ours, reference = CASES[name][:2]
    values = arguments(name, dtype)
    inputs = symbols(values)
    y = ours(*inputs)
    gradients = pytensor.grad((y**3).sum(acc_dtype=dtype), inputs)
    f = pytensor.function(inputs, [y, *gradients], mode="JAX")
    arrays = [jnp.asarray(v) for v in values]
    expected = [
        reference(*arrays),
        *jax.grad(lambda *a: (reference(*a) ** 3).sum(), argnums=range(len(arrays)))(*arrays),
    ]
    assert_same(f(*values), [np.asarray(e) for e in expected], rtol=2e-4 if dtype == "float32" else 1e-9)
    text = f.vm.jit_fn.lower(*values).as_text()
    assert dtype == "float64" or "xf64" not in text


@pytest.mark.parametrize(
    ("name", "mode"), [*((name, "FAST_COMPILE") for name in CASES), ("rms", "NUMBA"), ("group", "NUMBA")]
)
def test_other_backends(name, mode):
    ours, reference = CASES[name][:2]
    values = arguments(name, "float32")
    inputs = symbols(values)
    (result,) = run(inputs, [ours(*inputs)], values, mode)
    assert_same([result], [np.asarray(reference(*map(jnp.asarray, values)))], rtol=1e-4)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.usefixtures("eager_torch")
def test_pytorch(name):
    ours, reference = CASES[name][:2]
    values = arguments(name, "float32")
    inputs = symbols(values)
    (result,) = run(inputs, [ours(*inputs)], values, "PYTORCH")
    assert_same([result], [np.asarray(reference(*map(jnp.asarray, values)))], rtol=1e-4)


@pytest.mark.parametrize(("dtype", "param_dtype"), [("float16", "float32"), ("float32", "float64")])
@pytest.mark.parametrize("name", ["layer", "rms", "group"])
def test_mixed_dtypes_return_the_dtype_of_x(name, dtype, param_dtype):
    ours, reference = CASES[name][:2]
    values = arguments(name, dtype, param_dtype)
    inputs = symbols(values)
    expected = reference(*(jnp.asarray(v, "float64") for v in values)).astype(dtype)
    for mode in ("JAX", "FAST_COMPILE"):
        (result,) = run(inputs, [ours(*inputs)], values, mode)
        assert_same([np.asarray(result)], [np.asarray(expected)], rtol=2e-3 if dtype == "float16" else 1e-5)


def test_second_order_keeps_the_dtype():
    values = arguments("layer", "float32")
    inputs = symbols(values)
    first = pytensor.grad((layer_normalization(*inputs) ** 3).sum(acc_dtype="float32"), inputs[0])
    second = pytensor.grad((first**2).sum(acc_dtype="float32"), inputs)

    def cost(*a):
        return (jax.grad(lambda *b: (CASES["layer"][1](*b) ** 3).sum())(*a) ** 2).sum()

    expected = jax.grad(cost, argnums=range(3))(*map(jnp.asarray, values))
    assert_same(run(inputs, second, values, "JAX"), [np.asarray(e) for e in expected], rtol=1e-3)


def test_parameters_are_optional():
    x = draw(2, 6, 4, 5, dtype="float64")
    (symbol,) = symbols([x])
    outputs = [
        layer_normalization(symbol),
        rms_normalization(symbol, epsilon=0.0),
        group_normalization(symbol, 1),
        instance_normalization(symbol),
    ]
    layer, rms, group, instance = (np.asarray(r) for r in run([symbol], outputs, [x], "JAX"))
    np.testing.assert_allclose(layer, standardize(x, (-1,)), rtol=1e-10)
    np.testing.assert_allclose((rms**2).mean(-1), 1.0, rtol=1e-10)
    np.testing.assert_allclose(group, standardize(x, (1, 2, 3)), rtol=1e-10)
    np.testing.assert_allclose(instance, standardize(x, (2, 3)), rtol=1e-10)


def test_errors():
    x = pt.tensor("x", dtype="float32", shape=(2, 6, 4, 5))
    for call, message in (
        (lambda: group_normalization(x, 4), "x has 6 channels with groups 4"),
        (lambda: group_normalization(x, 0), "groups 0"),
        (lambda: group_normalization(pt.vector(), 1), "x has rank 1"),
        (lambda: instance_normalization(pt.matrix()), "x has rank 2"),
        (lambda: layer_normalization(x, normalized_rank=5), "normalized_rank 5"),
        (lambda: layer_normalization(x, np.ones(4, "float32")), "gamma 4"),
        (lambda: layer_normalization(x, np.ones((4, 5), "float32")), "gamma has rank 2"),
        (lambda: instance_normalization(x, beta=np.ones(5, "float32")), "beta 5"),
        (lambda: rms_normalization(x, epsilon=-1.0), "epsilon -1.0"),
        (lambda: rms_normalization(pt.zmatrix()), "x has dtype complex128"),
    ):
        with pytest.raises(UserError, match=message):
            call()


@pytest.mark.parametrize("mode", ["JAX", "FAST_COMPILE"])
def test_groups_are_checked_at_run_time(mode):
    x = draw(2, 6, 4, 5)
    (symbol,) = symbols([x])
    f = pytensor.function([symbol], group_normalization(symbol, 4), mode=mode)
    with pytest.raises(UserError, match="x has 6 channels with groups 4"):
        f(x)
