"""Every variant of local response norm against the float64 reference, forward and backward."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from normbench import kernels
from normbench.errors import UserError
from normbench.kernels.problem import Problem
from tests.kernels.norm_cases import SETTINGS, NormTests, check, drawn

NAME = "local_response_norm"


def options(draw, shape, channels):
    return (("alpha", draw(st.sampled_from((1e-4, 0.3)))), ("k", 2.0), ("size", draw(st.integers(1, 6))))


@settings(**SETTINGS)
@given(drawn(NAME, ("nc", "ncl", "nlc", "nchw", "nhwc", "ndhwc"), options))
def test_drawn_problems(case):
    check(*case)


class TestLocalResponseNorm(NormTests):
    problem = Problem(NAME, (2, 6, 5, 3), options=(("alpha", 0.3), ("size", 4)))


@pytest.mark.parametrize("variant", kernels.variants(NAME))
def test_an_even_window_takes_one_more_channel_before(variant):
    x = jnp.asarray([[1.0, 10.0, 100.0, 1000.0]])
    y = kernels.get(NAME, variant)(x, 2, 2.0, 1.0, 0.0)
    squares = np.array([1.0, 101.0, 10100.0, 1010000.0])
    np.testing.assert_allclose(y[0], x[0] / squares, rtol=1e-6)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"size": 0}, "size 0 is not allowed"),
        ({"size": 2.0}, "size 2.0 is not allowed"),
        ({"alpha": float("nan")}, "alpha nan is not allowed"),
        ({"channel_axis": 2}, "channel_axis 2 for x of rank 4"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(keywords, message):
    for variant in kernels.variants(NAME):
        with pytest.raises(UserError, match=message):
            kernels.get(NAME, variant)(jnp.ones((2, 3, 4, 5)), **keywords)


def test_a_context_is_refused():
    with pytest.raises(UserError, match="unknown context 'relu'; allowed: alone"):
        kernels.program(Problem(NAME, (2, 3), "nc", context="relu"), "naive")
