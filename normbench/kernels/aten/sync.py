"""Batch normalization over several devices: ATen's pieces of SyncBatchNorm, and the whole over a mesh axis."""

import jax
import jax.numpy as jnp
from jax import lax

from normbench.kernels.aten import checks
from normbench.kernels.aten.batch_norm_functional import (
    Quintuple,
    around,
    channel_moments,
    check_both_or_neither,
    checked,
    evaluate,
    normalized,
    require_elements,
    saved,
    updated,
)
from normbench.kernels.aten.moments import along_channels, batch_invstd, compute_dtype, reciprocal_root


def batch_norm_stats(input: jax.Array, eps: float) -> tuple[jax.Array, jax.Array]:
    """batch_norm_stats(Tensor input, float eps) -> (Tensor, Tensor)

    Returns the mean and invstd = 1 / sqrt(var + eps), with the biased variance, over all axes but 1 of this device's
    input; both (C,) in float32 (float64 for float64).

    Raises:
      AtenDtypeError: input is not floating. AtenIndexError: rank below 2. AtenError: no elements.
    """
    x = _input("batch_norm_stats", input)
    require_elements(x)
    mean, _, variance = channel_moments(x)
    return mean, reciprocal_root(variance, eps)


def batch_norm_elemt(
    input: jax.Array,
    weight: jax.Array | None,
    bias: jax.Array | None,
    mean: jax.Array,
    invstd: jax.Array,
    eps: float,
) -> jax.Array:
    """batch_norm_elemt(Tensor input, Tensor? weight, Tensor? bias, Tensor mean, Tensor invstd, float eps) -> Tensor

    y = (x - mean) * invstd * weight + bias; shape and dtype of input, vectors (C,). eps has no effect, it is in invstd.

    Raises:
      AtenError: a vector has not C elements; weight and bias of a mixture of dtypes (see `batch_norm`).
      AtenDtypeError: input is not floating. AtenIndexError: rank below 2.
    """
    arguments = checked(input, weight, bias, None, None, training=True)
    dtype, channels = compute_dtype(arguments.input.dtype), arguments.input.shape[1]
    statistics = {"mean": jnp.asarray(mean), "invstd": jnp.asarray(invstd)}
    for name, value in statistics.items():
        checks.require_size(name, value, channels)
    average, root = (value.reshape(channels).astype(dtype) for value in statistics.values())
    return normalized(arguments, around(arguments.input, average), root)


