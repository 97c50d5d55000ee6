"""One read of x, like `one_pass`, of x - p with p the running mean: no cancellation where p is near the mean."""

import jax

from normbench.kernels.batch_norm_training.arguments import Outputs, checked
from normbench.kernels.common.statistics import one_pass


def pivoted(
    x: jax.Array,
    gamma: jax.Array,
    beta: jax.Array,
    running_mean: jax.Array,
    running_variance: jax.Array,
    epsilon: float = 1e-5,
    *,
    momentum: float = 0.1,
    channel_axis: int = 1,
    activation: str = "none",
) -> Outputs:
    """As `naive`, with d = E[x - p], variance = E[(x - p)²] - d² and y made of (x - p) - d.

    The error grows with ((p - mean) / deviation)²: about one in training that is on its way, that of `one_pass` at the
    first step, where the running mean is still 0. The pivot is a constant to the gradient; y does not depend on it.
    """
    a = checked(x, gamma, beta, running_mean, running_variance, epsilon, momentum, channel_axis, activation)
    shifted = a.x.astype(a.dtype) - a.pivot
    offset, variance = one_pass(shifted, a.axes)
    return a.updated(a.affine(shifted, (offset, variance), activation), a.pivot + offset, variance)
