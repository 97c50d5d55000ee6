"""ATen's backward of batch normalization."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from normbench.kernels.aten import checks
from normbench.kernels.aten.moments import along_channels, channel_axes, compute_dtype, reciprocal_root, widen

Gradients = tuple[jax.Array | None, ...]


def native_batch_norm_backward(
    grad_out: jax.Array,
    input: jax.Array,
    weight: jax.Array | None,
    running_mean: jax.Array | None,
    running_var: jax.Array | None,
    save_mean: jax.Array | None,
    save_invstd: jax.Array | None,
    train: bool,
    eps: float,
    output_mask: Sequence[bool],
) -> Gradients:
    """native_batch_norm_backward(Tensor grad_out, Tensor input, Tensor? weight, Tensor? running_mean,
    Tensor? running_var, Tensor? save_mean, Tensor? save_invstd, bool train, float eps, bool[3] output_mask)
    -> (Tensor, Tensor, Tensor)

    With x_hat = (x - mean) * invstd, of the saved statistics in training and of the running ones in evaluation:
      grad_bias = sum(grad_out), grad_weight = sum(grad_out * x_hat), over all axes but 1;
      grad_input = weight * invstd * (grad_out - (grad_bias + x_hat * grad_weight) / n) in training,
      grad_input = weight * invstd * grad_out in evaluation.
    Returns grad_input (shape and dtype of input), grad_weight and grad_bias ((C,), dtype of the parameters and saved
    statistics, also where weight is None); None where output_mask is False.

    Raises:
      AtenError: a statistic that is needed is None; an argument has not C elements; grad_out has not input's shape and
        dtype; a mixture of dtypes (see `batch_norm`). AtenDtypeError, AtenIndexError: as `batch_norm`.
    """
    x = checks.floating("batch_norm_backward", "input", input)
    checks.require_rank("batch_norm_backward", x, 2)
    mask = checks.check_output_mask(output_mask, 3)
    dy = jnp.asarray(grad_out)
    checks.require_same_dtype("grad_out", dy, x)
    checks.require_same_shape("grad_out", dy, "input", x)
    used = {"save_mean": save_mean, "save_invstd": save_invstd}
    used = used if train else {"running_mean": running_mean, "running_var": running_var}
    for name, value in used.items():
        if value is None:
            raise checks.AtenError(f"{name} must be defined in {'training' if train else 'evaluation'} mode")
    named = {"weight": weight, **used}
    vectors = {name: checks.require_size(name, checks.optional(v), x.shape[1]) for name, v in named.items()}
    dtype = checks.parameter_dtype(x, **vectors)
    wide = compute_dtype(x.dtype)
    mean, spread = (jnp.asarray(vectors[name], wide) for name in used)
    invstd = spread if train else reciprocal_root(spread, eps)
    gradients = _gradients(widen(dy, wide), widen(x, wide), widen(vectors["weight"], wide), mean, invstd, train)
    dtypes = (x.dtype, dtype, dtype)
    return tuple(g.astype(d) if wanted else None for g, d, wanted in zip(gradients, dtypes, mask, strict=True))


def _gradients(
    dy: jax.Array, x: jax.Array, weight: jax.Array | None, mean: jax.Array, invstd: jax.Array, train: bool
) -> tuple[jax.Array, jax.Array, jax.Array]:
    axes, rank = channel_axes(x.ndim), x.ndim
    scale = along_channels(invstd, rank)
    x_hat = (x - along_channels(mean, rank)) * scale
    grad_bias = jnp.sum(dy, axes, keepdims=True)
    grad_weight = jnp.sum(dy * x_hat, axes, keepdims=True)
    centred = dy - (grad_bias + x_hat * grad_weight) / max(checks.count(x.shape, axes), 1) if train else dy
    grad_input = centred * (scale if weight is None else scale * along_channels(weight, rank))
    return grad_input, grad_weight.reshape(-1), grad_bias.reshape(-1)
