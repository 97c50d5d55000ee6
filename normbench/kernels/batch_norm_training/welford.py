"""One read of x in a single reduction that carries count, mean and squared deviations."""

import jax

from normbench.kernels.batch_norm_training.arguments import Outputs, checked
from normbench.kernels.batch_norm_training.custom_vjp import by_channels


def welford(
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
    """As `naive`, with the statistics of `statistics.welford` and the gradient of `custom_vjp`.

    The mean is one rounded number: the error is that of `naive`, about eps (1 + |mean| / deviation).
    """
    a = checked(x, gamma, beta, running_mean, running_variance, epsilon, momentum, channel_axis, activation)
    return by_channels(a, activation, "welford")
