"""What hypothesis draws: shapes, dtypes with valid and invalid mixtures, optional parameters, data."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from hypothesis import Phase, settings
from hypothesis import strategies as st

few = settings(max_examples=10, deadline=None, phases=(Phase.explicit, Phase.generate))
"""Each example compiles a program, so there are few of them, and a failure is not shrunk."""

DTYPES = ("float32", "float64", "bfloat16", "float16")
EPSILONS = st.sampled_from((1e-5, 1e-3, 0.1))
SEEDS = st.integers(0, 2**16)


@dataclass(frozen=True)
class Dtypes:
    """Of input, of its parameters, of running statistics."""

    x: str
    parameters: str
    statistics: str


@st.composite
def dtypes(draw) -> Dtypes:
    """Mostly what PyTorch allows (all the same, or float32 beside half precision), sometimes anything."""
    x = draw(st.sampled_from(DTYPES))
    if draw(st.integers(0, 4)) == 0:
        return Dtypes(x, draw(st.sampled_from(DTYPES)), draw(st.sampled_from(DTYPES)))
    parameters = draw(st.sampled_from((x, "float32"))) if x in ("bfloat16", "float16") else x
    return Dtypes(x, parameters, parameters)


@st.composite
def channel_shapes(draw) -> tuple[int, ...]:
    """(N, C, ...) of rank 2 to 5 with at least 2 elements for each channel."""
    rank = draw(st.integers(2, 5))
    spatial = [draw(st.integers(1, 9)) for _ in range(rank - 2)]
    return (draw(st.integers(2, 5)), draw(st.integers(1, 7)), *spatial)


def masks(length: int):
    """An output mask: everything half of the time."""
    return st.one_of(st.just([True] * length), st.lists(st.booleans(), min_size=length, max_size=length))


class Data:
    """Arrays of one seed, each a new draw."""

    def __init__(self, seed: int):
        self.generator = np.random.default_rng(seed)

    def normal(self, shape, dtype: str, spread: float = 1.0, offset: float = 0.0) -> np.ndarray:
        return (self.generator.normal(size=shape) * spread + offset).astype(jnp.dtype(dtype))

    def positive(self, shape, dtype: str) -> np.ndarray:
        return self.generator.uniform(0.5, 2.0, shape).astype(jnp.dtype(dtype))


def wide(array: np.ndarray) -> np.ndarray:
    return np.asarray(array, np.float64)


def largest(array: np.ndarray | None) -> float:
    """The largest magnitude; 1 for an absent weight."""
    return 1.0 if array is None else float(np.max(np.abs(wide(array)), initial=0.0))
