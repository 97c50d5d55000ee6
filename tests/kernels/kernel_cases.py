"""Problems and arrays that the kernel tests draw, and the error that arithmetic in a dtype may leave."""

import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from normbench import kernels
from normbench.kernels.problem import ACTIVATIONS, DTYPES, LAYOUTS, Problem

SIZES = (1, 2, 3, 5, 7, 8, 13, 16)
CONTEXTS = tuple("alone" if name == "none" else name for name in ACTIVATIONS)


@st.composite
def batch_norm_problems(draw, dtypes=DTYPES):
    layout = draw(st.sampled_from(sorted(LAYOUTS)))
    shape = draw(st.tuples(*[st.sampled_from(SIZES)] * len(layout)))
    sample = st.sampled_from
    return Problem(
        "batch_norm", shape, layout, draw(sample(dtypes)), draw(sample(dtypes)), "forward", draw(sample(CONTEXTS))
    )


@st.composite
def conv_bn_problems(draw, dtypes=DTYPES):
    layout = draw(st.sampled_from(("ncl", "nlc", "nchw", "nhwc", "ncdhw", "ndhwc")))
    rank = len(layout) - 2
    groups, inputs, outputs = (draw(st.sampled_from((1, 2, 3))) for _ in range(3))
    if draw(st.booleans()):  # depthwise
        groups, inputs = groups * inputs, 1
    spatial = draw(st.tuples(*[st.sampled_from((3, 5, 6, 8))] * rank))
    channels = groups * inputs
    options = {
        "bias": draw(st.booleans()),
        "dilation": draw(st.sampled_from((1, 2))),
        "features": groups * outputs,
        "groups": groups,
        "kernel": draw(st.sampled_from((1, 2, 3))),
        "padding": draw(st.sampled_from(("same", 2, ((2, 1),) * rank))),
        "stride": draw(st.sampled_from((1, 2, 3))),
        "transposed": draw(st.booleans()),
    }
    if options["transposed"] and options["padding"] != "same":
        options["padding"] = "valid"
    shape = (2, *spatial, channels) if layout.endswith("c") else (2, channels, *spatial)
    dtype, param_dtype = draw(st.sampled_from(dtypes)), draw(st.sampled_from(dtypes))
    context = draw(st.sampled_from(CONTEXTS))
    return Problem("conv_bn", shape, layout, dtype, param_dtype, "forward", context, 1e-3, tuple(options.items()))


def arrays_of(problem: Problem, seed: int = 0) -> tuple[jnp.ndarray, ...]:
    """Random arrays: gamma has both signs, beta and mean are not small, variance lies in [0.2, 2]."""
    random = np.random.default_rng(seed)

    def values(argument):
        if argument.role == "variance":
            return random.uniform(0.2, 2, argument.shape)
        return random.normal(size=argument.shape)

    arguments = kernels.operator(problem.operator).arguments(problem)
    return tuple(jnp.asarray(values(argument), argument.dtype) for argument in arguments)


def run(problem: Problem, variant: str, arrays) -> jnp.ndarray:
    """The variant called with the operator's own signature."""
    definition = kernels.operator(problem.operator)
    function = kernels.get(problem.operator, variant)
    return function(*definition.bind(problem, tuple(arrays)), **definition.keywords(problem))


def unit(*dtypes) -> float:
    """The relative rounding of the coarsest of these dtypes."""
    return max(float(jnp.finfo(dtype).eps) for dtype in dtypes)


def double(array) -> np.ndarray:
    return np.asarray(array).astype(np.float64)


def assert_close(actual, expected, bound, where="") -> None:
    """Asserts |actual - expected| <= bound, element by element."""
    error = np.abs(double(actual) - expected)
    assert np.shape(actual) == np.shape(expected), (where, np.shape(actual), np.shape(expected))
    excess = np.max(error / np.broadcast_to(bound, error.shape), initial=0.0)
    assert excess <= 1.0, f"{where}: error is {excess:.3g} times the bound"
