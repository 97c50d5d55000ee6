"""The registry: names, order, refusals, and that `kernels` is this project's package."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from normbench import kernels
from normbench.errors import UserError
from normbench.kernels.problem import Problem
from normbench.kernels.registry import operator


def test_the_package_is_ours_and_not_another_of_the_same_name():
    assert (
        Path(kernels.__file__).resolve()
        == Path(__file__).resolve().parents[2] / "normbench" / "kernels" / "__init__.py"
    )


def test_operators_and_their_variants_with_the_baseline_first():
    assert {"batch_norm", "conv_bn"} <= set(kernels.operators())
    plain = ("naive", "naive_promoting", "folded", "prefolded")
    assert kernels.variants("batch_norm") == (*plain, "native", "pallas_triton", "pallas_mosaic", "pallas_tpu")
    assert kernels.variants("conv_bn") == ("unfused", "folded", "prefolded")


@pytest.mark.parametrize("name", kernels.operators())
def test_each_variant_says_what_it_is(name):
    for variant in (kernels.get(name, variant_name) for variant_name in kernels.variants(name)):
        assert variant.operator == name
        assert variant.summary
        assert callable(variant)


def test_unknown_names_say_what_is_allowed():
    with pytest.raises(UserError, match=r"unknown operator 'bn'; allowed: .*batch_norm"):
        kernels.variants("bn")
    with pytest.raises(UserError, match="unknown variant of conv_bn 'fold'; allowed: unfused, folded, prefolded"):
        kernels.get("conv_bn", "fold")


def test_pallas_triton_is_for_gpu_targets():
    variant = kernels.get("batch_norm", "pallas_triton")
    problem = Problem("batch_norm", (8, 64, 32, 32))
    assert variant.interpreted_on_cpu
    assert "GPU targets only" in variant.supports(problem, "cpu")
    assert all(variant.supports(problem, target) is None for target in ("gpu", "h200", "h100", "a100", "b200"))
    assert "32-bit" in variant.supports(Problem("batch_norm", (2**20, 2**12), "nc"), "h200")


CONV = Problem("conv_bn", (2, 6, 8, 8))


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (Problem("batch_norm", (2, 3, 4)), r"shape \(2, 3, 4\) has rank 3; allowed for layout nchw: rank 4"),
        (Problem("batch_norm", (2, 0, 4, 4)), "has 0 channels in layout nchw"),
        (Problem("batch_norm", (2, -3, 4, 4)), "allowed: whole sizes, 0 or more"),
        (Problem("batch_norm", (2, 3), "cn"), "unknown layout 'cn'"),
        (Problem("batch_norm", (2, 3), "nc", "int8"), "unknown dtype 'int8'; allowed: float32"),
        (Problem("batch_norm", (2, 3), "nc", param_dtype="f32"), "unknown parameter dtype 'f32'"),
        (Problem("batch_norm", (2, 3), "nc", pass_="fwd"), "unknown pass 'fwd'; allowed: forward, backward"),
        (Problem("batch_norm", (2, 3), "nc", context="tanh"), "unknown context 'tanh'; allowed: alone, relu, silu"),
        (Problem("batch_norm", (2, 3), "nc", epsilon=-1e-5), "epsilon -1e-05 is not allowed; allowed: 0 or more"),
        (Problem("batch_norm", (2, 3), "nc", epsilon=float("nan")), "epsilon nan is not allowed"),
        (Problem("batch_norm", (2, 3), "nc", options=(("k", 1),)), "unknown option of batch_norm 'k'; allowed: none"),
        (Problem("conv_bn", (2, 3), "nc"), "unknown layout 'nc'; allowed: ncl"),
        (CONV, None),
    ],
)
def test_problems_that_make_no_sense_are_refused(problem, message):
    if message is None:
        return operator(problem.operator).validate(problem)
    with pytest.raises(UserError, match=message):
        operator(problem.operator).validate(problem)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": 4}, "6 input channels with groups 4; allowed: a multiple of groups"),
        ({"groups": 3, "features": 4}, "4 output channels with groups 3"),
        ({"groups": 0}, "groups 0 is not allowed"),
        ({"features": 0}, "0 output channels; allowed: 1 or more"),
        ({"features": 2.5}, "features 2.5 is not allowed"),
        ({"kernel": (3, 3, 3)}, r"kernel \(3, 3, 3\) is not allowed; allowed: 1 or more, one number or 2 of them"),
        ({"kernel": 9, "padding": "valid"}, r"leaves an output of \(0, 0\)"),
        ({"stride": 0}, "stride 0 is not allowed"),
        ({"dilation": -1}, "dilation -1 is not allowed"),
        ({"padding": "full"}, "padding 'full' is not allowed; allowed: 'same', 'valid'"),
        ({"padding": ((1, 1),)}, "or 2 \\(low, high\\) pairs"),
        ({"bias": 1}, "bias 1 is not allowed; allowed: True or False"),
        ({"feature": 8}, "unknown option of conv_bn 'feature'; allowed: features"),
    ],
)
def test_convolutions_that_make_no_sense_are_refused(options, message):
    problem = Problem("conv_bn", CONV.shape, options=tuple(options.items()))
    with pytest.raises(UserError, match=message):
        operator("conv_bn").validate(problem)


def test_a_variant_is_jitted_and_differentiated_as_any_function():
    variant = kernels.get("rms_norm", "pallas_triton")
    x, gamma = jnp.arange(24.0).reshape(3, 8), jnp.linspace(0.5, 2, 8)
    np.testing.assert_allclose(jax.jit(variant)(x, gamma), variant(x, gamma), rtol=1e-6)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(jax.jit(variant)(x, gamma) ** 2)))(x)
    assert gradient.shape == x.shape
