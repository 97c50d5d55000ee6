"""Every variant of instance norm against the float64 reference, forward and backward, channels first and last."""

import jax.numpy as jnp
import pytest
from hypothesis import given, settings

from normbench import kernels
from normbench.errors import UserError
from normbench.kernels.problem import Problem
from tests.kernels.norm_cases import SETTINGS, NormTests, check, drawn


@settings(**SETTINGS)
@given(drawn("instance_norm", ("ncl", "nlc", "nchw", "nhwc", "ndhwc")))
def test_drawn_problems(case):
    check(*case)


class TestChannelsFirst(NormTests):
    problem = Problem("instance_norm", (2, 4, 5, 3))
    hard = (Problem("instance_norm", (2, 3, 16, 16)),)


class TestChannelsLast(NormTests):
    problem = Problem("instance_norm", (2, 5, 3, 4), "nhwc")
    hard = (Problem("instance_norm", (2, 16, 16, 3), "nhwc"),)


def test_a_parameter_of_another_length_is_refused():
    for variant in kernels.variants("instance_norm"):
        if variant != "flax":
            with pytest.raises(UserError, match=r"gamma has shape \(3,\); allowed: \(4,\), one value for each channel"):
                kernels.get("instance_norm", variant)(jnp.ones((2, 4, 5)), jnp.ones(3), jnp.ones(4))
