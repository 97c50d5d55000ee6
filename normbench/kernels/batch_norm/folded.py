"""Scale and shift computed from the parameters inside the call: y = act(x * scale + shift)."""

import jax

from normbench.kernels.batch_norm.arguments import checked
from normbench.kernels.batch_norm.prefolded import apply, prepare


def folded(
    x: jax.Array,
    gamma: jax.Array,
    beta: jax.Array,
    mean: jax.Array,
    variance: jax.Array,
    epsilon: float = 1e-5,
    *,
    channel_axis: int = 1,
    activation: str = "none",
) -> jax.Array:
    """y = act(x * scale + shift), scale = gamma / sqrt(variance + epsilon), shift = beta - mean * scale.

    Arguments, output and errors as for `naive`. Where |mean| is large against the standard deviation, x * scale and
    shift nearly cancel: the error grows by about |mean * scale| / |y|.
    """
    a = checked(x, gamma, beta, mean, variance, epsilon, channel_axis, activation)
    scale, shift = prepare(a.gamma, a.beta, a.mean, a.variance, a.epsilon, dtype=a.x.dtype.name)
    return apply(a.x, scale, shift, channel_axis=channel_axis, activation=activation)
