"""Gradients of batch norm: numerically, against jax.grad, of the second order, and forward."""

import jax
import jax.numpy as jnp
import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from pytensor.gradient import pushforward, verify_grad

from normbench.kernels.pytensor import BatchNormalization, batch_normalization
from tests.kernels.pytensor.pytensor_cases import assert_same, compare, draw, draw_parameters, run, symbols


def jax_batch_norm(x, gamma, beta, mean, variance, epsilon=1e-5):
    pattern = [-1 if axis == (x.ndim > 1) else 1 for axis in range(x.ndim)]
    gamma, beta, mean, variance = (v.reshape(pattern) for v in (gamma, beta, mean, variance))
    return (x - mean) / jnp.sqrt(variance + epsilon) * gamma + beta


@pytest.mark.parametrize("shape", [(5,), (2, 3, 2), (2, 2, 3, 2)], ids=str)
def test_numerically(shape):
    channels = shape[min(len(shape) - 1, 1)]
    values = [draw(*shape, dtype="float64"), *draw_parameters(channels, "float64")]
    verify_grad(BatchNormalization(1e-3), values, rng=np.random.default_rng(0), n_tests=1, mode="FAST_COMPILE")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(5,), (4, 3), (2, 3, 5, 4)], ids=str)
def test_against_jax(shape, dtype):
    channels = shape[min(len(shape) - 1, 1)]
    values = [draw(*shape, dtype=dtype), *draw_parameters(channels, dtype)]
    weight = draw(*shape, dtype=dtype, seed=9)
    inputs = symbols(values)
    cost = (batch_normalization(*inputs) * pt.constant(weight)).sum(acc_dtype=dtype)
    gradients = run(inputs, pytensor.grad(cost, inputs), values, "JAX")
    expected = jax.grad(lambda *a: (jax_batch_norm(*a) * weight).sum(), argnums=range(5))(*map(jnp.asarray, values))
    assert_same(gradients, [np.asarray(e) for e in expected], rtol=1e-4 if dtype == "float32" else 1e-10)


def test_second_order():
    values = [draw(2, 3, 4, 2), *draw_parameters(3)]
    inputs = symbols(values)
    first = pytensor.grad((batch_normalization(*inputs) ** 2).sum(acc_dtype="float32"), inputs)
    second = pytensor.grad(sum((g**2).sum(acc_dtype="float32") for g in first), inputs)

    def cost(*a):
        gradients = jax.grad(lambda *b: (jax_batch_norm(*b) ** 2).sum(), argnums=range(5))(*a)
        return sum((g**2).sum() for g in gradients)

    expected = jax.grad(cost, argnums=range(5))(*map(jnp.asarray, values))
    assert_same(run(inputs, second, values, "JAX"), [np.asarray(e) for e in expected], rtol=1e-3)


def test_of_mixed_dtypes():
    values = [draw(2, 3, 4, 4), *draw_parameters(3, "float64")]
    inputs = symbols(values)
    gradients = compare(inputs, pytensor.grad((batch_normalization(*inputs) ** 2).sum(), inputs), values, rtol=1e-4)
    assert [g.dtype.name for g in gradients] == ["float32", *["float64"] * 4]


def test_pushforward():
    values = [draw(2, 3, 4, 4, dtype="float64"), *draw_parameters(3, "float64")]
    tangents = [draw(*v.shape, dtype="float64", seed=7 + i) for i, v in enumerate(values)]
    inputs, directions = symbols(values), symbols(tangents)
    derivative = pushforward(batch_normalization(*inputs), inputs, directions, use_op_pushforward=True)
    f = pytensor.function([*inputs, *directions], derivative, mode="JAX", on_unused_input="ignore")
    result = f(*values, *tangents)
    _, expected = jax.jvp(jax_batch_norm, tuple(map(jnp.asarray, values)), tuple(map(jnp.asarray, tangents)))
    assert_same([result], [np.asarray(expected)])


def test_pushforward_with_respect_to_one_input():
    values = [draw(2, 3, 4, 4, dtype="float64"), *draw_parameters(3, "float64")]
    tangent = draw(3, dtype="float64", seed=8)
    inputs, (direction,) = symbols(values), symbols([tangent])
    derivative = pushforward(batch_normalization(*inputs), inputs[3], direction, use_op_pushforward=True)
    f = pytensor.function([*inputs, direction], derivative, mode="FAST_COMPILE", on_unused_input="ignore")
    result = f(*values, tangent)
    arrays = tuple(map(jnp.asarray, values))
    zeros = [jnp.zeros_like(a) for a in arrays]
    _, expected = jax.jvp(jax_batch_norm, arrays, (*zeros[:3], jnp.asarray(tangent), zeros[4]))
    assert_same([result], [np.asarray(expected)])
