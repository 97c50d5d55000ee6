"""Every variant of RMS norm against the float64 reference, forward and backward."""

import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from normbench import kernels
from normbench.errors import UserError
from normbench.kernels.problem import Problem
from tests.kernels.norm_cases import SETTINGS, NormTests, check, drawn


def options(draw, shape, channels):
    return (("ndim", draw(st.integers(1, len(shape)))),)


@settings(**SETTINGS)
@given(drawn("rms_norm", ("c", "nc", "nlc", "nhwc"), options))
def test_drawn_problems(case):
    check(*case)


class TestRmsNorm(NormTests):
    problem = Problem("rms_norm", (3, 5, 16), "nlc")


def test_gamma_of_another_length_is_refused():
    for variant in ("naive", "custom_vjp"):
        with pytest.raises(UserError, match=r"gamma has shape \(3,\); allowed: \(4,\)"):
            kernels.get("rms_norm", variant)(jnp.ones((2, 4)), jnp.ones(3))
