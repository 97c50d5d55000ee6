"""Every variant of every operator holds what it declares in every dtype, forward and backward, on data of every kind.

The ordinary suite has every variant in float32 (`test_properties`) and in one more dtype, which goes round; `make
torture` has all.
"""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from normbench import kernels
from normbench.errors import UserError
from tests.kernels.numerics.extended import data, layout_of
from tests.kernels.numerics.test_properties import EPSILONS, EVERY, hold

GROUPS, TERMS = 4, 16
OTHERS = ("bfloat16", "float16", "float64")


@pytest.mark.parametrize(
    ("variant", "dtypes"), [("pallas_mosaic", "float32, bfloat16, float16"), ("pallas_tpu", "float32, bfloat16")]
)
def test_mosaic_says_that_it_has_no_float64(variant, dtypes):
    x, vector = jnp.ones((4, 16)), jnp.ones(16)
    assert x.dtype == "float64"
    with pytest.raises(UserError, match=f"float64; allowed for {variant}: {dtypes}$"):
        kernels.get("layer_norm", variant)(x, vector, vector)


def holds_in(operator, variant, dtype, examples):
    @settings(max_examples=examples, deadline=None, derandomize=True, database=None)
    @given(data(layout_of(operator, GROUPS, TERMS), dtype), st.sampled_from((0.0, 3.0, 2000.0, np.nan, np.inf)))
    def holds(inputs, running_mean):
        hold(operator, GROUPS, TERMS, variant, EPSILONS.get(dtype, 1e-5), inputs, running_mean)

    holds()


def in_turn(pairs):
    """Each pair with one of the dtypes that the variant takes."""
    for place, (operator, variant) in enumerate(pairs):
        taken = others(variant)
        yield operator, variant, taken[place % len(taken)]


def others(variant):
    return {"pallas_mosaic": OTHERS[:2], "pallas_tpu": OTHERS[:1]}.get(variant, OTHERS)


@pytest.mark.parametrize(("operator", "variant", "dtype"), list(in_turn(EVERY)))
def test_one_more_dtype(operator, variant, dtype):
    holds_in(operator, variant, dtype, 2 if "mosaic" in variant else 6)


@pytest.mark.torture
@pytest.mark.parametrize(("operator", "variant", "dtype"), [(*pair, d) for pair in EVERY for d in others(pair[1])])
def test_every_dtype(operator, variant, dtype):
    holds_in(operator, variant, dtype, 3 if "mosaic" in variant else 20)
