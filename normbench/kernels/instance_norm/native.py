"""A kernel in C++ for the CPU: group norm's, with a group for each channel."""

import jax

from normbench.kernels import group_norm
from normbench.kernels.batch_norm.arguments import channels_of


def native(
    x: jax.Array,
    gamma: jax.Array,
    beta: jax.Array,
    epsilon: float = 1e-5,
    *,
    channel_axis: int = 1,
    activation: str = "none",
    output_dtype: str | None = None,
) -> jax.Array:
    """As `naive`; `output_dtype` is that of y, x's where it is None. Otherwise as group norm's."""
    x, axis, _ = channels_of(x, channel_axis)
    return group_norm.native(
        x,
        gamma,
        beta,
        epsilon,
        groups=x.shape[axis],
        channel_axis=channel_axis,
        activation=activation,
        output_dtype=output_dtype,
    )
