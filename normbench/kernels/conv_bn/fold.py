"""Folding batch norm into the convolution beside it: a transform of parameters, done once, ahead of the call.

After a convolution, y = (conv(x, w) + b - mean) * s + beta with s = gamma / sqrt(variance + epsilon) is the convolution
with the weight w * s, on the output axis, and the bias (b - mean) * s + beta. Before one, conv(x * s + t, w) + b, with
t = beta - mean * s, is the convolution with the weight w * s, on the input axis, and the bias b + sum(w * t): only
where nothing is padded, because a padded zero is not shifted by t.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from normbench.errors import UserError, unknown
from normbench.kernels.batch_norm.prefolded import prepare as scale_and_shift
from normbench.kernels.common.checks import channel_vectors, check_epsilon, compute_dtype, floating
from normbench.kernels.conv_bn.geometry import Geometry, Padding, geometry
from normbench.kernels.problem import DTYPES

ORDERS = ("conv_bn", "bn_conv")
_REQUIRED, _OPTIONAL = ("weight", "mean", "variance"), ("bias", "gamma", "beta")


def fold_conv_bn(
    params: Mapping[str, Any],
    *,
    epsilon: float = 1e-5,
    layout: str = "nchw",
    groups: int = 1,
    transposed: bool = False,
    order: str = "conv_bn",
    padding: Padding = "same",
    activation_between: str = "none",
    shared_output: bool = False,
    dtype: str | None = None,
    bias_dtype: str | None = None,
) -> dict[str, jax.Array]:
    """Folds the parameters of a convolution and of a batch norm into those of one convolution with a bias.

    Args:
      params: "weight", laid out as `normbench.kernels.conv_bn.geometry` says; "mean" and "variance"; optionally "bias"
        (absent or None: zero), "gamma" (one) and "beta" (zero). Each but the weight is a vector over the channels of
        the batch norm (over the output channels for "bias").
      epsilon: added to the variance.
      layout, groups, transposed: of the convolution.
      order: "conv_bn", batch norm after the convolution, or "bn_conv", before it.
      padding: of the convolution; matters for "bn_conv" alone.
      activation_between: the activation between the two, "none" where there is none.
      shared_output: True where the result of the first of the two has another consumer than the second.
      dtype: of the folded weight; None: of the weight. A float16 weight that is folded may exceed 65504: "float32".
      bias_dtype: of the folded bias, for a convolution that adds it in float32; None: of the folded weight.

    Returns:
      {"weight", "bias"}: folded in float32, or in float64 where an input is, and rounded once.

    Raises:
      UserError: where folding would change the result (see `folding_refusal`), or the arguments do not fit together; of
        values that are known (not traced), a variance below 0, one of 0 with an epsilon of 0, and a fold that exceeds
        what its dtype holds although nothing that went into it is infinite.
    """
    shape = geometry(layout, 1, padding, 1, groups, transposed)
    arrays = _checked(params, shape)
    reason = folding_refusal(
        order=order,
        padding=padding,
        kernel=shape.kernel(arrays["weight"].shape),
        transposed=transposed,
        activation_between=activation_between,
        shared_output=shared_output,
    )
    if reason:
        raise UserError(f"cannot fold: {reason}")
    _check_variance(arrays["variance"], epsilon)
    folded = (_fold_after if order == "conv_bn" else _fold_before)(arrays, epsilon, shape)
    dtypes = {"weight": _dtype("dtype", dtype, arrays["weight"].dtype)}
    dtypes["bias"] = _dtype("bias_dtype", bias_dtype, dtypes["weight"])
    return {name: rounded(name, value, dtypes[name], arrays) for name, value in folded.items()}


def folding_refusal(
    *,
    order: str = "conv_bn",
    padding: Padding = "same",
    kernel: tuple[int, ...] = (),
    transposed: bool = False,
    activation_between: str = "none",
    shared_output: bool = False,
) -> str | None:
    """The reason why batch norm cannot be folded into the convolution, or None where it can.

    Args:
      kernel: the spatial sizes of the kernel, where they are known: a kernel of one element needs no padding.
      Others as for `fold_conv_bn`.
    """
    if order not in ORDERS:
        raise unknown("order", order, ORDERS)
    if activation_between != "none":
        return f"the activation {activation_between} between convolution and batch norm is not linear"
    if shared_output:
        first = "convolution" if order == "conv_bn" else "batch norm"
        return f"the output of the {first} has another consumer, which needs it as it is"
    if order == "bn_conv" and transposed:
        return "batch norm before a transposed convolution: its outputs sum different taps, so the shift is no constant"
    if order == "bn_conv" and _pads(padding, kernel):
        return "batch norm before a convolution with zero padding: the padded zeros are not shifted"
    return None


def _pads(padding: Padding, kernel: tuple[int, ...]) -> bool:
    if padding == "same":
        return not kernel or max(kernel) > 1
    return padding != "valid" and any(size for size in jax.tree.leaves(padding))


def _checked(params: Mapping[str, Any], shape: Geometry) -> dict[str, jax.Array]:
    for name in params:
        if name not in (*_REQUIRED, *_OPTIONAL):
            raise unknown("parameter", name, (*_REQUIRED, *_OPTIONAL))
    for name in _REQUIRED:
        if params.get(name) is None:
            raise UserError(f"params has no {name}; required: {', '.join(_REQUIRED)}")
    arrays = {name: floating(name, value) for name, value in params.items() if value is not None}
    _check_weight(arrays["weight"], shape)
    return arrays


def _check_weight(weight: jax.Array, shape: Geometry) -> None:
    if weight.ndim != len(shape.layout):
        raise UserError(f"weight has shape {weight.shape}; allowed for layout {shape.layout}: rank {len(shape.layout)}")
    size = weight.shape[shape.whole_axis()]
    if size % shape.groups:
        raise UserError(
            f"weight has shape {weight.shape} with groups {shape.groups}; allowed: a multiple of groups, not {size}"
        )


def _dtype(name: str, asked: str | None, default: jnp.dtype) -> jnp.dtype:
    if asked is None:
        return default
    if str(asked) not in DTYPES:
        raise unknown(name, str(asked), DTYPES)
    return jnp.dtype(asked)


def _check_variance(variance: jax.Array, epsilon: float) -> None:
    if isinstance(variance, jax.core.Tracer):
        return
    total = np.asarray(variance, np.float64) + check_epsilon(epsilon)
    for wrong, said in ((np.asarray(variance) < 0, "below 0"), (total == 0, "0 with an epsilon of 0")):
        if wrong.any():
            channel = int(np.argmax(wrong))
            raise UserError(
                f"variance of channel {channel} is {float(variance.reshape(-1)[channel])!r}, which is {said}; "
                "allowed: 0 or more, with variance + epsilon above 0"
            )


def rounded(name: str, value: jax.Array, dtype: jnp.dtype, arrays: Mapping[str, jax.Array]) -> jax.Array:
    """`value` in `dtype`; values that are known must not become infinite by that."""
    narrow = value.astype(dtype)
    if any(isinstance(array, jax.core.Tracer) for array in (value, *arrays.values())):
        return narrow
    lost = np.isinf(np.asarray(narrow, np.float64))
    if lost.any() and all(np.isfinite(np.asarray(array, np.float64)).all() for array in arrays.values()):
        largest = float(np.max(np.abs(np.asarray(value, np.float64))))
        option = "dtype" if name == "weight" else "bias_dtype"
        raise UserError(
            f"the folded {name} reaches {largest:.4g}; allowed in {dtype.name}: {float(jnp.finfo(dtype).max):.5g}; "
            f'{option}="float32" holds more'
        )
    return narrow


def _fold_after(arrays: dict[str, jax.Array], epsilon: float, shape: Geometry) -> dict[str, jax.Array]:
    weight, dtype = arrays["weight"], compute_dtype(*arrays.values())
    features = shape.features(weight.shape)
    gamma, beta, mean, variance = _normalisation(arrays, features, dtype)
    scale, shift = scale_and_shift(gamma, beta, mean, variance, epsilon)
    if "bias" in arrays:
        (given,) = channel_vectors(features, bias=arrays["bias"])
        # Subtracted before scaling: where bias and mean are close, their products with the scale would cancel.
        shift = (given.astype(dtype) - mean) * scale + beta
    folded = _scale(weight.astype(dtype), scale, 0, shape)
    return {"weight": folded, "bias": shift}


def _fold_before(arrays: dict[str, jax.Array], epsilon: float, shape: Geometry) -> dict[str, jax.Array]:
    weight, dtype = arrays["weight"], compute_dtype(*arrays.values())
    features, channels = shape.features(weight.shape), shape.channels(weight.shape)
    gamma, beta, mean, variance = _normalisation(arrays, channels, dtype)
    scale, shift = scale_and_shift(gamma, beta, mean, variance, epsilon)
    output_axis = shape.weight_axes()[0] % weight.ndim
    others = tuple(axis for axis in range(weight.ndim) if axis != output_axis)
    bias = _scale(weight.astype(dtype), shift, 1, shape).sum(others)
    if "bias" in arrays:
        bias = bias + channel_vectors(features, bias=arrays["bias"])[0].astype(dtype)
    folded = _scale(weight.astype(dtype), scale, 1, shape)
    return {"weight": folded, "bias": bias}


def _normalisation(arrays: dict[str, jax.Array], channels: int, dtype: jnp.dtype) -> tuple[jax.Array, ...]:
    """gamma, beta, mean and variance of the batch norm over so many channels, in `dtype`."""
    mean = arrays["mean"]
    given = {
        "gamma": arrays.get("gamma", jnp.ones_like(mean)),
        "beta": arrays.get("beta", jnp.zeros_like(mean)),
        "mean": mean,
        "variance": arrays["variance"],
    }
    return tuple(vector.astype(dtype) for vector in channel_vectors(channels, **given))


def _scale(weight: jax.Array, vector: jax.Array, which: int, shape: Geometry) -> jax.Array:
    """Multiplies the weight by one value per output channel (which = 0) or per input channel (which = 1).

    One axis of the weight holds the channels of all groups; the other holds those of one group, O/G or I/G, and what
    lies there belongs to another channel in each group. So for a vector over the second kind, the first axis is split
    into (groups, rest), and the vector lies across the groups and the second axis.
    """
    axes = tuple(axis % weight.ndim for axis in shape.weight_axes())
    whole, target = shape.whole_axis() % weight.ndim, axes[which]
    if target == whole:
        return weight * vector.reshape([-1 if axis == target else 1 for axis in range(weight.ndim)])
    rest = weight.shape[whole] // shape.groups
    split = weight.reshape(*weight.shape[:whole], shape.groups, rest, *weight.shape[whole + 1 :])
    within = target + (target > whole)
    vector = vector.reshape(shape.groups, weight.shape[target])
    others = tuple(axis for axis in range(split.ndim) if axis not in (whole, within))
    return (split * jnp.expand_dims(vector if whole < within else vector.T, others)).reshape(weight.shape)
