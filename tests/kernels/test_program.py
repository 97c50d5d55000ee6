"""Programs: what is compiled is what was asked, from the inputs that are known when the timed call starts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from normbench import kernels
from normbench.errors import UserError
from normbench.kernels.problem import Problem
from normbench.schema import PASSES
from tests.kernels.kernel_cases import arrays_of, run

PROBLEMS = {
    "batch_norm": Problem("batch_norm", (2, 6, 5, 5), context="silu"),
    "conv_bn": Problem("conv_bn", (2, 6, 5, 5), context="silu", options=(("features", 4), ("groups", 2))),
    "conv_bn with bias": Problem("conv_bn", (2, 6, 5, 5), context="relu", options=(("bias", True),)),
}
PAIRS = [
    (problem, name)
    for problem in PROBLEMS.values()
    for name in kernels.variants(problem.operator)
    if name != "pallas_mosaic"  # takes none of these sizes: test_pallas_mosaic_channels.py
]


def compiled(program):
    """As a study does it: compiled from the abstract inputs, in another trace than the one that makes the arrays."""
    return jax.jit(program.function).lower(*program.inputs).compile()


def cotangent_of(problem, variant):
    y = run(problem, variant, arrays_of(problem))
    return jnp.asarray(np.random.default_rng(5).normal(size=y.shape), y.dtype)


@pytest.mark.parametrize(("problem", "variant"), PAIRS)
def test_forward(problem, variant):
    program, arrays = kernels.program(problem, variant), arrays_of(problem)
    y = compiled(program)(*jax.jit(program.setup)(*arrays))
    np.testing.assert_allclose(y, run(problem, variant, arrays), rtol=1e-5, atol=1e-5)
    assert program.has_setup == (variant == "prefolded")
    if not program.has_setup:
        assert jax.tree.leaves(program.inputs) == list(program.arguments)


@pytest.mark.parametrize(("problem", "variant"), PAIRS)
def test_backward_and_forward_backward_give_the_same_gradients(problem, variant):
    arrays, cotangent = arrays_of(problem), cotangent_of(problem, variant)
    outputs = {}
    for pass_ in PASSES[1:]:
        program = kernels.program(dataclasses.replace(problem, pass_=pass_), variant)
        inputs = jax.jit(program.setup)(*arrays, cotangent)
        assert jax.tree.structure(inputs) == jax.tree.structure(program.inputs)
        assert [(a.shape, a.dtype) for a in jax.tree.leaves(inputs)] == [
            (a.shape, a.dtype) for a in jax.tree.leaves(program.inputs)
        ]
        outputs[pass_] = compiled(program)(*inputs)
    y, gradients = outputs["forward_backward"]
    np.testing.assert_allclose(y, run(problem, variant, arrays), rtol=1e-5, atol=1e-5)
    pairs = zip(jax.tree.leaves(outputs["backward"]), jax.tree.leaves(gradients), strict=True)
    for backward, both in pairs:
        np.testing.assert_allclose(backward, both, rtol=1e-4, atol=1e-4)
    if variant != "prefolded":
        expected = jax.vjp(lambda *a: run(problem, variant, a), *arrays)[1](cotangent)
        for gradient, exact in zip(jax.tree.leaves(gradients), expected, strict=True):
            np.testing.assert_allclose(gradient, exact, rtol=1e-4, atol=1e-4)


def test_what_a_variant_prepares_is_an_input_of_the_program():
    for problem in PROBLEMS.values():
        program, arrays = kernels.program(problem, "prefolded"), arrays_of(problem)
        prepared = program.prepare(*arrays[1:])
        inputs = program.setup(*arrays)
        assert len(prepared) == 2
        assert len(inputs) == 3
        for one, other in zip(prepared, inputs[1:], strict=True):
            np.testing.assert_array_equal(one, other)
    assert kernels.program(PROBLEMS["batch_norm"], "naive").prepare is None


def test_a_convolution_without_bias_has_no_bias_among_its_arguments():
    assert len(kernels.program(PROBLEMS["conv_bn"], "unfused").arguments) == 6
    assert len(kernels.program(PROBLEMS["conv_bn with bias"], "unfused").arguments) == 7


def test_parameters_stay_arguments_of_what_is_compiled():
    problem = PROBLEMS["batch_norm"]
    text = compiled(kernels.program(problem, "naive")).as_text()
    entry = text[text.index("ENTRY") :]
    assert [f"parameter({index})" in entry for index in range(6)] == [True] * 5 + [False]


def test_problems_that_make_no_sense_are_refused():
    with pytest.raises(UserError, match="unknown operator"):
        kernels.program(Problem("no_norm", (1, 2)), "naive")
    with pytest.raises(UserError, match="unknown variant"):
        kernels.program(PROBLEMS["batch_norm"], "fused")
    with pytest.raises(UserError, match="rank"):
        kernels.program(Problem("batch_norm", (1, 2)), "naive")
