"""`flax.linen.BatchNorm`, with its own defaults."""

import jax
import jax.numpy as jnp

from normbench.kernels.batch_norm_training.arguments import Outputs, checked
from normbench.kernels.common.activations import activate


def flax(
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
    """As `naive`; Flax takes the variance as E[x²] - mean² unless it is told otherwise.

    Flax keeps a running average of the biased variance; at a momentum of 0 that is the batch's own, and the running
    statistics are made of it here as the operator wants them.
    """
    from flax import linen

    a = checked(x, gamma, beta, running_mean, running_variance, epsilon, momentum, channel_axis, activation)
    module = linen.BatchNorm(
        use_running_average=False, axis=channel_axis, momentum=0.0, epsilon=a.epsilon, dtype=a.x.dtype
    )
    zeros = jnp.zeros(a.gamma.shape, a.dtype)
    variables = {"params": {"scale": a.gamma, "bias": a.beta}, "batch_stats": {"mean": zeros, "var": zeros}}
    y, batch = module.apply(variables, a.x, mutable=["batch_stats"])
    return a.updated(activate(y, activation), batch["batch_stats"]["mean"], batch["batch_stats"]["var"])
