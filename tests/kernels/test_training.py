"""Every variant of the training batch norm against the float64 reference, forward and backward."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings

from normbench import kernels
from normbench.errors import UserError
from normbench.kernels.problem import Problem
from tests.kernels.norm_cases import SETTINGS, NormTests, arrays_of, check, drawn, outputs, variants

NAME = "batch_norm_training"
X, VECTOR = jnp.ones((3, 4)), jnp.ones(4)


@settings(**SETTINGS)
@given(drawn(NAME, ("nc", "ncl", "nlc", "nchw", "nhwc", "ncdhw")))
def test_drawn_problems(case):
    problem, variant = case
    assume(kernels.operator(NAME).reduction(problem) > 1)
    check(problem, variant)


class TestChannelsFirst(NormTests):
    problem = Problem(NAME, (4, 3, 5, 3), options=(("momentum", 0.3),))
    hard = (Problem(NAME, (4, 3, 16, 16)),)


class TestChannelsLast(NormTests):
    problem = Problem(NAME, (4, 5, 3, 3), "nhwc")
    hard = (Problem(NAME, (4, 16, 16, 3), "nhwc"),)


@pytest.mark.parametrize("variant", variants(NAME))
def test_running_statistics_take_a_share_of_the_batch_and_have_no_gradient(variant):
    problem = Problem(NAME, (5, 3), "nc", options=(("momentum", 0.25),))
    x, gamma, beta, mean, variance = arrays = arrays_of(problem)
    _, new_mean, new_variance = outputs(problem, variant, arrays)
    np.testing.assert_allclose(new_mean, 0.75 * mean + 0.25 * x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(new_variance, 0.75 * variance + 0.25 * x.var(0, ddof=1), rtol=1e-4)

    def statistics(x, mean, variance):
        return sum(jnp.sum(value) for value in outputs(problem, variant, (x, gamma, beta, mean, variance))[1:])

    for gradient in jax.grad(statistics, (0, 1, 2))(x, mean, variance):
        np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("variant", variants(NAME))
def test_an_empty_batch_leaves_the_running_statistics_as_they_are(variant):
    problem = Problem(NAME, (0, 3), "nc")
    arrays = arrays_of(problem)
    y, mean, variance = outputs(problem, variant, arrays)
    assert y.shape == (0, 3)
    np.testing.assert_array_equal(mean, arrays[3])
    np.testing.assert_array_equal(variance, arrays[4])


def test_statistics_keep_their_dtype_and_are_no_less_exact_for_it():
    problem = Problem(NAME, (64, 3), "nc", "bfloat16", "bfloat16")
    arrays = arrays_of(problem)
    exact = kernels.reference(problem, arrays)
    for variant in variants(NAME):
        for result, expected in zip(outputs(problem, variant, arrays), exact, strict=True):
            assert result.dtype == jnp.bfloat16
            np.testing.assert_allclose(np.asarray(result, np.float64), expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    ("arguments", "keywords", "message"),
    [
        ((X, VECTOR, VECTOR, jnp.ones(3), VECTOR), {}, r"running_mean has shape \(3,\); allowed: \(4,\)"),
        ((X, VECTOR, VECTOR, VECTOR, jnp.ones((4, 1))), {}, r"running_variance has shape \(4, 1\)"),
        ((X[:1], *[VECTOR] * 4), {}, "has one value per channel; allowed in training: 2 or more, or none"),
        ((X, *[VECTOR] * 4), {"momentum": 1.5}, "momentum 1.5 is not allowed"),
        ((X.astype(int), *[VECTOR] * 4), {}, "x has dtype int"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments, keywords, message):
    for variant in kernels.variants(NAME):
        if variant != "flax":
            with pytest.raises(UserError, match=message):
                kernels.get(NAME, variant)(*arguments, **keywords)


def test_problems_that_make_no_sense_are_refused():
    for problem, message in (
        (Problem(NAME, (1, 3), "nc"), "one value per channel"),
        (Problem(NAME, (2, 3), "nc", options=(("momentum", -0.1),)), "momentum -0.1"),
    ):
        with pytest.raises(UserError, match=message):
            kernels.program(problem, "naive")
