"""ATen's instance normalization."""

import jax
import jax.numpy as jnp
from jax import lax

from normbench.kernels.aten import checks
from normbench.kernels.aten.batch_norm_functional import check_both_or_neither, updated
from normbench.kernels.aten.moments import (
    along_channels,
    batch_invstd,
    channel_affine,
    compute_dtype,
    moments,
    reciprocal_root,
    unbiased,
    widen,
)


def instance_norm(
    input: jax.Array,
    weight: jax.Array | None,
    bias: jax.Array | None,
    running_mean: jax.Array | None,
    running_var: jax.Array | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> jax.Array:
    """instance_norm(Tensor input, Tensor? weight, Tensor? bias, Tensor? running_mean, Tensor? running_var,
    bool use_input_stats, float momentum, float eps, bool cudnn_enabled) -> Tensor

    y = (x - mean) / sqrt(var + eps) * weight + bias for input (N, C, ...), with mean and biased variance over the axes
    from 2 on, for each instance and channel; with use_input_stats=False the running ones, which are constants for
    differentiation. All vectors are (C,). Shape and dtype of input; computed in float32 (float64 for float64).
    cudnn_enabled has no effect. The running statistics are not updated: see `instance_norm_functional`.

    Raises:
      AtenError: a vector is not (C,); use_input_stats=False without both running statistics; weight and bias of a
        mixture of dtypes (all input's, or float32 beside a half-precision input).
      UserError: only one of the running statistics is given (PyTorch raises ValueError).
      AtenDtypeError: input is not floating. AtenIndexError: input has fewer than 2 dimensions.
    """
    return instance_norm_functional(
        input, weight, bias, running_mean, running_var, use_input_stats, momentum, eps, cudnn_enabled
    )[0]


def instance_norm_functional(
    input: jax.Array,
    weight: jax.Array | None,
    bias: jax.Array | None,
    running_mean: jax.Array | None,
    running_var: jax.Array | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> tuple[jax.Array, jax.Array | None, jax.Array | None]:
    """Returns y, new running_mean, new running_var: the pure twin of `instance_norm`.

    new = (1 - momentum) * old + momentum * s, where s is the average over the instances of their means, and of their
    *unbiased* variances. They have the dtype of the old ones, are None where these are absent and the old ones with
    use_input_stats=False. Running statistics of any floating dtype are rounded to the dtype of weight first (input's
    without a weight).
    """
    x = checks.floating("instance_norm", "input", input)
    checks.require_rank("instance_norm", x, 2)
    gamma, beta = checks.optional(weight), checks.optional(bias)
    old_mean, old_var = checks.optional(running_mean), checks.optional(running_var)
    _check(x, {"weight": gamma, "bias": beta, "running_mean": old_mean, "running_var": old_var}, use_input_stats)
    dtype = x.dtype if gamma is None else gamma.dtype
    rounded_mean, rounded_var = _rounded(old_mean, dtype), _rounded(old_var, dtype)
    checks.parameter_dtype(x, weight=gamma, bias=beta, running_mean=rounded_mean, running_var=rounded_var)
    wide, spatial = compute_dtype(x.dtype), checks.count(x.shape, range(2, x.ndim))
    if use_input_stats:
        mean, centred, variance = moments(widen(x, wide), range(2, x.ndim))
        invstd = batch_invstd(variance, eps)
    else:
        mean, variance = (along_channels(jnp.asarray(v, wide), x.ndim) for v in (rounded_mean, rounded_var))
        centred, invstd = widen(x, wide) - mean, reciprocal_root(variance, eps)
    y = channel_affine(centred * invstd, widen(gamma, wide), widen(beta, wide)).astype(x.dtype)
    if not use_input_stats or spatial == 0 or old_mean is None or old_var is None:
        return y, old_mean, old_var
    new_mean = _averaged(rounded_mean, mean, momentum).astype(old_mean.dtype)
    new_var = _averaged(rounded_var, unbiased(variance, spatial), momentum).astype(old_var.dtype)
    return y, new_mean, new_var


def _check(x: jax.Array, vectors: dict[str, jax.Array | None], use_input_stats: bool) -> None:
    absent = [name for name in ("running_mean", "running_var") if vectors[name] is None]
    if absent and not use_input_stats:
        raise checks.AtenError(
            "Expected running_mean and running_var to be defined when use_input_stats is false, but got "
            f"{' and '.join(absent)} = None"
        )
    check_both_or_neither(vectors["running_mean"], vectors["running_var"])
    for name, value in vectors.items():
        checks.require_vector(name, value, x, x.shape[1])


def _rounded(statistic: jax.Array | None, dtype: jnp.dtype) -> jax.Array | None:
    return None if statistic is None else lax.stop_gradient(statistic).astype(dtype)


def _averaged(old: jax.Array | None, new: jax.Array, momentum: float) -> jax.Array:
    """The average over the instances of the statistic that each of them would have updated."""
    instances = new.shape[:2]
    each = updated(jnp.broadcast_to(jnp.asarray(old), instances), new.reshape(instances), momentum)
    return jnp.mean(jnp.asarray(each), 0)
