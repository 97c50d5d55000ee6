"""One read of x in a single reduction that carries count, mean and squared deviations."""

import jax

from normbench.kernels.group_norm.arguments import checked
from normbench.kernels.group_norm.custom_vjp import by_groups


def welford(
    x: jax.Array,
    gamma: jax.Array,
    beta: jax.Array,
    epsilon: float = 1e-5,
    *,
    groups: int = 32,
    channel_axis: int = 1,
    activation: str = "none",
) -> jax.Array:
    """As `two_pass`, with the statistics of `statistics.welford` and the gradient of `custom_vjp`.

    The mean is one rounded number: the error is that of `naive`, about eps (1 + |mean| / deviation).
    """
    return by_groups(checked(x, gamma, beta, epsilon, groups, channel_axis, activation), activation, "welford")
