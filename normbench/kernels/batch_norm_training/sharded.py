"""The training batch norm of a batch that is divided between devices, written with `jax.shard_map`."""

from functools import partial
from typing import Any

import jax.numpy as jnp
from jax import lax

from normbench.kernels.batch_norm_training.arguments import Outputs, checked
from normbench.kernels.common.merged import Plan, normalize
from normbench.kernels.common.statistics import mean_over
from normbench.kernels.sharding import AXIS, WHOLE, Division


def textbook(division: Division, *arrays: Any, **keywords: Any) -> Outputs:
    """As `naive`: each device adds up its terms, and two all-reduces make the mean, then the variance around it.

    Raises:
      UserError: for arguments that do not fit together, as `naive`.
    """
    a = checked(*arrays, **keywords)
    activation = keywords["activation"]

    def part(x, gamma, beta):
        own = a._replace(x=x, gamma=gamma, beta=beta)
        wide = x.astype(a.dtype)
        mean = lax.pmean(mean_over(wide, a.axes), AXIS)
        variance = lax.pmean(mean_over(jnp.square(wide - mean), a.axes), AXIS)
        return own.affine(wide, (mean, variance), activation), mean, variance

    mapped = division.map(part, (division.x, WHOLE, WHOLE), (division.x, WHOLE, WHOLE))
    return a.updated(*mapped(a.x, a.gamma, a.beta))


def in_one_collective(sums: bool, division: Division, *arrays: Any, **keywords: Any) -> Outputs:
    """One collective forward and one backward: see `normbench.kernels.common.merged`."""
    a = checked(*arrays, **keywords)
    return a.updated(*normalize(a.x, a.gamma, a.beta, Plan(division, a.axes, a.epsilon, sums)))


merged, sums = partial(in_one_collective, False), partial(in_one_collective, True)
