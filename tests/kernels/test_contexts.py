"""What surrounds an operator: further inputs and outputs, their gradients, and the programs made of them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from normbench import explain, kernels
from normbench.errors import UserError
from normbench.kernels import registry
from normbench.kernels.common.activations import activate, activate_numpy
from normbench.kernels.contexts import CAST_DTYPES
from normbench.kernels.problem import DTYPES, Problem
from normbench.kernels.registry import Variant
from normbench.study.check.accuracy import Oracle
from tests.kernels.norm_cases import check, variants

PROBLEMS = {
    "batch_norm": Problem("batch_norm", (2, 3, 5, 4)),
    "batch_norm_training": Problem("batch_norm_training", (4, 5, 3, 3), "nhwc"),
    "layer_norm": Problem("layer_norm", (3, 5, 16), "nlc"),
    "rms_norm": Problem("rms_norm", (3, 5, 16), "nlc"),
    "group_norm": Problem("group_norm", (2, 6, 4, 4), options=(("groups", 3),)),
}
PAIRS = [(problem, name) for problem in PROBLEMS.values() for name in variants(problem.operator)]


def surrounded(operator, context, **fields):
    return dataclasses.replace(PROBLEMS[operator], context=context, **fields)


@pytest.mark.parametrize(("problem", "variant"), PAIRS, ids=lambda value: getattr(value, "operator", value))
def test_every_variant_with_a_residual_and_with_a_cast(problem, variant):
    for context in ("residual", "cast"):
        check(dataclasses.replace(problem, context=context, pass_="forward_backward"), variant)
    check(dataclasses.replace(problem, context="residual", pass_="backward", dtype="bfloat16"), variant)


@pytest.mark.parametrize("operator", PROBLEMS)
def test_the_sum_is_normalized_and_returned_and_takes_both_cotangents(operator):
    problem = surrounded(operator, "residual", pass_="forward_backward")
    program, oracle = kernels.program(problem, "naive"), Oracle(problem, 0)
    arrays = oracle.arrays_for(program)
    x, residual, *parameters = arrays[:-1]
    definition = kernels.operator(operator)
    assert definition.arguments(problem)[1].name == "residual"

    def plain(z):
        outputs = kernels.get(operator, "naive")(z, *parameters, **definition.keywords(problem))
        return outputs[0] if definition.statistics else outputs

    outputs, gradients = jax.jit(program.function)(*program.setup(*arrays))
    y, z = outputs[0] if definition.statistics else outputs
    np.testing.assert_array_equal(z, x + residual)
    expected, pullback = jax.vjp(plain, x + residual)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    dy, dz = arrays[-1]
    assert not np.array_equal(dy, dz)
    np.testing.assert_allclose(gradients[0], pullback(jnp.asarray(dy))[0] + dz, rtol=1e-4, atol=1e-4)
    assert len(gradients) == 1 + len(parameters) - definition.statistics  # that of the residual is that of x


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_cast_changes_the_width_of_y(dtype):
    with jax.enable_x64(True):
        program = kernels.program(surrounded("layer_norm", "cast", dtype=dtype, pass_="forward_backward"), "naive")
        y, (dx, *_) = jax.eval_shape(program.function, *program.inputs)
    assert (y.dtype.name, dx.dtype.name) == (CAST_DTYPES[dtype], dtype)
    assert program.inputs[-1].dtype == y.dtype  # the cotangent


def test_what_is_prepared_is_made_of_the_parameters_alone():
    problem = surrounded("batch_norm", "residual")
    program, oracle = kernels.program(problem, "prefolded"), Oracle(problem, 0)
    inputs = program.setup(*oracle.arrays_for(program))
    assert len(inputs) == 4
    for array, expected in zip(inputs[2:], program.prepare(*oracle.arrays[2:]), strict=True):
        np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize("context", ["residual", "cast"])
def test_a_variant_may_compute_the_context_itself(context, monkeypatch):
    called = []

    def both(x, gamma, epsilon=1e-5, *, ndim=1, activation="none", residual=None, output_dtype=None):
        called.append((residual, output_dtype))
        z = x if residual is None else x + residual
        y = kernels.get("rms_norm", "naive")(z, gamma, epsilon, ndim=ndim, activation=activation)
        return y.astype(output_dtype) if residual is None else (y, z)

    mine = Variant("rms_norm", "mine", lambda *_: None, "for this test", fused_contexts={context: both})
    monkeypatch.setitem(registry._VARIANTS["rms_norm"], "mine", mine)
    for pass_ in ("forward", "forward_backward"):
        check(surrounded("rms_norm", context, pass_=pass_), "mine")
    assert called


def test_gelu_is_that_of_jax_in_float32():
    z = jnp.linspace(-6, 6, 97)
    for dtype in ("float32", "bfloat16", "float16"):
        half = z.astype(dtype)
        expected = jax.nn.gelu(half.astype(jnp.float32)).astype(dtype)
        np.testing.assert_array_equal(activate(half, "gelu"), expected)
    np.testing.assert_allclose(activate(z, "gelu"), activate_numpy(np.asarray(z, np.float64), "gelu"), atol=1e-6)


@pytest.mark.parametrize("operator", ["conv_bn", "instance_norm", "local_response_norm"])
def test_a_residual_is_refused_where_none_is_added(operator):
    with pytest.raises(UserError, match="unknown context 'residual'; allowed: alone"):
        kernels.program(Problem(operator, (2, 4, 6, 6), context="residual"), kernels.variants(operator)[0])


@pytest.mark.parametrize("target", ["cpu", "h200"])
def test_a_width_that_is_asked_for_counts_as_needed_and_one_that_is_promoted_does_not(target):
    if target == "h200":
        pytest.importorskip("jax_cuda13_plugin")
    elements, shape = 64 * 4096, (64, 4096)
    found = {}
    for context in ("alone", "cast"):
        problem = Problem("layer_norm", shape, "nc", "bfloat16", context=context)
        program = kernels.program(problem, "naive")
        found[context] = explain(program.function, *program.inputs, target=target)
    assert found["cast"].minimum_bytes - found["alone"].minimum_bytes == 2 * elements
    assert not any("promotion" in hint for hint in found["cast"].hints)
    if target == "h200":
        assert found["cast"].traffic_ratio == pytest.approx(1, abs=0.01)
    promoting = kernels.program(Problem("batch_norm", shape, "nc", "bfloat16"), "naive_promoting")
    assert any("promotion" in hint for hint in explain(promoting.function, *promoting.inputs, target=target).hints)
