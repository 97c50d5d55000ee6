"""One fused kernel in Pallas for TPUs: group norm's, with a group for each channel."""

from typing import Any

import jax

from normbench.kernels.batch_norm.arguments import channels_of
from normbench.kernels.group_norm import pallas_tpu as groups


def pallas_tpu(
    x: jax.Array,
    gamma: jax.Array,
    beta: jax.Array,
    epsilon: float = 1e-5,
    *,
    channel_axis: int = 1,
    activation: str = "none",
    output_dtype: str | None = None,
    cotangent: jax.Array | None = None,
) -> Any:
    """As `naive`; `output_dtype` is that of y, x's where it is None. Otherwise as group norm's."""
    x, axis, _ = channels_of(x, channel_axis)
    return groups.pallas_tpu(
        x,
        gamma,
        beta,
        epsilon,
        groups=x.shape[axis],
        channel_axis=channel_axis,
        activation=activation,
        output_dtype=output_dtype,
        cotangent=cotangent,
    )
