"""What the tests of every norm share: problems, and checks of one variant against the float64 reference."""

import dataclasses
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from normbench import kernels
from normbench.kernels.problem import DTYPES, Problem
from normbench.study.check.accuracy import Oracle, compare

SIZES = (1, 2, 3, 5, 7, 8, 11)
CANCELLING = ("one_pass", "jax_nn", "flax")
PEERS = ("jax_nn", "flax")
LEAST_TERMS = 8
"""Of fewer terms the variance may by chance be small beside the squared mean, which is not for a cancelling variant."""
SETTINGS = {"max_examples": 10, "deadline": None, "derandomize": True}


def variants(operator: str) -> list[str]:
    """Those that can run here."""
    problem = Problem(operator, (2, 2), "nc")
    return [name for name in kernels.variants(operator) if kernels.get(operator, name).supports(problem, "cpu") is None]


@st.composite
def drawn(draw, operator, layouts, options=lambda draw, shape, channels: ()):
    """A problem and a variant of the operator."""
    sample = st.sampled_from
    layout = draw(sample(layouts))
    shape = draw(st.tuples(*[sample(SIZES if len(layout) < 5 else SIZES[:4])] * len(layout)))
    channels = Problem(operator, shape, layout).channels
    problem = Problem(
        operator,
        shape,
        layout,
        draw(sample(DTYPES)),
        draw(sample(DTYPES)),
        draw(sample(("forward", "forward_backward"))),
        draw(sample(kernels.operator(operator).contexts)),
        draw(sample((1e-5, 1e-3))),
        options(draw, shape, channels),
    )
    variant = draw(sample(variants(operator)))
    assume(
        variant not in ("flax", "native", "pallas_tpu")
        or not set(dict(problem.options)) & set(kernels.operator(operator).own_options)
    )
    assume(variant not in CANCELLING or kernels.operator(operator).reduction(problem) >= LEAST_TERMS)
    return problem, variant


@lru_cache(maxsize=64)
def oracle_of(problem: Problem, seed: int) -> Oracle:
    """Shared by the variants of a problem: its answers in float64 take as long as a variant."""
    return Oracle(problem, seed)


def check(problem: Problem, variant: str, seed: int = 0) -> None:
    """Compiles and runs the program, and compares with the reference (for gradients: the baseline's in float64)."""
    oracle = oracle_of(problem, seed)
    program = kernels.program(problem, variant)
    arrays = jax.tree.map(jnp.asarray, oracle.arrays_for(program))
    result = jax.jit(program.function)(*jax.jit(program.setup)(*arrays))
    error = oracle.check(program, result)
    assert error.ok, (variant, problem, error.reason)


def outputs(problem: Problem, variant: str, arrays) -> tuple:
    """(y, *statistics) of the variant called with the operator's own signature."""
    definition = kernels.operator(problem.operator)
    function = kernels.get(problem.operator, variant)
    result = function(*definition.bind(problem, tuple(arrays)), **definition.keywords(problem))
    return result if isinstance(result, tuple) else (result,)


def arrays_of(problem: Problem, seed: int = 0) -> tuple:
    return tuple(jnp.asarray(array) for array in oracle_of(problem, seed).arrays)


def _conditioning(x: np.ndarray) -> float:
    """The largest mean over the deviation of a channel of an image, channels first, or of a row."""
    slices = x.reshape(x.shape[0] * x.shape[1], -1) if x.ndim > 2 else x
    return max(1.0, float((abs(slices.mean(1)) / slices.std(1)).max()))


def check_transforms(problem: Problem, variant: str) -> None:
    """jit, vmap, grad and checkpoint agree with plain calls, as far as the variant says that its digits hold."""
    x, *parameters = arrays_of(problem)
    tolerance = 1e-4 * kernels.get(problem.operator, variant).excess(
        problem, max(_conditioning(np.asarray(one)) for one in (x, 2 * x + 1))
    )
    xs = jnp.stack([x, 2 * x + 1])

    def function(x):
        return outputs(problem, variant, (x, *parameters))[0]

    expected = np.stack([function(x) for x in xs])
    np.testing.assert_allclose(jax.jit(jax.vmap(function))(xs), expected, rtol=tolerance, atol=tolerance)

    def loss(x):
        return jnp.sum(jnp.sin(function(x)))

    gradients = [jax.jit(jax.grad(f))(x) for f in (loss, jax.checkpoint(loss))]
    np.testing.assert_allclose(*gradients, rtol=tolerance, atol=tolerance)
    rows = jax.jit(jax.vmap(jax.grad(loss)))(xs)
    np.testing.assert_allclose(rows[0], gradients[0], rtol=tolerance, atol=tolerance)


