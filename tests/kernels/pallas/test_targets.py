"""The Pallas Triton kernel compiled for GPUs that are not there: one launch, minimum bytes, whole vectors."""

import importlib.util

import pytest

from normbench import explain, kernels
from normbench.kernels.problem import Problem

READS_PROGRAMS = True

pytestmark = pytest.mark.skipif(
    not importlib.util.find_spec("jax_cuda13_plugin"), reason="needs the compiler plugin: normbench[gpu-targets]"
)


def compiled(problem, target="h200"):
    program = kernels.program(problem, "pallas_triton")
    return explain(program.function, *program.inputs, target=target)


@pytest.mark.parametrize(
    ("shape", "layout", "dtype"),
    [
        ((32, 64, 56, 56), "nchw", "bfloat16"),  # by row
        ((32, 56, 56, 64), "nhwc", "bfloat16"),  # by column
        ((32, 64, 7, 7), "nchw", "float32"),  # flat: rows of 49 elements
        ((31, 7, 7, 61), "nhwc", "bfloat16"),  # flat: nothing divides anything
        ((31, 61, 7, 7), "nchw", "float16"),
        ((1009, 64), "nc", "float64"),
    ],
)
def test_one_launch_moves_the_minimum_in_vectors_of_16_bytes(shape, layout, dtype):
    report = compiled(Problem("batch_norm", shape, layout, dtype, context="silu"))
    assert len(report.launches) == 1
    assert report.bytes == report.minimum_bytes
    assert report.launches.load_bytes[0] == 16
    assert report.launches.store_bytes[0] == 16


@pytest.mark.parametrize("target", ["h100", "a100", "b200"])
def test_other_targets(target):
    report = compiled(Problem("batch_norm", (8, 13, 14, 14), "nchw", "bfloat16"), target)
    assert len(report.launches) == 1
    assert report.launches.load_bytes[0] == 16


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_a_gradient_reads_x_and_dy_once(layout):
    shape = (8, 64, 28, 28) if layout == "nchw" else (8, 28, 28, 64)
    report = compiled(Problem("batch_norm", shape, layout, "bfloat16", pass_="backward", context="silu"))
    assert list(report.launches.kind) == ["pallas"] * 2
    assert report.declared_bytes <= 1.05 * report.minimum_bytes
    assert report.launches.load_bytes[0] == 16
    assert report.launches.store_bytes[0] == 16


ON_CHIP = [
    ((8, 256, 56, 56), "nchw", "bfloat16", "forward", "h200"),
    ((8, 256, 56, 56), "nchw", "bfloat16", "backward", "h200"),
    ((32, 512, 28, 28), "nchw", "float32", "forward", "h200"),
    ((16, 512, 28, 28), "nchw", "float32", "backward", "a100"),
    ((32, 14, 14, 1024), "nhwc", "bfloat16", "forward", "h200"),
    ((8, 14, 14, 2048), "nhwc", "bfloat16", "backward", "a100"),
    ((8, 14, 14, 2048), "nhwc", "float32", "backward", "h200"),
]


@pytest.mark.parametrize(("shape", "layout", "dtype", "pass_", "target"), ON_CHIP)
def test_batch_norm_in_training_is_one_launch_of_the_minimum_where_a_channel_fits(shape, layout, dtype, pass_, target):
    problem = Problem("batch_norm_training", shape, layout, dtype, pass_=pass_)
    report = compiled(problem, target)
    assert list(report.launches.kind) == ["pallas"]
    assert report.declared_bytes <= 1.05 * report.minimum_bytes
    assert report.launches.load_bytes[0] == report.launches.store_bytes[0] == 16
    assert not report.launches.spill_bytes.dropna().any()


def test_batch_norm_in_training_is_two_launches_where_none_fits():
    report = compiled(Problem("batch_norm_training", (32, 56, 56, 64), "nhwc", "bfloat16"))
    assert list(report.launches.kind) == ["pallas"] * 2
    assert report.declared_bytes <= 1.05 * 1.5 * report.minimum_bytes


@pytest.mark.parametrize("activation", ["silu", "gelu"])
@pytest.mark.parametrize(
    ("shape", "groups", "target"),
    [((2, 320, 64, 64), 32, "h200"), ((2, 320, 64, 64), 32, "b200"), ((2, 310, 63, 63), 31, "a100")],
)
def test_the_largest_group_before_an_exponential_spills_nothing(shape, groups, target, activation):
    """A tenth of it is read again instead."""
    options = (("groups", groups),)
    report = compiled(Problem("group_norm", shape, "nchw", "bfloat16", context=activation, options=options), target)
    assert list(report.launches.kind) == ["pallas"]
    assert 1.04 * report.minimum_bytes < report.declared_bytes <= 1.05 * report.minimum_bytes
    assert not report.launches.spill_bytes.dropna().any()
