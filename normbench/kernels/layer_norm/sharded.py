"""Layer norm of rows that are divided between devices, or that lie on one each, written with `jax.shard_map`."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from normbench.kernels.common.checks import compute_dtype
from normbench.kernels.common.merged import Plan, normalize
from normbench.kernels.common.statistics import mean_over
from normbench.kernels.layer_norm.arguments import checked
from normbench.kernels.layer_norm.naive import affine, naive
from normbench.kernels.sharding import AXIS, Division


def textbook(division: Division, *arrays: Any, **keywords: Any) -> jax.Array:
    """As `naive`: of divided rows two all-reduces make the mean, then the variance around it; whole rows need none.

    Raises:
      UserError: for arguments that do not fit together, as `naive`.
    """
    a = checked(*arrays, **keywords)

    def part(x, gamma, beta):
        if division.what != "hidden":
            return naive(x, gamma, beta, **keywords)
        own, wide = a._replace(x=x, gamma=gamma, beta=beta), x.astype(compute_dtype(x, gamma, beta))
        mean = lax.pmean(mean_over(wide, a.axes), AXIS)
        variance = lax.pmean(mean_over(jnp.square(wide - mean), a.axes), AXIS)
        return affine(own, wide, (mean, variance), keywords["activation"])

    arguments = (division.x, division.parameters, division.parameters)
    return division.map(part, arguments, division.x)(a.x, a.gamma, a.beta)


def in_one_collective(sums: bool, division: Division, *arrays: Any, **keywords: Any) -> jax.Array:
    """One collective forward and one backward: see `normbench.kernels.common.merged`."""
    a = checked(*arrays, **keywords)
    return normalize(a.x, a.gamma, a.beta, Plan(division, (a.x.ndim - 1,), a.epsilon, sums))[0]


merged, sums = partial(in_one_collective, False), partial(in_one_collective, True)
