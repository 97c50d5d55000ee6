"""Inference batch norm, convolution with batch norm and local response norm, as `test_properties` has the norms of
groups: every variant, forward and backward, on data of every kind, and statistics of other data. In every dtype: all of
them by `make torture`, one or two of each variant by the ordinary suite."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from normbench import kernels
from normbench.kernels import aten
from normbench.kernels.problem import Problem
from tests.kernels.numerics import elementwise
from tests.kernels.numerics.bounds import LEAST, check
from tests.kernels.numerics.elementwise import Precision
from tests.kernels.numerics.extended import DRAWS, KINDS, group_of

OPERATORS = ("batch_norm", "conv_bn", "local_response_norm")
DTYPES = ("float32", "bfloat16", "float16", "float64")
ATEN = {"batch_norm": "aten", "local_response_norm": "aten"}
EVERY = [(op, v) for op in OPERATORS for v in (*kernels.variants(op), *filter(None, [ATEN.get(op)]))]
IMAGES, CHANNELS, SIDE, KERNEL = 2, 6, 4, 3


def precision_of(dtype) -> Precision:
    wide = jnp.promote_types(dtype, "float32")
    u = 0.0 if wide == dtype else float(jnp.finfo(dtype).eps)
    return Precision(float(jnp.finfo(wide).eps), u, float(jnp.finfo(dtype).smallest_subnormal), largest(dtype))


def largest(dtype) -> float:
    return 0.99 * float(jnp.finfo(dtype).max)


@st.composite
def inputs(draw, operator, dtype, param_dtype):
    """x, each channel of a kind of its own, the operator's other arrays, and the cotangent of y; gamma, beta, mean and
    variance in a dtype of their own."""
    kinds = draw(st.lists(st.sampled_from(KINDS), min_size=CHANNELS, max_size=CHANNELS))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    terms, group = IMAGES * SIDE * SIDE, DRAWS.get(dtype, group_of)
    x = np.stack([group(kind, terms, rng) for kind in kinds]).reshape(CHANNELS, IMAGES, SIDE, SIDE).swapaxes(0, 1)
    gamma = np.where(rng.uniform(size=CHANNELS) < 0.2, 0.0, rng.normal(size=CHANNELS))
    size = draw(st.sampled_from((1.0, 100.0)))
    # Statistics of other data, and those of x, whose mean then cancels.
    own = draw(st.booleans())
    with np.errstate(all="ignore"):
        means = np.where(own & np.isfinite(x.mean((0, 2, 3))), x.mean((0, 2, 3)), size * rng.normal(size=CHANNELS))
    variance = 10.0 ** rng.uniform(-4, 4, CHANNELS) * draw(st.sampled_from((1.0, 0.0)))
    vectors = [gamma, rng.normal(size=CHANNELS), means, variance]
    weights = [rng.normal(size=(CHANNELS, CHANNELS, KERNEL, KERNEL)), size * rng.normal(size=CHANNELS)]
    found = {"batch_norm": [x, *vectors], "conv_bn": [x, *weights, *vectors], "local_response_norm": [x]}[operator]
    dtypes = [param_dtype if any(one is vector for vector in vectors) else dtype for one in found]
    arrays = [jnp.asarray(one).astype(kept) for one, kept in zip(found, dtypes, strict=True)]
    return [*arrays, jnp.asarray(rng.normal(size=x.shape)).astype(dtype)]


def problem_of(operator, dtype) -> Problem:
    shape = IMAGES, CHANNELS, SIDE, SIDE
    return Problem(operator, shape, "nchw", dtype, dtype, "forward", "alone", 1e-3)


def function_of(operator, variant):
    if variant == "aten" and operator == "batch_norm":
        return lambda x, gamma, beta, mean, variance: aten.batch_norm(
            x, gamma, beta, mean, variance, False, 0.1, 1e-3, False
        )
    if variant == "aten":
        return lambda x: aten.local_response_norm(x, 5, 1e-4, 0.75, 1.0)
    problem = problem_of(operator, "float32")
    return partial(kernels.get(operator, variant), **kernels.operator(operator).keywords(problem))


def right_of(operator, variant, dtype, arrays, dy):
    precision, folded = precision_of(dtype), variant in ("folded", "prefolded")
    if variant == "naive_promoting":  # computes in what x and the parameters promote to
        precision = dataclasses.replace(precision, eps=max(precision.eps, precision.u))
    with np.errstate(all="ignore"):
        if operator == "batch_norm":
            if variant != "naive_promoting":
                precision = dataclasses.replace(precision, largest=largest(jnp.promote_types(dtype, "float32")))
            found = elementwise.batch_norm(problem_of(operator, dtype), arrays, dy, folded, precision)
            return found[:4] if variant == "aten" else found  # whose statistics are constants to the gradient
        if operator == "conv_bn":
            return elementwise.conv_bn(arrays, dy, 1e-3, folded, precision)
        found = elementwise.local_response_norm(arrays[0], dy, 5, 1e-4, 0.75, 1.0, precision)
        # What meets x last may be subnormal: alpha's product with the gradient, where that is not by hand; and all of
        # it beyond 1e120 in float64.
        if variant != "custom_vjp" or dtype == "float64":
            (dx, bound), x = found[1], np.asarray(arrays[0], "float64")
            found[1] = dx, bound + 8 * LEAST[dtype == "float64"] * np.abs(x)
        return found


def holds_in(operator, variant, dtype, examples, param_dtype=None):
    function = function_of(operator, variant)

    @jax.jit
    def both(dy, *arrays):
        y, pull = jax.vjp(function, *arrays)
        return y, *pull(dy.astype(y.dtype))

    @settings(max_examples=examples, deadline=None, derandomize=True, database=None)
    @given(inputs(operator, dtype, param_dtype or dtype))
    def holds(drawn):
        *arrays, dy = drawn
        names = ("y", "dx", *(f"gradient {place}" for place in range(1, 9)))
        found, right = both(dy, *arrays), right_of(operator, variant, dtype, arrays, dy)
        for name, one, (exact, bound) in zip(names, found, right, strict=False):
            least = 1e4 * LEAST[dtype == "float64"]  # a product with one of the factors of up to 1e4
            # A gradient in narrower a dtype than the arithmetic is rounded to it.
            rounding = float(jnp.finfo(one.dtype).eps) * (param_dtype is not None and one.dtype == param_dtype)
            with np.errstate(all="ignore"):
                bound = bound + least + (least + rounding) * np.abs(exact)
                check(f"{operator} {variant} {dtype}: {name}", one, exact, bound)

    holds()


REFUSED = {"pallas_mosaic": ("float64",), "pallas_tpu": ("float64", "float16")}
CASES = [(*pair, dtype) for pair in EVERY for dtype in DTYPES if dtype not in REFUSED.get(pair[1], ())]
IN_TURN = [case for place, case in enumerate(CASES) if place % 4 in (0, 1 + place // 4 % 3)]


@pytest.mark.parametrize(("operator", "variant", "dtype"), IN_TURN)
def test_data_of_every_kind(operator, variant, dtype):
    holds_in(operator, variant, dtype, 3 if "mosaic" in variant else 8)


NOT_MIXED = (*REFUSED, "aten", "naive_promoting")  # the last one's root is in the variance's dtype, as it says
MIXED = [pair for pair in EVERY if pair[0] in ("batch_norm", "conv_bn") and pair[1] not in NOT_MIXED]


@pytest.mark.parametrize(("operator", "variant"), MIXED)
def test_float64_x_with_float32_parameters_is_right_to_float64(operator, variant):
    holds_in(operator, variant, "float64", 4, "float32")


@pytest.mark.torture
@pytest.mark.parametrize(("operator", "variant", "dtype"), CASES)
def test_every_dtype(operator, variant, dtype):
    holds_in(operator, variant, dtype, 6 if "mosaic" in variant else 40)
