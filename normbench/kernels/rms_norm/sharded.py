"""RMS norm of rows that are divided between devices, or that lie on one each, written with `jax.shard_map`."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from normbench.kernels.common.checks import compute_dtype
from normbench.kernels.common.statistics import inverse_root, mean_over
from normbench.kernels.rms_norm.arguments import checked
from normbench.kernels.rms_norm.naive import naive, scaled
from normbench.kernels.sharding import AXIS, Division


def textbook(division: Division, *arrays: Any, **keywords: Any) -> jax.Array:
    """As `naive`: of divided rows an all-reduce makes the mean square; whole rows need none.

    Raises:
      UserError: for arguments that do not fit together, as `naive`.
    """
    a = checked(*arrays, **keywords)

    def part(x, gamma):
        if division.what != "hidden":
            return naive(x, gamma, **keywords)
        wide = x.astype(compute_dtype(x, gamma))
        r = inverse_root(lax.pmean(mean_over(jnp.square(wide), a.axes), AXIS), a.epsilon)
        return scaled(wide * r, a._replace(x=x, gamma=gamma), "none")

    return division.map(part, (division.x, division.parameters), division.x)(a.x, a.gamma)
