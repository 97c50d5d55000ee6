"""ATen's instance normalization."""

import jax
import jax.numpy as jnp
from jax import lax

from kernels.aten import checks
from kernels.aten.batch_norm_functional import check_both_or_neither, updated
from kernels.aten.moments import along_channels, channel_affine, compute_dtype, moments, unbiased, widened


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
    parameters = {"weight": checks.optional(weight), "bias": checks.optional(bias)}
    running = {"running_mean": checks.optional(running_mean), "running_var": checks.optional(running_var)}
    _check(x, parameters, running, use_input_stats)
    dtype = x.dtype if weight is None else parameters["weight"].dtype
    old = tuple(None if v is None else lax.stop_gradient(v).astype(dtype) for v in running.values())
    checks.parameter_dtype(x, **parameters, **dict(zip(running, old, strict=True)))
    wide, w, b = widened(x, *parameters.values(), dtype=compute_dtype(x.dtype))
    if use_input_stats:
        mean, variance = moments(wide, range(2, x.ndim))
        new = _updated(old, mean, variance, momentum, checks.count(x.shape, range(2, x.ndim)))
    else:
        mean, variance = (along_channels(v.astype(wide.dtype), x.ndim) for v in old)
        new = old
    y = channel_affine((wide - mean) * lax.rsqrt(variance + eps), w, b).astype(x.dtype)
    kept = (None if v is None else v.astype(o.dtype) for v, o in zip(new, running.values(), strict=True))
    return y, *kept


def _check(
    x: jax.Array,
    parameters: dict[str, jax.Array | None],
    running: dict[str, jax.Array | None],
    use_input_stats: bool,
) -> None:
    absent = [name for name, value in running.items() if value is None]
    if absent and not use_input_stats:
        raise checks.AtenError(
            "Expected running_mean and running_var to be defined when use_input_stats is false, but got "
            f"{' and '.join(absent)} = None"
        )
    check_both_or_neither(*running.values())
    for name, value in (parameters | running).items():
        checks.require_vector(name, value, x)


def _updated(
    old: tuple[jax.Array | None, ...], mean: jax.Array, variance: jax.Array, momentum: float, spatial: int
) -> tuple[jax.Array | None, ...]:
    if old[0] is None or spatial == 0:
        return old
    n, c = mean.shape[:2]
    batch = (mean.reshape(n, c), unbiased(variance, spatial).reshape(n, c))
    each = (updated(jnp.broadcast_to(o, (n, c)), s, momentum) for o, s in zip(old, batch, strict=True))
    return tuple(jnp.mean(v, 0) for v in each)
