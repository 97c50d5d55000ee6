"""ATen's root-mean-square normalization, forward and backward."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from normbench.kernels.aten import checks
from normbench.kernels.aten.layer_norm import rows_like
from normbench.kernels.aten.moments import compute_dtype, reciprocal_root


def rms_norm(
    input: jax.Array,
    normalized_shape: Sequence[int],
    weight: jax.Array | None = None,
    eps: float | None = None,
) -> jax.Array:
    """rms_norm(Tensor input, SymInt[] normalized_shape, Tensor? weight=None, float? eps=None) -> Tensor

    y = x / sqrt(mean(x^2) + eps) * weight, with the mean over the last axes, those of normalized_shape; weight has
    that shape. Shape and dtype of input; computed in float32 (float64 for float64), times weight before the one cast
    to input's dtype. weight may have any dtype. eps=None is the machine epsilon of the dtype of the *computation*,
    1.19e-7 also for half-precision inputs.

    Raises:
      AtenError: normalized_shape is empty or is not the end of input's shape; weight is not of that shape.
      AtenDtypeError: input is not floating (PyTorch also takes complex input).
    """
    return _fused_rms_norm(input, normalized_shape, weight, eps)[0]


def _fused_rms_norm(
    input: jax.Array, normalized_shape: Sequence[int], weight: jax.Array | None, eps: float | None
) -> tuple[jax.Array, jax.Array]:
    """_fused_rms_norm(Tensor input, int[] normalized_shape, Tensor? weight, float? eps) -> (Tensor, Tensor)

    Returns y as `rms_norm` and rstd = 1 / sqrt(mean(x^2) + eps), which keeps the normalized axes with size 1, in
    float32 (float64 for float64). Errors: as `rms_norm`; PyTorch's composite on CPU does not check the shapes.
    """
    x = checks.floating("rms_norm", "input", input)
    gamma = checks.optional(weight)
    axes = checks.check_normalized_shape(x, normalized_shape, weight=gamma)
    wide = x.astype(compute_dtype(x.dtype))
    epsilon = float(jnp.finfo(wide.dtype).eps) if eps is None else eps
    rstd = reciprocal_root(jnp.mean(jnp.square(wide), axes, keepdims=True), epsilon)
    y = wide * rstd
    return (y if gamma is None else y * gamma).astype(x.dtype), rstd


def _fused_rms_norm_backward(
    grad_out: jax.Array,
    input: jax.Array,
    normalized_shape: Sequence[int],
    rstd: jax.Array,
    weight: jax.Array | None,
    output_mask: Sequence[bool],
) -> tuple[jax.Array | None, jax.Array | None]:
    """_fused_rms_norm_backward(Tensor grad_out, Tensor input, int[] normalized_shape, Tensor rstd, Tensor? weight,
    bool[2] output_mask) -> (Tensor, Tensor)

    With x_hat = x * rstd and g = grad_out * weight:
      grad_input = rstd * (g - x_hat * mean(g * x_hat)), the mean over the normalized axes;
      grad_weight = sum(grad_out * x_hat), over the other axes.
    Returns both in input's dtype, as PyTorch's decomposition does (there is no CPU kernel); None where output_mask is
    False, and for grad_weight where weight is None.

    Raises:
      AtenError: as `rms_norm`; also where grad_out has not input's shape or rstd has not one element for each row.
      AtenDtypeError: input is not floating.
    """
    x = checks.floating("rms_norm_backward", "input", input)
    gamma, dy = checks.optional(weight), jnp.asarray(grad_out)
    axes = checks.check_normalized_shape(x, normalized_shape, weight=gamma)
    mask = checks.check_output_mask(output_mask, 2)
    checks.require_same_shape("grad_out", dy, "input", x)
    dtype = compute_dtype(x.dtype)
    wide_rstd = rows_like("rstd", jnp.asarray(rstd), x, axes).astype(dtype)
    wide_dy = dy.astype(dtype)
    x_hat = x.astype(dtype) * wide_rstd
    g = wide_dy if gamma is None else wide_dy * gamma.astype(dtype)
    grad_input = wide_rstd * (g - x_hat * jnp.mean(g * x_hat, axes, keepdims=True))
    grad_weight = jnp.sum(wide_dy * x_hat, range(axes[0]))
    return (
        grad_input.astype(x.dtype) if mask[0] else None,
        grad_weight.astype(x.dtype) if mask[1] and gamma is not None else None,
    )
