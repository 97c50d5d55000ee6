"""Every variant of layer norm against the float64 reference, forward and backward."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from normbench import kernels
from normbench.errors import UserError
from normbench.kernels.problem import Problem
from tests.kernels.norm_cases import SETTINGS, NormTests, check, drawn, outputs

X, VECTOR = jnp.ones((3, 4)), jnp.ones(4)


def options(draw, shape, channels):
    return (("ndim", draw(st.integers(1, len(shape)))),)


@settings(**SETTINGS)
@given(drawn("layer_norm", ("c", "nc", "nlc", "nhwc"), options))
def test_drawn_problems(case):
    check(*case)


class TestLayerNorm(NormTests):
    problem = Problem("layer_norm", (3, 5, 16), "nlc")
    hard = (Problem("layer_norm", (16, 512), "nc"), Problem("layer_norm", (4, 8, 64), "nlc", options=(("ndim", 2),)))


def test_a_pivot_that_is_an_outlier_cancels_and_the_two_pass_form_does_not():
    problem = Problem("layer_norm", (4, 256), "nc")
    x = np.random.default_rng(0).normal(size=problem.shape)
    x[:, 0] = 1e6
    arrays = [jnp.asarray(a, jnp.float32) for a in (x, np.ones(256), np.zeros(256))]
    exact = kernels.reference(problem, arrays)
    naive, pivoted = (np.abs(outputs(problem, name, arrays)[0] - exact).max() for name in ("naive", "pivoted"))
    assert naive < 1e-4 < pivoted


@pytest.mark.parametrize(
    ("arguments", "keywords", "message"),
    [
        ((X, jnp.ones(3), VECTOR), {}, r"gamma has shape \(3,\); allowed: \(4,\), the normalized axes of x"),
        ((X, VECTOR, jnp.ones((4, 1))), {}, r"beta has shape \(4, 1\)"),
        ((X, VECTOR, VECTOR), {"ndim": 3}, "ndim 3 for x of rank 2; allowed: 1 to 2"),
        ((X, VECTOR, VECTOR), {"ndim": True}, "ndim True"),
        ((X, VECTOR, VECTOR), {"epsilon": -1.0}, "epsilon -1.0 is not allowed"),
        ((X, VECTOR, VECTOR), {"activation": "tanh"}, "unknown activation 'tanh'"),
        ((jnp.ones((3, 4), int), VECTOR, VECTOR), {}, "x has dtype int"),
        ((jnp.ones((3, 0)), jnp.ones(0), jnp.ones(0)), {}, "no elements along its last 1 axes"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments, keywords, message):
    for variant in kernels.variants("layer_norm"):
        if variant != "flax":
            with pytest.raises(UserError, match=message):
                kernels.get("layer_norm", variant)(*arguments, **keywords)


def test_problems_that_make_no_sense_are_refused():
    for problem, message in (
        (Problem("layer_norm", (2, 3, 4, 4), "nchw"), "unknown layout 'nchw'"),
        (Problem("layer_norm", (2, 3), "nc", options=(("ndim", 3),)), "ndim 3"),
        (Problem("layer_norm", (2, 3), "nc", options=(("groups", 3),)), "unknown option of layer_norm 'groups'"),
    ):
        with pytest.raises(UserError, match=message):
            kernels.program(problem, "naive")
