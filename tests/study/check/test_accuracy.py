"""Errors are what their definitions say, tolerances scale with the sums, and every pass has a float64 answer."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from normbench import kernels
from normbench.kernels import Problem
from normbench.study.check.accuracy import Oracle, compare, epsilon, tolerance

CHANNELS_LAST = {"shape": (4, 5, 6, 8), "layout": "nhwc"}


def run(problem, variant, oracle):
    program = kernels.program(problem, variant)
    inputs = jax.jit(program.setup)(*oracle.arrays_for(program))
    return program, jax.jit(program.function)(*inputs)


def test_the_three_errors_by_hand():
    reference = np.array([4.0, -4.0, 0.0])
    error = compare(jnp.array([4.0, -4.0, 0.5], jnp.float32), reference)
    scale = math.sqrt(32 / 3)
    assert error.max_abs == 0.5
    assert error.max_rel == pytest.approx(0.5 / scale)
    assert error.max_ulp == pytest.approx(0.5 / (2 * epsilon("float32")))  # numbers from 2 to 4 are 2 eps apart
    assert not error.ok


def test_one_ulp_is_one_ulp():
    value = np.float32(1.5)
    error = compare(jnp.array([np.nextafter(value, np.float32(2))]), np.array([1.5]))
    assert error.max_ulp == pytest.approx(1.0)
    assert error.ok


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_result_that_is_not_finite_is_wrong(bad):
    error = compare(jnp.array([1.0, bad]), np.ones(2))
    assert not error.ok
    assert "not finite" in error.reason


def test_a_result_of_another_shape_is_wrong():
    assert not compare(jnp.ones((2, 1)), np.ones(2)).ok


def test_the_worst_of_several_outputs_counts():
    error = compare((jnp.ones(2), jnp.array([1.0, 2.0])), (np.ones(2), np.ones(2)))
    assert error.max_abs == 1.0


def test_an_empty_result_has_no_error():
    assert compare(jnp.ones((0, 3)), np.ones((0, 3))).ok


def test_zeros_against_zeros_have_no_error():
    assert compare(jnp.zeros(3), np.zeros(3)).max_rel == 0


def test_the_tolerance_scales_with_the_square_root_of_the_sum():
    assert tolerance(("float64",), 10_000) == pytest.approx(16 * epsilon("float64") * 101)
    # Sums of 16-bit numbers are accumulated in float32.
    assert tolerance(("bfloat16",), 10_000) == pytest.approx(16 * (2**-7 + 100 * 2**-23))
    # The coarsest input decides: the last bits of a float32 output of bfloat16 inputs mean nothing.
    assert tolerance(("float32", "bfloat16"), 1) > 16 * 2**-7


@pytest.mark.parametrize(
    ("pass_", "dtype"),
    [
        ("forward", "float32"),
        ("forward", "bfloat16"),
        ("forward", "float16"),
        ("backward", "float32"),
        ("forward_backward", "bfloat16"),
    ],
)
@pytest.mark.parametrize("variant", ["naive", "folded", "prefolded"])
def test_right_results_pass_in_every_pass(variant, pass_, dtype):
    problem = Problem("batch_norm", dtype=dtype, pass_=pass_, **CHANNELS_LAST)
    oracle = Oracle(problem, seed=0)
    error = oracle.check(*run(problem, variant, oracle))
    assert error.ok, error.reason
    assert error.max_rel > 0


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("variant", ["unfused", "prefolded"])
def test_optional_arguments_find_their_places(variant, bias):
    options = (("bias", bias), ("features", 6))
    problem = Problem("conv_bn", (2, 4, 5, 5), pass_="forward_backward", options=options)
    oracle = Oracle(problem, seed=0)
    assert oracle.check(*run(problem, variant, oracle)).ok


@pytest.mark.parametrize("pass_", ["forward", "backward"])
def test_a_wrong_result_does_not_pass(pass_):
    problem = Problem("batch_norm", pass_=pass_, **CHANNELS_LAST)
    oracle = Oracle(problem, seed=0)
    program, result = run(problem, "naive", oracle)
    assert not oracle.check(program, jax.tree.map(lambda leaf: leaf * 1.001, result)).ok


def test_the_oracle_of_a_gradient_is_float64_in_a_process_that_is_not():
    problem = Problem("batch_norm", pass_="backward", **CHANNELS_LAST)
    oracle = Oracle(problem, seed=0)
    program, result = run(problem, "naive", oracle)
    assert jax.tree.leaves(result)[0].dtype == jnp.float32
    oracle.check(program, result)
    assert {leaf.dtype for answer in oracle._answers.values() for leaf in jax.tree.leaves(answer)} == {np.dtype(float)}
    assert jnp.ones(1).dtype == jnp.float32


def test_the_promoting_variant_is_checked_in_its_own_output_dtype():
    problem = Problem("batch_norm", dtype="bfloat16", pass_="forward_backward", **CHANNELS_LAST)
    oracle = Oracle(problem, seed=0)
    program, result = run(problem, "naive_promoting", oracle)
    assert result[0].dtype == jnp.float32
    assert oracle.check(program, result).ok


def test_hard_data_tell_a_cancelling_variant_from_a_sound_one():
    problem = Problem("batch_norm_training", (4, 8, 16, 16))
    hard = Oracle(problem, 0).hard
    errors = {name: hard.check(*run(problem, name, hard)).max_rel for name in ("naive", "one_pass", "pivoted")}
    assert errors["pivoted"] <= 4 * errors["naive"] < errors["one_pass"]


def test_there_are_no_hard_data_for_gradients_and_convolutions():
    assert Oracle(Problem("rms_norm", (4, 8), "nc", pass_="backward"), 0).hard is None
    assert Oracle(Problem("conv_bn", (2, 4, 6, 6)), 0).hard is None
