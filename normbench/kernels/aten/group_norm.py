"""ATen's group normalization, forward and backward."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from normbench.kernels.aten import checks
from normbench.kernels.aten.moments import affine, compute_dtype, moments, reciprocal_root, widen

Gradients = tuple[jax.Array | None, ...]


def group_norm(
    input: jax.Array,
    num_groups: int,
    weight: jax.Array | None = None,
    bias: jax.Array | None = None,
    eps: float = 1e-05,
    cudnn_enabled: bool = True,
) -> jax.Array:
    """group_norm(Tensor input, int num_groups, Tensor? weight=None, Tensor? bias=None, float eps=1e-05,
    bool cudnn_enabled=True) -> Tensor

    y = (x - mean) / sqrt(var + eps) * weight + bias for input (N, C, ...), with mean and biased variance over the
    C / num_groups channels of a group and all further axes, for each instance; weight and bias are (C,). Shape and
    dtype of input; computed in float32 (float64 for float64). cudnn_enabled has no effect.

    Raises:
      AtenError: num_groups is not positive or does not divide C; weight or bias is not (C,); a mixture of dtypes.
      AtenDtypeError: input is not floating. AtenIndexError: input has fewer than 2 dimensions.
    """
    x = checks.floating("group_norm", "input", input)
    checks.require_rank("group_norm", x, 2)
    n, c = x.shape[:2]
    return native_group_norm(x, weight, bias, n, c, checks.count(x.shape, range(2, x.ndim)), num_groups, eps)[0]


def native_group_norm(
    input: jax.Array,
    weight: jax.Array | None,
    bias: jax.Array | None,
    N: int,
    C: int,
    HxW: int,
    group: int,
    eps: float,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """native_group_norm(Tensor input, Tensor? weight, Tensor? bias, SymInt N, SymInt C, SymInt HxW, int group,
    float eps) -> (Tensor, Tensor, Tensor)

    Returns y as `group_norm`, mean and rstd = 1 / sqrt(var + eps), both (N, group), in the dtype of weight and bias
    (input's without either). They are differentiable, as in PyTorch. N, C and HxW are how input is read, whatever its
    shape; weight and bias are (C,).

    Raises:
      AtenError: input has not N * C * HxW elements; and as `group_norm`. AtenDtypeError, AtenIndexError: likewise.
    """
    x = checks.floating("native_group_norm", "input", input)
    gamma, beta = checks.optional(weight), checks.optional(bias)
    _check(x, N, C, HxW, group, {"weight": gamma, "bias": beta})
    dtype = checks.parameter_dtype(x, weight=gamma, bias=beta)
    wide = compute_dtype(x.dtype)
    # Scaled and shifted as groups: a reshape between would have the compiler write what is normalized in float32.
    lined_up = (1, group, C // group, 1)
    mean, centred, variance = moments(widen(x, wide).reshape(N, group, C // group, HxW), (2, 3))
    rstd = reciprocal_root(variance, eps)
    scale = rstd if gamma is None else rstd * gamma.astype(wide).reshape(lined_up)
    y = affine(centred, scale, None if beta is None else beta.astype(wide).reshape(lined_up))
    shape = N, group
    return y.astype(x.dtype).reshape(x.shape), mean.reshape(shape).astype(dtype), rstd.reshape(shape).astype(dtype)


def native_group_norm_backward(
    grad_out: jax.Array,
    input: jax.Array,
    mean: jax.Array,
    rstd: jax.Array,
    weight: jax.Array | None,
    N: int,
    C: int,
    HxW: int,
    group: int,
    output_mask: Sequence[bool],
) -> Gradients:
    """native_group_norm_backward(Tensor grad_out, Tensor input, Tensor mean, Tensor rstd, Tensor? weight, SymInt N,
    SymInt C, SymInt HxW, int group, bool[3] output_mask) -> (Tensor, Tensor, Tensor)

    With x_hat = (x - mean) * rstd and g = grad_out * weight:
      grad_input = rstd * (g - mean(g) - x_hat * mean(g * x_hat)), means over the group of an instance;
      grad_weight = sum(grad_out * x_hat), grad_bias = sum(grad_out), over all axes but 1.
    Returns them in input's dtype and, the last two, as (C,) in the dtype of mean, rstd and weight; None where
    output_mask is False.

    Raises:
      AtenError: as `native_group_norm`; also where grad_out has not input's shape and dtype, mean or rstd has not
        N * group elements, or output_mask asks for a gradient of the affine while weight is None.
      AtenDtypeError: input is not floating. AtenIndexError: input has fewer than 2 dimensions.
    """
    x = checks.floating("native_group_norm_backward", "input", input)
    dy, gamma = jnp.asarray(grad_out), checks.optional(weight)
    statistics = {"mean": jnp.asarray(mean), "rstd": jnp.asarray(rstd)}
    _check(x, N, C, HxW, group, {"weight": gamma})
    mask = checks.check_output_mask(output_mask, 3, weight=gamma, bias=gamma)
    checks.require_same_dtype("grad_out", dy, x)
    checks.require_same_shape("grad_out", dy, "input", x)
    dtype = checks.parameter_dtype(x, **statistics, weight=gamma)
    for name, value in statistics.items():
        if value.size != N * group:
            raise checks.AtenError(f"Expected {name} to have N * group = {N * group} elements, but got {value.size}")
    wide = compute_dtype(x.dtype)
    m, r = (value.reshape(N, group, 1, 1).astype(wide) for value in statistics.values())
    shape = (N, group, C // group, HxW)
    gradients = _gradients(widen(dy, wide).reshape(shape), widen(x, wide).reshape(shape), m, r, widen(gamma, wide))
    reshaped = (gradients[0].reshape(x.shape).astype(x.dtype), *(g.astype(dtype) for g in gradients[1:]))
    return tuple(g if wanted else None for g, wanted in zip(reshaped, mask, strict=True))


def _check(
    x: jax.Array, n: int, channels: int, spatial: int, groups: int, parameters: dict[str, jax.Array | None]
) -> None:
    checks.require_rank("group_norm", x, 2)
    checks.check_groups(x.shape, channels, groups)
    if min(n, channels, spatial) < 0 or x.size != n * channels * spatial:
        raise checks.AtenError(
            f"Expected input of shape {list(x.shape)} to have N * C * HxW = {n} * {channels} * {spatial} elements, "
            f"but got {x.size}"
        )
    for name, value in parameters.items():
        checks.require_vector(name, value, x, channels)


def _gradients(
    dy: jax.Array, x: jax.Array, mean: jax.Array, rstd: jax.Array, weight: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """dy and x are (N, group, C / group, HxW)."""
    x_hat = (x - mean) * rstd
    g = dy if weight is None else dy * weight.reshape(1, *x.shape[1:3], 1)
    average = jnp.mean(g, (2, 3), keepdims=True) + x_hat * jnp.mean(g * x_hat, (2, 3), keepdims=True)
    return rstd * (g - average), jnp.sum(dy * x_hat, (0, 3)).reshape(-1), jnp.sum(dy, (0, 3)).reshape(-1)
