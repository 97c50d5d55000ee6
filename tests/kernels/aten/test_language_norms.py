"""RMS norm in the forms of language models against PyTorch, bit by bit where the definition says where to round."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from normbench import kernels
from normbench.kernels.common.form import Form
from tests.kernels.aten.agreement import from_wire, to_wire
from tests.kernels.aten.torch_judge import Request

EPSILON = 1e-5
NEAR_A_TIE = 0.005
"""The share of elements so near the middle of two numbers that float32 in another order rounds them the other way."""
FORMS = {
    "llama": lambda dtype: Form(hat_dtype=dtype),
    "gemma": lambda dtype: Form(scale_offset=1),
}


def drawn(dtype):
    random = np.random.default_rng(5)
    x = 2.0 * random.normal(size=(6, 512)) + 0.5
    gamma, dy = random.normal(size=512), random.normal(size=x.shape)
    return [array.astype(jnp.dtype(dtype)) for array in (x, gamma, dy)]


def differing(found, expected):
    """The share of elements that are not the same; asserts that those are neighbours."""
    step = float(jnp.finfo(found.dtype).eps)
    found, expected = (np.asarray(array).astype(np.float64) for array in (found, expected))
    np.testing.assert_allclose(found, expected, rtol=2 * step, atol=1e-6)
    return float(np.mean(found != expected))


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("variant", ["naive", "custom_vjp", "pallas_triton", "pallas_mosaic"])
def test_it_rounds_where_transformers_does(judge, name, dtype, variant):
    x, gamma, dy = drawn(dtype)
    arguments = (to_wire(x, requires_grad=True), to_wire(gamma, requires_grad=True), EPSILON)
    verdict = judge.ask(Request(f"language_norms:{name}", arguments, to_wire(dy)))
    assert verdict.error is None, verdict.message
    form = FORMS[name](dtype)

    def function(x, gamma):
        return kernels.get("rms_norm", variant)(x, gamma, EPSILON, form=form)

    y, pullback = jax.vjp(function, jnp.asarray(x), jnp.asarray(gamma))
    expected = from_wire(verdict.outputs[0])
    assert differing(y, expected) < NEAR_A_TIE
    for found, tensor, unit in zip(pullback(jnp.asarray(dy)), verdict.gradients, (4, 16), strict=True):
        true = from_wire(tensor).astype(np.float64)
        size = np.sqrt(np.mean(np.square(true)))  # PyTorch multiplies in half precision, and sums dgamma's terms of it
        np.testing.assert_allclose(
            np.asarray(found).astype(np.float64) / size, true / size, atol=unit * float(jnp.finfo(dtype).eps)
        )


def test_the_other_order_is_another_result(judge):
    x, gamma, _ = drawn("bfloat16")
    verdict = judge.ask(Request("language_norms:llama", (to_wire(x), to_wire(gamma), EPSILON)))
    late = kernels.get("rms_norm", "naive")(jnp.asarray(x), jnp.asarray(gamma), EPSILON)
    assert differing(late, from_wire(verdict.outputs[0])) > 20 * NEAR_A_TIE


@pytest.mark.parametrize("variant", ["naive", "custom_vjp", "pallas_triton"])
def test_eight_bits_are_those_of_pytorch(judge, variant):
    x, gamma, _ = drawn("bfloat16")
    scale = 0.01  # so that some are beyond 448
    verdict = judge.ask(Request("language_norms:eight_bits", (to_wire(x), to_wire(gamma), EPSILON, scale)))
    assert verdict.error is None, verdict.message
    y = kernels.get("rms_norm", variant)(jnp.asarray(x), jnp.asarray(gamma), EPSILON, form=Form(fp8_scale=scale))
    assert y.dtype.name == "float8_e4m3fn"
    assert float(jnp.abs(y.astype("float32")).max()) == 448.0
    assert np.mean(np.asarray(y).view(np.uint8) != from_wire(verdict.outputs[0])) < NEAR_A_TIE
