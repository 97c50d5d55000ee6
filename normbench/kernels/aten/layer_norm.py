"""ATen's layer normalization, forward and backward."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from normbench.kernels.aten import checks
from normbench.kernels.aten.moments import affine, compute_dtype, moments, reciprocal_root, widen

Gradients = tuple[jax.Array | None, ...]


def layer_norm(
    input: jax.Array,
    normalized_shape: Sequence[int],
    weight: jax.Array | None = None,
    bias: jax.Array | None = None,
    eps: float = 1e-05,
    cudnn_enable: bool = True,
) -> jax.Array:
    """layer_norm(Tensor input, SymInt[] normalized_shape, Tensor? weight=None, Tensor? bias=None, float eps=1e-05,
    bool cudnn_enable=True) -> Tensor

    y = (x - mean) / sqrt(var + eps) * weight + bias, with mean and biased variance over the last axes, those of
    normalized_shape; weight and bias have that shape. Shape and dtype of input; computed in float32 (float64 for
    float64). cudnn_enable has no effect. Errors: see `native_layer_norm`.
    """
    return native_layer_norm(input, normalized_shape, weight, bias, eps)[0]


def native_layer_norm(
    input: jax.Array,
    normalized_shape: Sequence[int],
    weight: jax.Array | None,
    bias: jax.Array | None,
    eps: float,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """native_layer_norm(Tensor input, SymInt[] normalized_shape, Tensor? weight, Tensor? bias, float eps)
    -> (Tensor, Tensor, Tensor)

    Returns y as `layer_norm`, mean and rstd = 1 / sqrt(var + eps). mean and rstd keep the normalized axes with size 1;
    they have the dtype of weight and bias (input's without either) and are not differentiable.

    Raises:
      AtenError: normalized_shape is empty or is not the end of input's shape; weight or bias is not of that shape; a
        mixture of dtypes (all the same, or float32 parameters beside a half-precision input).
      AtenDtypeError: input is not floating.
    """
    x = checks.floating("native_layer_norm", "input", input)
    gamma, beta = checks.optional(weight), checks.optional(bias)
    axes = checks.check_normalized_shape(x, normalized_shape, weight=gamma, bias=beta)
    dtype = checks.parameter_dtype(x, weight=gamma, bias=beta)
    computed = compute_dtype(x.dtype)
    wide = widen(x, computed)
    mean, centred, variance = moments(wide, axes, at_hand=True)
    rstd = reciprocal_root(variance, eps)
    y = affine(centred * rstd, widen(gamma, computed), widen(beta, computed)).astype(x.dtype)
    return y, lax.stop_gradient(mean.astype(dtype)), lax.stop_gradient(rstd.astype(dtype))


def native_layer_norm_backward(
    grad_out: jax.Array,
    input: jax.Array,
    normalized_shape: Sequence[int],
    mean: jax.Array,
    rstd: jax.Array,
    weight: jax.Array | None,
    bias: jax.Array | None,
    output_mask: Sequence[bool],
) -> Gradients:
    """native_layer_norm_backward(Tensor grad_out, Tensor input, SymInt[] normalized_shape, Tensor mean, Tensor rstd,
    Tensor? weight, Tensor? bias, bool[3] output_mask) -> (Tensor, Tensor, Tensor)

    With x_hat = (x - mean) * rstd and g = grad_out * weight:
      grad_input = rstd * (g - mean(g) - x_hat * mean(g * x_hat)), means over the normalized axes;
      grad_weight = sum(grad_out * x_hat), grad_bias = sum(grad_out), over the other axes.
    Returns them in the dtypes of input, weight and bias; None where output_mask is False.

    Raises:
      AtenError: as `native_layer_norm`; also where grad_out has not input's shape and dtype, mean or rstd has not one
        element for each row or not the parameters' dtype, or output_mask asks for the gradient of what is None.
      AtenDtypeError: input is not floating.
    """
    x = checks.floating("native_layer_norm_backward", "input", input)
    dy, m, r = (jnp.asarray(v) for v in (grad_out, mean, rstd))
    gamma, beta = checks.optional(weight), checks.optional(bias)
    axes = checks.check_normalized_shape(x, normalized_shape, weight=gamma, bias=beta)
    mask = checks.check_output_mask(output_mask, 3, weight=gamma, bias=beta)
    checks.require_same_dtype("grad_out", dy, x)
    checks.require_same_shape("grad_out", dy, "input", x)
    dtype = checks.parameter_dtype(x, weight=gamma, bias=beta, mean=m, rstd=r)
    wide = compute_dtype(x.dtype)
    m, r = (rows_like(name, v, x, axes).astype(wide) for name, v in (("mean", m), ("rstd", r)))
    gradients = _gradients(widen(dy, wide), widen(x, wide), widen(gamma, wide), m, r, axes)
    dtypes = (x.dtype, dtype, dtype)
    return tuple(g.astype(d) if wanted else None for g, d, wanted in zip(gradients, dtypes, mask, strict=True))


def rows_like(name: str, value: jax.Array, input: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """Reshapes a row statistic so that it broadcasts with input; AtenError where it has not one element per row."""
    shape = tuple(1 if axis in axes else size for axis, size in enumerate(input.shape))
    if value.size != checks.count(shape, range(len(shape))):
        raise checks.AtenError(f"{name} has shape {list(value.shape)}; allowed: {list(shape)}, one for each row")
    return value.reshape(shape)


def _gradients(
    dy: jax.Array, x: jax.Array, weight: jax.Array | None, mean: jax.Array, rstd: jax.Array, axes: tuple[int, ...]
) -> tuple[jax.Array, jax.Array, jax.Array]:
    outer = tuple(range(axes[0]))
    x_hat = (x - mean) * rstd
    g = dy if weight is None else dy * weight
    average = jnp.mean(g, axes, keepdims=True) + x_hat * jnp.mean(g * x_hat, axes, keepdims=True)
    return rstd * (g - average), jnp.sum(dy * x_hat, outer), jnp.sum(dy, outer)