def batch_norm_gather_stats_with_counts(
    input: jax.Array,
    mean: jax.Array,
    invstd: jax.Array,
    running_mean: jax.Array | None,
    running_var: jax.Array | None,
    momentum: float,
    eps: float,
    counts: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """batch_norm_gather_stats_with_counts(Tensor input, Tensor mean, Tensor invstd, Tensor? running_mean,
    Tensor? running_var, float momentum, float eps, Tensor counts) -> (Tensor, Tensor)

    Combines what `batch_norm_stats` returned on each of W devices, mean and invstd of shape (W, C), with the numbers
    of elements for each channel, counts of shape (W,), computed in float32 at least:
      mean = sum(counts * mean) / sum(counts), M2 = sum(counts * (1 / invstd^2 - eps + (mean_w - mean)^2)),
      invstd = 1 / sqrt(M2 / sum(counts) + eps).
    Returns mean and invstd, (C,), in the dtype of mean. input gives C only. The running statistics are not updated: see
    `batch_norm_gather_stats_with_counts_functional`.

    Raises:
      AtenError: shapes other than these; a running statistic without C elements.
      UserError: only one of the running statistics is given.
    """
    return batch_norm_gather_stats_with_counts_functional(
        input, mean, invstd, running_mean, running_var, momentum, eps, counts
    )[:2]


def batch_norm_gather_stats_with_counts_functional(
    input: jax.Array,
    mean: jax.Array,
    invstd: jax.Array,
    running_mean: jax.Array | None,
    running_var: jax.Array | None,
    momentum: float,
    eps: float,
    counts: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array | None, jax.Array | None]:
    """Returns mean, invstd, new running_mean, new running_var: the twin of `batch_norm_gather_stats_with_counts`.

    The new running variance takes the unbiased M2 / (sum(counts) - 1).
    """
    x = _input("batch_norm_gather_stats_with_counts", input)
    check_both_or_neither(running_mean, running_var)
    old_mean = checks.require_size("running_mean", checks.optional(running_mean), x.shape[1])
    old_var = checks.require_size("running_var", checks.optional(running_var), x.shape[1])
    means, spreads, n = (jnp.asarray(v) for v in (mean, invstd, counts))
    _require_gathered(means, spreads, n, x.shape[1])
    # At least float32: in float16 counts are infinite from 65520 on, and squares of 1 / deviation from 256.
    dtype = compute_dtype(means.dtype)
    weights, present = n.astype(dtype)[:, None], n[:, None] > 0
    # A device without elements has no mean and no deviation; whatever stands for them counts for nothing.
    wide, spreads = jnp.where(present, means.astype(dtype), 0), jnp.where(present, spreads.astype(dtype), 1)
    total = jnp.sum(weights)
    near = jnp.sum(weights * wide, 0) / total
    average = near + jnp.sum(weights * (wide - near), 0) / total
    variances = 1 / jnp.square(spreads) - jnp.asarray(eps, dtype)
    m2 = jnp.sum(weights * (variances + jnp.square(wide - average)), 0)
    new_mean, new_var = updated(old_mean, average, momentum), updated(old_var, m2 / (total - 1), momentum)
    return average.astype(means.dtype), reciprocal_root(m2 / total, eps).astype(means.dtype), new_mean, new_var


def sync_batch_norm_functional(
    input: jax.Array,
    weight: jax.Array | None,
    bias: jax.Array | None,
    running_mean: jax.Array | None,
    running_var: jax.Array | None,
    training: bool,
    momentum: float,
    eps: float,
    *,
    axis_name: str | tuple[str, ...],
) -> Quintuple:
    """`native_batch_norm_functional` of an input that is sharded over the mesh axis `axis_name`.

    To be called under `jax.shard_map` (or `jax.vmap` with an axis name), with this device's part of input, which may be
    split along any axis but 1, and with the vectors (C,) whole on each device. The moments are those of the whole
    input, from the devices' counts n, means and M2 = sum((x - mean)^2), which do not cancel:
      mean = psum(n * mean_d) / psum(n), M2 = psum(M2_d + n * (mean_d - mean)^2).
    With the latter, what rounding has left of the mean is summed, too.
    Returns this device's part of y, and save_mean, save_invstd, new running_mean, new running_var, which are the same
    on all devices. Differentiable through the collectives. In evaluation nothing is communicated.
    Errors: as `native_batch_norm`.
    """
    a = checked(input, weight, bias, running_mean, running_var, training)
    if not training:
        return evaluate(a, eps)
    require_elements(a.input)
    local_mean, _, local_variance = channel_moments(a.input)
    total = a.channel_size * lax.axis_size(axis_name)
    near = lax.psum(local_mean * a.channel_size, axis_name) / total
    distance = local_mean - near
    m2, left = lax.psum(
        (a.channel_size * (local_variance + jnp.square(distance)), a.channel_size * distance), axis_name
    )
    offset = lax.stop_gradient(left / total)  # what rounding has left of the mean: see `moments`
    mean, invstd = near + offset, batch_invstd(m2 / total, eps)
    y = normalized(a, around(a.input, near) - along_channels(offset, a.input.ndim), invstd)
    new_mean = updated(a.running_mean, mean, momentum)
    new_var = updated(a.running_var, m2 / jnp.asarray(total - 1, m2.dtype), momentum)
    return y, saved(mean, a.dtype), saved(invstd, a.dtype), new_mean, new_var


def sync_batch_norm(
    input: jax.Array,
    weight: jax.Array | None,
    bias: jax.Array | None,
    running_mean: jax.Array | None,
    running_var: jax.Array | None,
    training: bool,
    momentum: float,
    eps: float,
    *,
    axis_name: str | tuple[str, ...],
) -> jax.Array:
    """`batch_norm` of an input that is sharded over a mesh axis; returns y only. See `sync_batch_norm_functional`."""
    return sync_batch_norm_functional(
        input, weight, bias, running_mean, running_var, training, momentum, eps, axis_name=axis_name
    )[0]


def _input(operator: str, input: jax.Array) -> jax.Array:
    x = checks.floating(operator, "input", input)
    checks.require_rank(operator, x, 2)
    return x


def _require_gathered(mean: jax.Array, invstd: jax.Array, counts: jax.Array, channels: int) -> None:
    if counts.ndim != 1:
        raise checks.AtenError(f"counts has shape {list(counts.shape)}; allowed: (W,), one for each device")
    for name, value in (("mean", mean), ("invstd", invstd)):
        if value.shape != (counts.size, channels):
            raise checks.AtenError(f"{name} has shape {list(value.shape)}; allowed: {[counts.size, channels]}, (W, C)")
