"""Every variant of RMS norm against the float64 reference, forward and backward."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from normbench import kernels
from normbench.errors import UserError
from normbench.kernels.common.form import Form
from normbench.kernels.problem import Problem
from normbench.kernels.registry import COMPILERS
from tests.kernels.norm_cases import SETTINGS, NormTests, check, drawn


def options(draw, shape, channels):
    found = [("ndim", draw(st.integers(1, len(shape))))]
    if draw(st.booleans()):
        found.append(("hat_dtype", draw(st.sampled_from(("bfloat16", "float16", "float32")))))
    if draw(st.booleans()):
        found.append(("scale_offset", draw(st.sampled_from((1, 1.0, -0.5)))))
    return tuple(sorted(found))


@settings(**SETTINGS)
@given(drawn("rms_norm", ("c", "nc", "nlc", "nhwc"), options))
def test_drawn_problems(case):
    check(*case)


class TestRmsNorm(NormTests):
    problem = Problem("rms_norm", (3, 5, 16), "nlc")


FORMS = {
    "llama": (("hat_dtype", "bfloat16"),),
    "gemma": (("scale_offset", 1),),
    "both": (("hat_dtype", "bfloat16"), ("scale_offset", 1)),
    "fp8": (("fp8_scale", 0.05),),
}
KERNELS = ("pallas_triton", "pallas_mosaic")


@pytest.mark.parametrize("variant", ["naive", "custom_vjp", *KERNELS])
@pytest.mark.parametrize("form", FORMS)
def test_the_forms_of_language_models(form, variant):
    """In whole warpgroups and in rows of any length; with the sum returned, an activation, and another width of y."""
    problem = Problem("rms_norm", (3, 2, 256), "nlc", "bfloat16", options=FORMS[form])
    if form == "fp8":
        pass_ = "forward" if variant == "pallas_mosaic" else "forward_backward"
        for context in ("alone", "residual", "silu"):
            check(dataclasses.replace(problem, context=context, pass_=pass_), variant)
        return
    check(dataclasses.replace(problem, context="residual", pass_="forward_backward"), variant)
    check(dataclasses.replace(problem, shape=(3, 2, 84), context="silu", pass_="forward_backward"), variant)
    check(dataclasses.replace(problem, context="cast"), variant)


def test_eight_bits_stay_within_what_they_hold():
    x = jnp.concatenate([jnp.ones((2, 63)), 1e4 * jnp.ones((2, 1))], axis=1).astype("float32")
    for variant in ("naive", "custom_vjp", "pallas_triton"):
        y = kernels.get("rms_norm", variant)(x, None, form=Form(fp8_scale=2.0**-8))
        assert y.dtype.name == "float8_e4m3fn"
        assert float(y[0, -1]) == 448.0


def test_the_gradient_in_eight_bits_is_that_within_what_they_hold():
    """As JAX differentiates a clip and a cast: 1 / scale of the cotangent, which is in eight bits, too; 0 beyond."""
    scale, gamma = 2.0**-6, jnp.asarray([1.0, 2.0, 4.0, 16.0] * 32, "float32")
    x = jnp.ones((2, 128), "float32")  # of which y is gamma: the last of every four is beyond 448 scale = 7
    dy = jnp.full((2, 128), 0.5, "float8_e4m3fn")
    for variant in ("naive", "custom_vjp", "pallas_triton"):

        def function(x, gamma, name=variant):
            return kernels.get("rms_norm", name)(x, gamma, 0.0, form=Form(fp8_scale=scale))

        y, pull = jax.vjp(function, x, gamma)
        _, dgamma = pull(dy)
        assert y.dtype == dy.dtype
        np.testing.assert_allclose(dgamma, [64.0, 64.0, 64.0, 0.0] * 32, rtol=1e-5)


@pytest.mark.parametrize(
    ("shape", "pass_", "words"),
    [((3, 84), "forward", "rows of 84 elements; allowed for pallas_mosaic: whole multiples of 128"),
     ((3, 256), "backward", "and forward y in float8_e4m3fn"), ((3, 256), "forward_backward", "and forward y in")],
)  # fmt: skip
def test_mosaic_says_where_it_takes_no_eight_bits(shape, pass_, words):
    problem = Problem("rms_norm", shape, "nc", "bfloat16", pass_=pass_, options=FORMS["fp8"])
    assert words in kernels.get("rms_norm", "pallas_mosaic").supports(problem, "h200")


def test_a_form_that_makes_no_sense_is_refused():
    for options, fields, words in (
        ({"hat_dtype": "float8"}, {}, "unknown hat_dtype 'float8'; allowed: bfloat16"),
        ({"scale_offset": "one"}, {}, "scale_offset 'one'; allowed: a finite number"),
        ({"fp8_scale": 0}, {}, "fp8_scale 0; allowed: a finite number above 0"),
        ({"fp8_scale": 0.5}, {"context": "cast"}, "fp8_scale in the context cast; allowed: the others"),
    ):
        problem = Problem("rms_norm", (2, 8), "nc", options=tuple(options.items()), **fields)
        with pytest.raises(UserError, match=words):
            kernels.program(problem, "naive")


def test_who_does_not_know_a_form_says_so():
    problem = Problem("rms_norm", (2, 8), "nc", options=FORMS["gemma"])
    for name in kernels.variants("rms_norm", COMPILERS):
        variant = kernels.get("rms_norm", name)
        if variant.compiler in ("peer", "torch", "pytensor") or name == "flax":
            assert variant.supports(problem, "cpu") == "it has no option scale_offset"
    eight = dataclasses.replace(problem, options=FORMS["fp8"])
    assert "need Ada or newer" in kernels.get("rms_norm", "pallas_triton").supports(eight, "a100")


def test_gamma_of_another_length_is_refused():
    for variant in ("naive", "custom_vjp"):
        with pytest.raises(UserError, match=r"gamma has shape \(3,\); allowed: \(4,\)"):
            kernels.get("rms_norm", variant)(jnp.ones((2, 4)), jnp.ones(3))