def check_baseline_by_differences(problem: Problem) -> None:
    """The oracle of the gradients, checked by central differences in float64 along random directions."""
    problem = dataclasses.replace(problem, dtype="float64", param_dtype="float64")
    baseline = kernels.variants(problem.operator)[0]
    arrays = arrays_of(problem)
    count = len(arrays) - kernels.operator(problem.operator).statistics
    random = np.random.default_rng(3)

    def loss(*leading):
        return jnp.sum(weights * outputs(problem, baseline, (*leading, *arrays[count:]))[0])

    weights = random.normal(size=problem.shape)
    gradients = jax.jit(jax.grad(loss, tuple(range(count))))(*arrays[:count])
    for index, gradient in enumerate(gradients):
        direction = random.normal(size=gradient.shape)
        ends = []
        for step in (1e-6, -1e-6):
            moved = [array + step * direction if i == index else array for i, array in enumerate(arrays[:count])]
            ends.append(loss(*moved))
        slope = (ends[0] - ends[1]) / 2e-6
        np.testing.assert_allclose(np.vdot(gradient, direction), slope, rtol=1e-6, atol=1e-6)


def hard_errors(problem: Problem, mean: float = 1e3, deviation: float = 1e-2) -> dict[str, float]:
    """Largest error of y by variant, in float32, where the mean is large beside the deviation."""
    arrays = list(arrays_of(problem))
    random = np.random.default_rng(7)
    arrays[0] = jnp.asarray(mean + deviation * random.normal(size=problem.shape), jnp.float32)
    if len(arrays) == 5:  # training: the running mean has followed the data
        arrays[3] = jnp.full_like(arrays[3], mean)
    exact = kernels.reference(problem, [np.asarray(array) for array in arrays])
    exact = exact if isinstance(exact, tuple) else (exact,)
    return {
        name: compare(jax.jit(lambda *a, n=name: outputs(problem, n, a)[0])(*arrays), exact[0]).max_abs
        for name in variants(problem.operator)
    }


def check_hard_data(problem: Problem) -> None:
    """The sound variants err at most 4 times as much as the two-pass form, the cancelling ones are void.

    Welford's mean takes a rounding at each step, and a CPU takes the steps one by one.
    """
    errors = hard_errors(dataclasses.replace(problem, epsilon=1e-9))
    for name in {"pivoted", "custom_vjp", "two_pass"} & set(errors):
        assert errors[name] <= 4 * errors["naive"], errors
    assert errors["welford"] <= 50 * errors["naive"], errors
    assert errors["one_pass"] > 10 * errors["naive"], errors


def check_empty(problem: Problem, variant: str) -> None:
    """A batch of no images has an output of its shape, and gradients of zero (not so with a mean made elsewhere)."""
    pass_ = "forward" if variant in PEERS else "forward_backward"
    check(dataclasses.replace(problem, shape=(0, *problem.shape[1:]), pass_=pass_), variant)


class NormTests:
    """The tests of one operator; a subclass names its problem, and the layouts in which it meets hard data."""

    problem: Problem
    hard: tuple[Problem, ...] = ()

    def pytest_generate_tests(self, metafunc):
        if "variant" in metafunc.fixturenames:
            metafunc.parametrize("variant", variants(self.problem.operator))

    def test_backward(self, variant):
        check(dataclasses.replace(self.problem, pass_="backward"), variant)

    def test_transforms(self, variant):
        check_transforms(self.problem, variant)

    def test_an_empty_batch(self, variant):
        check_empty(self.problem, variant)

    def test_the_oracle_of_the_gradients_by_differences(self):
        check_baseline_by_differences(self.problem)

    def test_hard_data_costs_the_sound_variants_no_more_than_the_two_pass_form(self):
        for problem in self.hard:
            check_hard_data(problem)
