"""Every variant of group norm against the float64 reference, forward and backward, channels first and last."""

import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from normbench import kernels
from normbench.errors import UserError
from normbench.kernels.problem import Problem
from tests.kernels.norm_cases import SETTINGS, NormTests, check, drawn

X, VECTOR = jnp.ones((2, 6, 3)), jnp.ones(6)


def options(draw, shape, channels):
    return (("groups", draw(st.sampled_from([size for size in range(1, channels + 1) if channels % size == 0]))),)


@settings(**SETTINGS)
@given(drawn("group_norm", ("nc", "ncl", "nlc", "nchw", "nhwc", "ncdhw"), options))
def test_drawn_problems(case):
    check(*case)


class TestChannelsFirst(NormTests):
    problem = Problem("group_norm", (2, 6, 5, 3), options=(("groups", 3),))
    hard = (Problem("group_norm", (2, 12, 9, 9), options=(("groups", 3),)),)


class TestChannelsLast(NormTests):
    problem = Problem("group_norm", (2, 5, 3, 6), "nhwc", options=(("groups", 3),))
    hard = (Problem("group_norm", (2, 9, 9, 12), "nhwc", options=(("groups", 3),)),)


@pytest.mark.parametrize(
    ("arguments", "keywords", "message"),
    [
        ((X, VECTOR, VECTOR), {"groups": 4}, "groups 4 does not divide the 6 channels of x"),
        ((X, VECTOR, VECTOR), {"groups": 0}, "groups 0 is not allowed"),
        ((X, VECTOR, VECTOR), {"groups": 3, "channel_axis": 2}, r"gamma has shape \(6,\); allowed: \(3,\)"),
        (
            (X, VECTOR, jnp.ones(5)),
            {"groups": 3},
            r"beta has shape \(5,\); allowed: \(6,\), one value for each channel",
        ),
        ((jnp.ones(6), VECTOR, VECTOR), {"groups": 3}, "x has rank 1"),
        ((X.astype(int), VECTOR, VECTOR), {"groups": 3}, "x has dtype int"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments, keywords, message):
    for variant in kernels.variants("group_norm"):
        if variant != "flax":
            with pytest.raises(UserError, match=message):
                kernels.get("group_norm", variant)(*arguments, **keywords)


def test_groups_of_a_problem_have_to_divide_its_channels():
    with pytest.raises(UserError, match="groups 32 does not divide the 6 channels"):
        kernels.program(Problem("group_norm", (2, 6, 4, 4)), "naive")
