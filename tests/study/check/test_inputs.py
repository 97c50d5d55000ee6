"""Inputs are random, plausible for their role, and never what a compiler could simplify away."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from normbench.errors import UserError
from normbench.kernels import Problem
from normbench.kernels.registry import Argument
from normbench.study.check.accuracy import Oracle
from normbench.study.check.inputs import BFLOAT16, draw, draw_hard

ROLES = ("activation", "residual", "cotangent", "weight", "bias", "scale", "shift", "mean", "variance")
DTYPES = ("float32", "float64", "bfloat16", "float16")


def _batch_norm(shape, channels, dtype="float32", param_dtype="float32"):
    parameters = (("gamma", "scale"), ("beta", "shift"), ("mean", "mean"), ("variance", "variance"))
    x = Argument("x", shape, dtype, "activation")
    return (x, *(Argument(name, (channels,), param_dtype, role) for name, role in parameters))


def test_equal_seeds_give_equal_arrays_and_others_do_not():
    arguments = _batch_norm((4, 8, 5, 5), 8)
    first, again, other = draw(arguments, 1), draw(arguments, 1), draw(arguments, 2)
    for a, b, c in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert (a != c).any()


@given(st.sampled_from(ROLES), st.sampled_from(DTYPES), st.lists(st.integers(0, 9), min_size=1, max_size=4))
@settings(deadline=None)
def test_every_role_gives_finite_values_of_the_asked_shape_and_dtype(role, dtype, shape):
    (array,) = draw((Argument("a", tuple(shape), dtype, role),), 0)
    assert array.shape == tuple(shape)
    assert array.dtype == np.dtype(dtype)
    assert np.isfinite(array.astype(np.float64)).all()


@given(st.integers(1, 300), st.sampled_from(DTYPES), st.integers(0, 5))
@settings(deadline=None)
def test_parameters_are_never_the_identity(channels, dtype, seed):
    _, gamma, beta, mean, variance = (
        a.astype(np.float64) for a in draw(_batch_norm((2, channels), channels, dtype, dtype), seed)
    )
    assert (gamma != 0).all()
    assert (np.abs(mean) > 0).all()
    assert (variance > 0.4).all()
    assert (np.abs(np.abs(gamma) - 1) > 0.2).all()
    assert (np.abs(beta) > 0.25).all()
    if channels > 1:
        assert (gamma < 0).any()
        assert len(set(gamma)) > 1


@pytest.mark.parametrize(("shape", "axis"), [((4, 16, 20, 30), 1), ((4, 20, 30, 16), 3), ((500, 16), 1)])
def test_the_statistics_given_are_near_those_of_x_and_never_they(shape, axis):
    x, _, _, mean, variance = draw(_batch_norm(shape, 16), 3, unit=0.01)
    others = tuple(a for a in range(len(shape)) if a != axis)
    deviation = np.sqrt(variance)
    assert (x.var(others) > 1.3 * variance).all()
    assert np.median(np.abs(x.mean(others) - mean) / deviation) > 0.5
    assert (np.abs(x.mean(others) - mean) / deviation).max() < 10
    assert (np.abs(mean) >= 0.01).all()


@pytest.mark.parametrize("axis", range(4))
def test_no_slice_of_x_is_like_another(axis):
    (x,) = draw((Argument("x", (5, 6, 20, 30), "float32", "activation"),), 0)
    others = tuple(a for a in range(4) if a != axis)
    deviations, means = x.std(others), x.mean(others)
    assert deviations.max() > 1.2 * deviations.min()
    assert np.ptp(means) > 0.3 * deviations.min()
    assert len(set(means)) == x.shape[axis]


@pytest.mark.parametrize("epsilon", [1e-3, 1e-5, 1e-12])
def test_epsilon_is_among_the_variances_of_the_rows(epsilon):
    x = Oracle(Problem("layer_norm", (64, 256), "nc", epsilon=epsilon), 0).arrays[0].astype(np.float64)
    shares = x.var(1) / epsilon
    assert 0.5 < shares.min() < 4
    assert shares.max() > 4


def test_the_squares_of_a_local_response_norm_are_among_k():
    x = Oracle(Problem("local_response_norm", (2, 16, 9), "ncl"), 0).arrays[0].astype(np.float64)
    assert 0.3 < 1e-4 * np.square(x).mean() < 30


def test_float16_is_kept_where_it_is_exact():
    x, *_, variance = draw(_batch_norm((50, 16), 16, "float16", "float16"), 0, unit=1e-6)
    assert (variance > 2**-15).all()
    assert np.abs(x).max() > 2**-7


def test_a_convolution_gives_values_of_order_one():
    arguments = (
        Argument("x", (2, 512, 7, 7), "float32", "activation"),
        Argument("weight", (128, 512, 3, 3), "float32", "weight"),
        Argument("mean", (128,), "float32", "mean"),
    )
    _, weight, _ = draw(arguments, 0)
    assert np.std(weight) == pytest.approx((512 * 9) ** -0.5, rel=0.05)


def test_bfloat16_is_numpys_view_of_it():
    (array,) = draw((Argument("x", (3, 3), "bfloat16", "activation"),), 0)
    assert array.dtype == BFLOAT16


def test_an_unknown_role_is_refused():
    with pytest.raises(UserError, match="role of argument x"):
        draw((Argument("x", (3,), "float32", "mystery"),), 0)


@pytest.mark.parametrize(("dtype", "deviation"), [("float32", 0.1), ("float64", 0.1), ("bfloat16", 16), ("float16", 2)])
def test_hard_data_have_a_mean_far_above_the_deviation_and_statistics_to_match(dtype, deviation):
    x, *_, mean, variance = (a.astype(np.float64) for a in draw_hard(_batch_norm((4000, 16), 16, dtype), 3))
    assert np.abs(x.mean(0) - 1e3).max() < 20 * deviation
    assert (x.std(0) > deviation / 2).all()
    assert np.abs(x.mean(0) - mean).max() < 20 * deviation
    assert (variance < x.var(0)).all()
