"""The textbook formula: the mean first, then the variance around it."""

import jax

from normbench.kernels.batch_norm_training.arguments import Outputs, checked
from normbench.kernels.common.statistics import two_pass


def naive(
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
    """y = act((x - mean) / sqrt(variance + epsilon) * gamma + beta), with the statistics of the batch.

    The mean is one rounded number, and x - mean keeps what that leaves: the error of the normalized values is about eps
    (1 + |mean| / deviation), with epsilon in the deviation, and constants do not become 0. docs/numerics.md has the
    bounds of all variants.

    Args:
      x: (C,) is no batch; (N, C), (N, C, ...) or (N, ..., C).
      gamma, beta, running_mean, running_variance: (C,).
      epsilon: added to the variance; a Python number.
      momentum: weight of the batch in the new running statistics.
      channel_axis: 1 or -1.
      activation: "none", "relu", "silu" or "gelu".

    Returns:
      y in the shape and dtype of x, and the new running statistics, (1 - momentum) running + momentum batch, in their
      own dtype; the batch's variance is biased (divided by n) in y, and unbiased (n - 1) in the running variance.
      Computed in float32, or in float64 where an input is. The new running statistics have no gradient. An empty batch
      leaves the running statistics as they are.

    Raises:
      UserError: for arguments that do not fit together.

    Source: Ioffe and Szegedy (2015), Batch Normalization, algorithm 1; torch.nn.functional.batch_norm.
    """
    a = checked(x, gamma, beta, running_mean, running_variance, epsilon, momentum, channel_axis, activation)
    wide = a.x.astype(a.dtype)
    statistics = two_pass(wide, a.axes)
    return a.updated(a.affine(wide, statistics, activation), *statistics)
