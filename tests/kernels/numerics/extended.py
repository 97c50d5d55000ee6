"""Norms of groups of terms, and their gradients, in extended precision; and data of every kind that is hard on them.

Every norm is one of groups: rows (layer norm), channels (batch norm), channels of an image (group and instance norm). A
`Layout` says which terms of x make up a group; the formulas then are those of a matrix of groups and terms.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from normbench.kernels.problem import Problem

Wide = np.longdouble


@dataclass(frozen=True)
class Layout:
    """A problem, and x of its shape as (groups, terms) and back; `kept` are the axes that gamma lies along."""

    problem: Problem
    groups: Callable[[np.ndarray], np.ndarray]
    back: Callable[[np.ndarray], np.ndarray]
    kept: tuple[int, ...]

    @property
    def terms(self) -> int:
        return self.groups(np.empty(self.problem.shape)).shape[1]

    @property
    def count(self) -> int:
        return self.groups(np.empty(self.problem.shape)).shape[0]

    def along(self, parameter: np.ndarray) -> np.ndarray:
        shape = self.problem.shape
        return parameter.reshape([size if axis in self.kept else 1 for axis, size in enumerate(shape)])

    def total(self, values: np.ndarray) -> np.ndarray:
        return values.sum(tuple(axis for axis in range(values.ndim) if axis not in self.kept))


def layout_of(operator: str, groups: int, terms: int) -> Layout:
    """A problem of so many groups and terms; channels first where the operator has channels."""
    if operator in ("layer_norm", "rms_norm"):
        return Layout(Problem(operator, (groups, terms), "nc"), lambda x: x, lambda x: x, (1,))
    if operator == "batch_norm_training":
        images = 2 if terms % 2 == 0 else 1
        shape = images, groups, terms // images
        return Layout(
            Problem(operator, shape, "ncl"),
            lambda x: x.transpose(1, 0, 2).reshape(groups, terms),
            lambda x: x.reshape(groups, images, terms // images).transpose(1, 0, 2),
            (1,),
        )
    images = 2 if groups % 2 == 0 else 1
    each = 2 if operator == "group_norm" and terms % 2 == 0 else 1
    shape = images, groups // images * each, terms // each
    options = (("groups", groups // images),) if operator == "group_norm" else ()
    return Layout(
        Problem(operator, shape, "ncl", options=options),
        lambda x: x.reshape(groups, terms),
        lambda x: x.reshape(shape),
        (1,),
    )


@dataclass(frozen=True)
class Exact:
    """What is right, and what its rounding errors are measured by: by group, (groups, 1).

    `mean_ratio` is |mean| / deviation, `first_ratio` |p - mean| / deviation of the group's first term p, with epsilon
    in the deviation; `largest` the largest |h|.
    """

    y: np.ndarray
    gradients: tuple[np.ndarray, ...]
    h: np.ndarray
    r: np.ndarray
    mean: np.ndarray
    mean_ratio: np.ndarray
    first_ratio: np.ndarray
    largest: np.ndarray


def exact(layout: Layout, x, gamma, beta, dy, epsilon: float, centred: bool = True) -> Exact:
    """y and (dx, dgamma, dbeta), from the textbook's equations."""
    x, gamma, beta, dy = (np.asarray(array).astype(Wide) for array in (x, gamma, beta, dy))
    by_group = layout.groups(x)
    with np.errstate(all="ignore"):
        mean = by_group.mean(1, keepdims=True) if centred else np.zeros((len(by_group), 1), Wide)
        around = by_group - mean
        around = around - around.mean(1, keepdims=True) if centred else around
        r = 1 / np.sqrt(np.square(around).mean(1, keepdims=True) + Wide(epsilon))
        h = around * r
        g = layout.groups(dy * layout.along(gamma))
        average = g.mean(1, keepdims=True) if centred else 0
        dx = layout.back(r * (g - average - h * (g * h).mean(1, keepdims=True)))
        whole = layout.back(h)
        y = whole * layout.along(gamma) + layout.along(beta)
        gradients = dx, layout.total(dy * whole), layout.total(dy)
        return Exact(
            y, gradients, h, r, mean, np.abs(mean) * r, np.abs(by_group[:, :1] - mean) * r, np.abs(h).max(1)[:, None]
        )


KINDS = ("ordinary", "constant", "far", "tiny", "huge", "subnormal", "outlier", "inf", "nan", "zero")


def narrow_group_of(kind: str, terms: int, rng: np.random.Generator) -> np.ndarray:
    """What `group_of` draws, within what float16 holds: 6e-8 to 65504."""
    values = rng.normal(size=terms)
    if kind == "constant":
        return np.full(terms, rng.choice([20.0, 40000.0, 0.1, -6e4, rng.normal()]))
    if kind == "far":
        return rng.choice([2000.0, -3e4]) + 30 * values
    if kind in ("tiny", "subnormal"):
        return values * (10.0 ** rng.uniform(-4, -2) if kind == "tiny" else 1e-6)
    return values * 10.0 ** rng.uniform(2, 4) if kind == "huge" else group_of(kind, terms, rng)


def wide_group_of(kind: str, terms: int, rng: np.random.Generator) -> np.ndarray:
    """The same in the range of float64: 5e-324 to 1.8e308."""
    sizes = {"tiny": 10.0 ** rng.uniform(-150, -20), "huge": 10.0 ** rng.uniform(40, 145), "subnormal": 1e-309}
    return rng.normal(size=terms) * sizes[kind] if kind in sizes else group_of(kind, terms, rng)


def group_of(kind: str, terms: int, rng: np.random.Generator) -> np.ndarray:
    """The terms of one group, in float64, within what float32 and bfloat16 hold."""
    values = rng.normal(size=terms)
    if kind == "constant":
        return np.full(terms, rng.choice([20.0, 40000.0, 0.1, -7e7, 1e18 / 3, rng.normal()]))
    if kind == "far":  # a large mean with a small deviation
        return rng.choice([2000.0, -3e5]) + values
    if kind == "tiny":
        return values * 10.0 ** rng.uniform(-15, -8)
    if kind == "huge":  # within 1.8e19 / sqrt(terms)
        return values * 10.0 ** rng.uniform(10, 17) / np.sqrt(terms)
    if kind == "subnormal":
        return values * 1e-39
    if kind == "outlier":
        return np.where(np.arange(terms) == rng.integers(terms), 1e4, values)
    if kind in ("inf", "nan"):
        value = np.nan if kind == "nan" else rng.choice([np.inf, -np.inf])
        return np.where(np.arange(terms) == rng.integers(terms), value, values)
    return np.zeros(terms) if kind == "zero" else values


DRAWS = {"float16": narrow_group_of, "float64": wide_group_of}


@st.composite
def data(draw, layout: Layout, dtype: str = "float32"):
    """(x, gamma, beta, dy): each group of x of its own kind; gamma with zeros and negative values."""
    kinds = draw(st.lists(st.sampled_from(KINDS), min_size=layout.count, max_size=layout.count))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    draw_group = DRAWS.get(dtype, group_of)
    x = layout.back(np.stack([draw_group(kind, layout.terms, rng) for kind in kinds]))
    (size,) = (layout.problem.shape[axis] for axis in layout.kept)
    gamma = np.where(rng.uniform(size=size) < 0.2, 0.0, rng.normal(size=size) * draw(st.sampled_from((1.0, 100.0))))
    beta, dy = rng.normal(size=size), rng.normal(size=layout.problem.shape)
    return tuple(array.astype(jnp.dtype(dtype)) for array in (x, gamma, beta, dy))
