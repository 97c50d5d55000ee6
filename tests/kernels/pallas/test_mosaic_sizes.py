"""The Pallas Mosaic kernels at sizes that no warpgroup divides, interpreted, with races looked for, in every dtype.

Rows of 65537 elements come in pieces; so do 16385 positions of channels that come last. What takes longest to interpret
is for `make torture`; of each operator an odd and a long size stay.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import pytest

from normbench import explain, kernels
from normbench.errors import UserError
from normbench.kernels import Problem
from tests.kernels.norm_cases import check

READS_PROGRAMS = True
SIZES = {1, 7, 127, 129, 16384, 16385, 65537}
DTYPES = {"float16", "bfloat16", "float32"}
CASES = {
    "layer_norm": [
        ((5, 1), "nc", "float32", "alone"),
        ((6, 7), "nc", "bfloat16", "silu"),
        ((3, 127), "nc", "float16", "residual"),
        ((4, 129), "nc", "float32", "gelu"),
        ((1, 16384), "nc", "bfloat16", "alone"),
        ((1, 16385), "nc", "float16", "alone"),
    ],
    "rms_norm": [
        ((5, 1), "nc", "float16", "alone"),
        ((6, 7), "nc", "float32", "relu"),
        ((1, 127), "nc", "bfloat16", "alone"),
        ((4, 129), "nc", "bfloat16", "residual"),
        ((1, 16384), "nc", "float16", "alone"),
        ((1, 16385), "nc", "float32", "cast"),
        ((1, 65537), "nc", "bfloat16", "alone"),
    ],
    "batch_norm": [
        ((1, 7, 129), "ncl", "float16", "silu"),
        ((2, 1, 127), "ncl", "float32", "alone"),
        ((2, 16384), "nc", "bfloat16", "alone"),
        ((1, 16385), "nc", "bfloat16", "alone"),
        ((1, 1, 65537), "ncl", "bfloat16", "alone"),
    ],
    "batch_norm_training": [
        ((7, 2, 129), "ncl", "float16", "relu"),
        ((1, 2, 127), "ncl", "bfloat16", "alone"),
        ((16384, 8), "nc", "float32", "alone"),
        ((16385, 8), "nc", "float32", "cast"),
        ((1, 1, 65537), "ncl", "bfloat16", "alone"),
    ],
    "group_norm": [
        ((2, 4, 1), "ncl", "bfloat16", "alone"),
        ((1, 6, 7), "ncl", "float32", "gelu"),
        ((2, 127, 16), "nlc", "bfloat16", "silu"),
        ((1, 129, 8), "nlc", "float32", "alone"),
        ((1, 2, 16384), "ncl", "float16", "alone"),
        ((1, 2, 16385), "ncl", "float16", "alone"),
    ],
    "instance_norm": [
        ((2, 1, 8), "nlc", "bfloat16", "alone"),
        ((1, 2, 127), "ncl", "float16", "relu"),
        ((1, 7, 8), "nlc", "bfloat16", "alone"),
        ((1, 129, 8), "nlc", "float32", "cast"),
        ((1, 16384, 8), "nlc", "float16", "alone"),
        ((1, 1, 16385), "ncl", "float32", "alone"),
        ((1, 1, 65537), "ncl", "bfloat16", "alone"),
    ],
}
"""Columns, channels and positions."""
ON_REQUEST = {
    ("layer_norm", (3, 127)),
    ("rms_norm", (1, 16385)),
    ("rms_norm", (1, 65537)),
    ("batch_norm", (2, 1, 127)),
    ("batch_norm", (1, 16385)),
    ("batch_norm", (1, 1, 65537)),
    ("batch_norm_training", (1, 2, 127)),
    ("batch_norm_training", (16384, 8)),
    ("batch_norm_training", (1, 1, 65537)),
    ("group_norm", (2, 127, 16)),
    ("group_norm", (1, 2, 16385)),
    ("instance_norm", (1, 2, 127)),
    ("instance_norm", (1, 7, 8)),
    ("instance_norm", (1, 16384, 8)),
    ("instance_norm", (1, 1, 65537)),
}


def cases():
    for operator, of_operator in CASES.items():
        for case in of_operator:
            yield pytest.param(operator, *case, marks=[pytest.mark.torture] * ((operator, case[0]) in ON_REQUEST))


@pytest.mark.parametrize("operator", CASES)
def test_every_size_and_every_dtype_is_among_the_cases(operator):
    sizes = {size for shape, *_ in CASES[operator] for size in shape}
    of_others = {65537} if operator in ("layer_norm", "group_norm") else set()  # the kernels of RMS and instance norm
    assert sizes >= SIZES - of_others
    assert {dtype for _, _, dtype, _ in CASES[operator]} == DTYPES


@pytest.mark.parametrize(("operator", "shape", "layout", "dtype", "context"), list(cases()))
def test_it_is_right(operator, shape, layout, dtype, context):
    options = (("groups", 2),) if operator == "group_norm" else ()
    # A gradient of a row of one is a difference of almost equal numbers; the longest rows are slow to interpret.
    forward = max(shape) == 65537 or (operator, shape) == ("layer_norm", (1, 16385)) or shape[1:] == (1,)
    pass_ = "forward" if forward else "forward_backward"
    check(Problem(operator, shape, layout, dtype, "float32", pass_, context, options=options), "pallas_mosaic")


@pytest.mark.parametrize(
    ("operator", "shape", "layout", "word"),
    [
        ("layer_norm", (64, 7), "nc", "rows of 7 elements"),
        ("rms_norm", (64, 65537), "nc", "read twice"),
        ("batch_norm", (8, 64, 7, 7), "nchw", "49 positions"),
        ("batch_norm", (64, 7), "nc", "7 channels"),
        ("batch_norm_training", (64, 64, 7, 7), "nchw", "49 positions"),
        ("batch_norm_training", (129, 64), "nc", "129 elements"),
        ("group_norm", (8, 64, 7, 7), "nchw", "49 positions"),
        ("instance_norm", (1, 65537, 8), "nlc", "1 programs"),
    ],
)
def test_what_is_right_and_slow_is_left_to_xla_with_its_reason(operator, shape, layout, word):
    problem = Problem(operator, shape, layout, "float32")
    assert word in kernels.get(operator, "pallas_mosaic").supports(problem, "h200")


@pytest.mark.parametrize(
    ("operator", "shape", "layout"),
    [("layer_norm", (2**20, 2049), "nc"), ("instance_norm", (2**10, 2**10, 2049), "ncl")],
)
def test_more_elements_than_an_index_has_bits_for_are_refused(operator, shape, layout):
    variant = kernels.get(operator, "pallas_mosaic")
    assert "elements" in variant.supports(Problem(operator, shape, layout, "bfloat16", "float32"), "h200")
    arrays = [jax.ShapeDtypeStruct(shape, jnp.bfloat16)]
    arrays += [jax.ShapeDtypeStruct((shape[1],), jnp.float32)] * 2
    with pytest.raises(UserError, match="allowed for pallas_mosaic"):
        jax.eval_shape(variant.function, *arrays)


@pytest.mark.parametrize(
    ("operator", "shape", "layout"),
    [
        ("layer_norm", (4096, 4097), "nc"),
        ("rms_norm", (4096, 1000), "nc"),
        ("batch_norm", (32, 64, 56, 56), "nchw"),
        ("batch_norm", (8192, 1001), "nc"),
        ("batch_norm_training", (64, 64, 28, 28), "nchw"),
        ("group_norm", (32, 256, 28, 28), "nchw"),
        ("instance_norm", (32, 256, 28, 28), "nchw"),
        ("instance_norm", (32, 31, 31, 64), "nhwc"),
    ],
)
def test_it_moves_the_minimum_for_the_h200(operator, shape, layout):
    """Forward in one launch, backward in at most two, each tensor once, partial sums of at most 11 % of x."""
    pytest.importorskip("jax_cuda13_plugin")
    definition, variant = kernels.operator(operator), kernels.get(operator, "pallas_mosaic")
    problem = Problem(operator, shape, layout, "bfloat16", "float32")
    assert variant.supports(problem, "gpu") is None  # whatever its predicted time
    x, *parameters = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in definition.arguments(problem)]
    called = partial(variant.function, **definition.keywords(problem))
    size_bytes = 2 * math.prod(shape)

    def y_of(*arrays):
        found = called(*arrays)
        return found[0] if isinstance(found, tuple) else found

    forward = explain(y_of, x, *parameters, target="h200")
    assert len(forward.launches) == 1
    assert forward.declared_bytes <= 1.05 * 2 * size_bytes

    def both(dy, *arrays):
        y, pull = jax.vjp(y_of, *arrays)
        return y, pull(dy)

    found = explain(both, x, x, *parameters, target="h200")
    assert len(found.launches) <= 3
    assert found.bytes <= 1.05 * 5 * size_bytes


@pytest.mark.parametrize(
    ("operator", "shape", "axis"),
    [("instance_norm", (1, 1, 60000), 1), ("instance_norm", (1, 20000, 8), -1), ("layer_norm", (1, 40000), -1)],
)
def test_pieces_do_not_cancel_where_the_mean_is_large(operator, shape, axis):
    x = 1e3 + 1e-2 * jax.random.normal(jax.random.key(0), shape, jnp.float32)
    ones = jnp.ones(shape[axis], jnp.float32)
    keywords = {} if operator == "layer_norm" else {"channel_axis": axis}
    y = kernels.get(operator, "pallas_mosaic")(x, ones, 0 * ones, 0.0, **keywords)
    assert abs(float(jnp.std(y)) - 1) < 1e-3
