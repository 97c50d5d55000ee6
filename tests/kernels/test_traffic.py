"""Bytes that the compiler moves for the H200, by operator, layout, pass and variant, against the minimum; no device.

bfloat16 x, float32 parameters. `REACHED` is what at least the named variant has to reach; `KNOWN` what the others do.
"""

import dataclasses
import importlib.util

import pytest

from normbench import kernels
from normbench.kernels.problem import Problem

READS_PROGRAMS = True

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("jax_cuda13_plugin") is None, reason="needs the extra gpu-targets"
)

TRAINING_LAST = Problem("batch_norm_training", (64, 56, 56, 256), "nhwc", "bfloat16")
TRAINING_FIRST = Problem("batch_norm_training", (64, 256, 56, 56), "nchw", "bfloat16")
LAYER = Problem("layer_norm", (8192, 4096), "nc", "bfloat16")
LONG_LAYER = Problem("layer_norm", (2048, 16384), "nc", "bfloat16")
RMS = Problem("rms_norm", (8192, 4096), "nc", "bfloat16")
LONG_RMS = Problem("rms_norm", (2048, 16384), "nc", "bfloat16")
GROUP_FIRST = Problem("group_norm", (16, 320, 28, 28), "nchw", "bfloat16")
GROUP_LAST = Problem("group_norm", (16, 28, 28, 320), "nhwc", "bfloat16")
INSTANCE_FIRST = Problem("instance_norm", (8, 256, 64, 64), "nchw", "bfloat16")
INSTANCE_LAST = Problem("instance_norm", (8, 64, 64, 256), "nhwc", "bfloat16")
VIT = Problem("layer_norm", (8, 197, 768), "nlc", "bfloat16")  # 1576 rows, which 16 does not divide
VIT_RMS = dataclasses.replace(VIT, operator="rms_norm")
SOUND = Problem("layer_norm", (8, 3199, 512), "nlc", "bfloat16", context="gelu")
RESPONSE = Problem("local_response_norm", (8, 256, 27, 27), "nchw", "bfloat16")


def call(problem, variant, pass_):
    """The function of a variant and its arguments."""
    program = kernels.program(dataclasses.replace(problem, pass_=pass_), variant)
    return program.function, *program.inputs


REACHED = [
    (TRAINING_LAST, "pivoted", "forward", 1.51),
    (TRAINING_FIRST, "pivoted", "forward", 1.51),
    (TRAINING_LAST, "custom_vjp", "forward", 1.51),
    (TRAINING_LAST, "custom_vjp", "forward_backward", 1.76),
    (TRAINING_FIRST, "custom_vjp", "forward_backward", 1.51),
    (LAYER, "custom_vjp", "forward", 1.005),
    (LONG_LAYER, "custom_vjp", "forward", 1.005),
    (LAYER, "custom_vjp", "forward_backward", 1.51),
    (LONG_LAYER, "custom_vjp", "forward_backward", 1.51),
    (VIT, "custom_vjp", "forward", 1.005),
    (VIT, "custom_vjp", "forward_backward", 2.04),
    (VIT_RMS, "custom_vjp", "forward_backward", 1.51),
    (SOUND, "custom_vjp", "forward", 1.005),
    (RMS, "custom_vjp", "forward", 1.005),
    (LONG_RMS, "custom_vjp", "forward", 1.005),
    (RMS, "custom_vjp", "forward_backward", 1.51),
    (GROUP_FIRST, "pivoted", "forward", 1.52),
    (GROUP_LAST, "pivoted", "forward", 1.52),
    (GROUP_FIRST, "custom_vjp", "forward_backward", 1.52),
    (GROUP_LAST, "custom_vjp", "forward_backward", 1.78),
    (INSTANCE_FIRST, "custom_vjp", "forward", 1.52),
    (INSTANCE_LAST, "custom_vjp", "forward", 1.52),
    (INSTANCE_FIRST, "custom_vjp", "forward_backward", 1.52),
    (INSTANCE_LAST, "custom_vjp", "forward_backward", 1.78),
    (RESPONSE, "shifted", "forward", 1.005),
]


def name(value):
    return f"{value.operator}-{value.layout}-{value.shape[-1]}" if isinstance(value, Problem) else None


@pytest.mark.parametrize(("problem", "variant", "pass_", "most"), REACHED, ids=name)
def test_a_variant_in_plain_jax_reaches(fusion, problem, variant, pass_, most):
    fusion.check(*call(problem, variant, pass_), max_ratio=most)


KNOWN = [
    (LAYER, "naive", "forward_backward", 3.27),
    (LAYER, "one_pass", "forward_backward", 1.77),
    (GROUP_FIRST, "naive", "forward", 5.0),
    (GROUP_FIRST, "two_pass", "forward", 2.0),
    (TRAINING_LAST, "naive", "forward", 2.005),
    (TRAINING_LAST, "one_pass", "forward", 1.505),
]


@pytest.mark.parametrize(("problem", "variant", "pass_", "expected"), KNOWN, ids=name)
def test_what_is_known_comes_out(fusion, problem, variant, pass_, expected):
    report = fusion.report(*call(problem, variant, pass_))
    assert report.traffic_ratio == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("variant", ["pivoted", "custom_vjp"])
def test_rows_that_gradients_of_parameters_sum_over_are_cut_where_the_compiler_does_not(fusion, variant):
    """At 4096 rows XLA cuts nothing by itself, and writes a float32 intermediate: the partial sums avoid it."""
    problem = dataclasses.replace(LAYER, shape=(4096, 4096))
    found = fusion.report(*call(problem, variant, "forward_backward")).traffic_ratio
    assert found <= 1.51 if variant == "custom_vjp" else found > 1.7
