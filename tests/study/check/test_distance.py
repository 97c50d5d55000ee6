"""What a result may differ by: a correct rounding is right, also to infinity, and what is not is found."""

import jax.numpy as jnp
import numpy as np

from normbench.study.check.distance import compare


def test_what_the_dtype_cannot_hold_is_infinite_and_nothing_else():
    exact = np.array([1e6, -2e6, 1.0])
    assert compare((jnp.asarray(exact, jnp.float16),), (exact,)).ok
    assert not compare((jnp.asarray([65504.0, -jnp.inf, 1.0], jnp.float16),), (exact,)).ok
    assert not compare((jnp.asarray([jnp.inf, -jnp.inf, jnp.inf], jnp.float16),), (exact,)).ok
    assert not compare((jnp.asarray([jnp.inf, jnp.inf, 1.0], jnp.float16),), (exact,)).ok


def test_a_correctly_rounded_result_is_right_whatever_its_roundings_add_up_to():
    exact = np.full(100_000, 1.0 + 2.0**-9)  # all are rounded the same way in bfloat16
    assert compare((jnp.asarray(exact, jnp.bfloat16),), (exact,)).ok
    assert not compare((jnp.asarray(exact * 1.05, jnp.bfloat16),), (exact,)).ok
