"""Errors are what their definitions say, tolerances scale with the sums, and every pass has a float64 answer."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from normbench import kernels
from normbench.kernels import Problem, registry
from normbench.kernels.registry import sound
from normbench.study.check.accuracy import Oracle, compare
from normbench.study.check.distance import Allowance, Exact, judge
from normbench.study.check.rounding import roundoff

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
    assert error.max_ulp == pytest.approx(0.5 / (4 * roundoff("float32")))  # numbers from 2 to 4 are 2 eps apart
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


def test_a_scalar_output_is_judged():
    """An output of shape () is no array of NumPy, but a number: it takes no item assignment."""
    assert compare(jnp.float32(2.0), np.float64(2.0)).ok
    assert not compare((jnp.float32(2.0), jnp.ones(2)), (np.zeros(()), np.ones(2))).ok


def test_ulps_are_those_of_the_first_output_alone():
    """y in bfloat16 beside statistics in float32: an ulp of one is 65536 of the other."""
    outputs = (jnp.array([1.0], jnp.bfloat16), jnp.array([1.0], jnp.float32))
    error = compare(outputs, (np.array([1.0]), np.array([1.0 + 2**-10])))
    assert (error.ulp_dtype, error.max_ulp) == ("bfloat16", 0)
    assert error.max_abs == 2**-10


def test_the_tolerance_grows_with_the_length_of_the_sums():
    bounds = {}
    for terms in (64, 4096):
        problem = Problem("layer_norm", (8, terms), "nc")
        oracle = Oracle(problem, 0)
        bounds[terms] = oracle.check(*run(problem, "naive", oracle)).tolerance
    assert 3 < bounds[4096] / bounds[64] < 30


def test_the_tolerance_grows_with_the_conditioning_of_the_data():
    problem = Problem("layer_norm", (8, 256), "nc")
    easy = Oracle(problem, 0)
    bounds = [oracle.check(*run(problem, "naive", oracle)).tolerance for oracle in (easy, easy.hard)]
    assert bounds[1] > 100 * bounds[0]


def test_the_tolerance_in_bfloat16_is_of_a_few_roundings():
    problem = Problem("rms_norm", (32, 512), "nc", "bfloat16")
    oracle = Oracle(problem, 0)
    assert oracle.check(*run(problem, "naive", oracle)).tolerance < 8 * roundoff("bfloat16")


@pytest.mark.parametrize("pass_", ["forward", "forward_backward"])
def test_float64_x_is_held_to_float64_beside_float32_parameters(pass_):
    problem = Problem("layer_norm", (8, 64), "nc", "float64", "float32", pass_)
    with jax.enable_x64(True):
        oracle = Oracle(problem, 0)
        program, result = run(problem, "custom_vjp", oracle)
        assert oracle.check(program, result).ok
        coarse = jax.tree.map(lambda leaf: leaf.astype("float32").astype(leaf.dtype), result)
        assert not oracle.check(program, coarse).ok


def test_an_error_that_all_elements_share_is_found_below_a_rounding():
    """0.1 % too large in bfloat16: each element is within its rounding, all together are not."""
    exact = np.random.default_rng(0).normal(size=100_000)
    allowance = Allowance(roundoff("bfloat16"), 0.0)
    assert judge([jnp.asarray(exact, jnp.bfloat16)], [Exact(exact)], [allowance]).ok
    assert not judge([jnp.asarray(1.001 * exact, jnp.bfloat16)], [Exact(exact)], [allowance]).ok


@pytest.mark.parametrize(
    ("exact", "found", "ok"),
    [
        (65400.0, 65504.0, True),
        (65400.0, np.inf, True),  # a rounding away from what float16 can hold
        (65600.0, 65504.0, True),
        (65600.0, np.inf, True),
        (65600.0, -np.inf, False),
        (65600.0, 60000.0, False),
        (60000.0, np.inf, False),
        (80000.0, 65504.0, False),
        (80000.0, np.inf, True),
        (-80000.0, np.inf, False),
        (np.inf, np.inf, True),
        (1.0, np.inf, False),
    ],
)
@pytest.mark.parametrize("other", [1.0, 1e30])
def test_at_the_edge_of_a_dtype_infinite_and_finite_are_both_right(exact, found, ok, other):
    """Whatever else is in the output: what float16 cannot hold by far does not widen what its neighbours may err."""
    values = np.array([exact, other])
    with np.errstate(over="ignore"):
        result = np.array([found, other]).astype(np.float16)
    assert judge([result], [Exact(values)], [Allowance(roundoff("float16"), 1.0)]).ok is ok


@pytest.mark.parametrize("context", ["alone", "residual"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_output_of_another_dtype_is_wrong(dtype, context):
    problem = Problem("batch_norm", dtype=dtype, context=context, **CHANNELS_LAST)
    oracle = Oracle(problem, seed=0)
    program, result = run(problem, "naive", oracle)
    other = "float32" if dtype == "bfloat16" else "float16"
    leaves, structure = jax.tree.flatten(result)
    assert oracle.check(program, result).ok
    error = oracle.check(program, jax.tree.unflatten(structure, [leaves[0].astype(other), *leaves[1:]]))
    assert not error.ok
    assert other in error.reason


def test_a_missing_output_is_wrong():
    problem = Problem("batch_norm_training", (4, 8, 5), "ncl")
    oracle = Oracle(problem, seed=0)
    program, result = run(problem, "naive", oracle)
    assert "2 outputs" in oracle.check(program, result[:2]).reason


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
    assert {one.values.dtype for one in oracle._exact(program)} == {np.dtype(float)}
    assert jnp.ones(1).dtype == jnp.float32


def test_the_promoting_variant_is_checked_in_its_own_output_dtype():
    problem = Problem("batch_norm", dtype="bfloat16", pass_="forward_backward", **CHANNELS_LAST)
    oracle = Oracle(problem, seed=0)
    program, result = run(problem, "naive_promoting", oracle)
    assert result[0].dtype == jnp.float32
    assert oracle.check(program, result).ok


@pytest.mark.parametrize("operator", ["layer_norm", "batch_norm_training"])
def test_hard_data_tell_a_cancelling_variant_from_a_sound_one(operator):
    problem = Problem(operator, (64, 300), "nc")
    hard = Oracle(problem, 0).hard
    for name in ("naive", "pivoted", "custom_vjp", "welford", "one_pass"):
        assert hard.check(*run(problem, name, hard)).ok, name
    program, result = run(problem, "one_pass", hard)
    undeclared = dataclasses.replace(program, variant=dataclasses.replace(program.variant, excess=sound, formula=""))
    assert not hard.check(undeclared, result).ok
    assert hard.check(program, result).tolerance == math.inf  # declared void


FEW_TERMS = [
    ("layer_norm", (100, 3), "nc", ()),
    ("layer_norm", (2, 16, 6, 8), "nhwc", ()),
    ("instance_norm", (2, 16, 2, 2), "nchw", ()),
    ("group_norm", (2, 64, 1, 1), "nchw", ()),
    ("batch_norm_training", (2, 16, 6, 8), "nchw", ()),
    ("batch_norm_training", (3, 64, 2, 2), "nchw", ()),
]


@pytest.mark.parametrize(("operator", "shape", "layout", "options"), FEW_TERMS)
@pytest.mark.parametrize("seed", range(3))
def test_what_cancels_is_right_to_what_its_own_formula_loses(operator, shape, layout, options, seed):
    """In float64, where no mean is too large: a slice whose deviation is small loses the square of that."""
    problem = Problem(operator, shape, layout, "float64", "float64", options=options)
    with jax.enable_x64(True):
        hard = Oracle(problem, seed).hard
        for name in ("one_pass", "jax_nn", "flax"):
            program, result = run(problem, name, hard)
            error = hard.check(program, result)
            assert error.ok, (name, error.reason)
            assert not hard.check(program, jax.tree.map(lambda leaf: leaf * 1.0001, result)).ok, name


NARROW = ("float32", "bfloat16", "float16")
BESIDE_FLOAT64 = [
    (operator, variant)
    for operator in ("batch_norm", "batch_norm_training", "conv_bn", "layer_norm", "rms_norm", "group_norm",
                     "instance_norm")
    for variant in kernels.variants(operator)
    if not kernels.get(operator, variant).interpreted_on_cpu
]  # fmt: skip


NARROW_TOO = [
    pytest.param(*pair, narrow, marks=[pytest.mark.torture] * (number % len(NARROW) != place))
    for number, pair in enumerate(BESIDE_FLOAT64)
    for place, narrow in enumerate(NARROW)
]
"""Of the three dtypes one for each variant, in turn; `make torture` has the others."""


@pytest.mark.parametrize(("operator", "variant", "narrow"), NARROW_TOO)
def test_every_variant_is_right_to_float64_beside_narrow_parameters_or_says_that_it_is_not(operator, variant, narrow):
    options = (("groups", 4),) if operator == "group_norm" else ()
    layout = "nhwc" if operator in ("layer_norm", "rms_norm") else "nchw"
    problem = Problem(operator, (3, 8, 5, 8), layout, "float64", narrow, options=options)
    if kernels.get(operator, variant).supports(problem, "cpu"):
        return
    with jax.enable_x64(True):
        oracle = Oracle(problem, 0)
        error = oracle.check(*run(problem, variant, oracle))
    assert error.ok, error.reason


def test_a_fold_that_leaves_out_a_step_is_wrong_in_its_gradient_too():
    """The gradients of folded parameters are its own float64 program's: which is held against the operator first."""
    problem = Problem("batch_norm", pass_="backward", **CHANNELS_LAST)
    oracle = Oracle(problem, seed=0)
    whole = kernels.get("batch_norm", "prefolded")
    faulty = dataclasses.replace(
        whole, name="faulty_fold", prepare=lambda *parameters, epsilon, **_: whole.prepare(*parameters, epsilon=0.0)
    )
    try:
        registry.register_variant(faulty)
        error = oracle.check(*run(problem, "faulty_fold", oracle))
    finally:
        del registry._VARIANTS["batch_norm"]["faulty_fold"]
    assert "what is prepared ahead is not the operator's" in error.reason


def test_there_are_no_hard_data_for_gradients_and_convolutions():
    assert Oracle(Problem("rms_norm", (4, 8), "nc", pass_="backward"), 0).hard is None
    assert Oracle(Problem("conv_bn", (2, 4, 6, 6)), 0).hard is None
