"""The pure twins of ATen's batch normalizations: the declared outputs, then the new running mean and variance.

PyTorch's own suffix is `_functional`; it generates two of these, the others follow the same rule. Semantics, shapes,
dtypes and errors are those of `normbench.kernels.aten.batch_norm`. The new running statistics have the dtype of the
old ones and are not differentiable; in evaluation they are the old ones, and None where there were none.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from normbench.errors import UserError
from normbench.kernels.aten import checks
from normbench.kernels.aten.moments import (
    Moments,
    along_channels,
    batch_invstd,
    channel_affine,
    channel_axes,
    compute_dtype,
    moments,
    reciprocal_root,
    unbiased,
    widen,
)

Quintuple = tuple[jax.Array, jax.Array, jax.Array, jax.Array | None, jax.Array | None]


class Arguments(NamedTuple):
    """Checked arguments; vectors are (C,) in their own dtypes, `dtype` is that of the saved statistics."""

    input: jax.Array
    dtype: jnp.dtype
    weight: jax.Array | None
    bias: jax.Array | None
    running_mean: jax.Array | None
    running_var: jax.Array | None

    @property
    def channel_size(self) -> int:
        """How many elements each channel has."""
        return checks.count(self.input.shape, channel_axes(self.input.ndim))


def checked(
    input: jax.Array,
    weight: jax.Array | None,
    bias: jax.Array | None,
    running_mean: jax.Array | None,
    running_var: jax.Array | None,
    training: bool,
) -> Arguments:
    """Returns the arguments as arrays. Errors: see `normbench.kernels.aten.batch_norm`."""
    arguments = as_arrays(input, weight, bias, running_mean, running_var)
    for name in ("running_mean", "running_var"):
        if not training and getattr(arguments, name) is None:
            raise checks.AtenError(f"{name} must be defined in evaluation mode, but is None")
    check_both_or_neither(running_mean, running_var)
    return arguments


def as_arrays(
    input: jax.Array,
    weight: jax.Array | None,
    bias: jax.Array | None,
    running_mean: jax.Array | None,
    running_var: jax.Array | None,
) -> Arguments:
    """Checks each argument by itself, and the mixture of dtypes."""
    x = checks.floating("batch_norm", "input", input)
    checks.require_rank("batch_norm", x, 2)
    named = {"weight": weight, "bias": bias, "running_mean": running_mean, "running_var": running_var}
    vectors = {name: checks.require_size(name, checks.optional(v), x.shape[1]) for name, v in named.items()}
    return Arguments(input=x, dtype=checks.parameter_dtype(x, **vectors), **vectors)


def check_both_or_neither(running_mean: jax.Array | None, running_var: jax.Array | None) -> None:
    """UserError (PyTorch raises ValueError) where only one of the running statistics is given."""
    if (running_mean is None) != (running_var is None):
        missing, present = ("running_var", "running_mean") if running_var is None else ("running_mean", "running_var")
        raise UserError(
            f"running_mean and running_var must either both be None or neither be None; {missing} is None, "
            f"{present} is not"
        )


def require_elements(input: jax.Array) -> None:
    if input.size == 0:
        raise checks.AtenError(
            f"input must have at least one element in training, but got input of shape {list(input.shape)}"
        )


def updated(old: jax.Array | None, new: jax.Array, momentum: float | jax.Array) -> jax.Array | None:
    """(1 - momentum) * old + momentum * new in the dtype of the computation, cast to old's."""
    if old is None:
        return None
    weight = checks.scalar("momentum", momentum, new.dtype)
    return lax.stop_gradient((weight * new + (1 - weight) * old.astype(new.dtype)).astype(old.dtype))


def saved(statistic: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """The statistic as ATen saves it: in the dtype of the parameters, not differentiable."""
    return lax.stop_gradient(statistic.astype(dtype))


def channel_moments(input: jax.Array) -> Moments:
    """Returns the mean and the biased variance of each channel, (C,), and x - mean, in the dtype of the computation."""
    mean, centred, variance = moments(input.astype(compute_dtype(input.dtype)), channel_axes(input.ndim))
    return Moments(mean.reshape(-1), centred, variance.reshape(-1))


def around(input: jax.Array, mean: jax.Array) -> jax.Array:
    """x - mean, of a mean (C,) that is given, in its dtype."""
    return widen(input, mean.dtype) - along_channels(mean, input.ndim)


def normalized(arguments: Arguments, centred: jax.Array, invstd: jax.Array) -> jax.Array:
    """centred * invstd * weight + bias, computed in the dtype of centred, cast to input's."""
    dtype = centred.dtype
    x_hat = centred * along_channels(invstd, centred.ndim)
    y = channel_affine(x_hat, widen(arguments.weight, dtype), widen(arguments.bias, dtype))
    return y.astype(arguments.input.dtype)


def evaluate(a: Arguments, eps: float) -> Quintuple:
    dtype = compute_dtype(a.input.dtype)
    mean, variance = (jnp.asarray(lax.stop_gradient(v), dtype) for v in (a.running_mean, a.running_var))
    empty = jnp.zeros(0, a.dtype)
    return (
        normalized(a, around(a.input, mean), reciprocal_root(variance, eps)),
        empty,
        empty,
        a.running_mean,
        a.running_var,
    )


def train(a: Arguments, momentum: float, eps: float) -> Quintuple:
    mean, centred, variance = channel_moments(a.input)
    invstd = batch_invstd(variance, eps)
    y = normalized(a, centred, invstd)
    save_mean, save_invstd = saved(mean, a.dtype), saved(invstd, a.dtype)
    if a.channel_size == 0:
        return y, save_mean, save_invstd, a.running_mean, a.running_var
    new_mean = updated(a.running_mean, mean, momentum)
    new_var = updated(a.running_var, unbiased(variance, a.channel_size), momentum)
    return y, save_mean, save_invstd, new_mean, new_var


def native_batch_norm_functional(
    input: jax.Array,
    weight: jax.Array | None,
    bias: jax.Array | None,
    running_mean: jax.Array | None,
    running_var: jax.Array | None,
    training: bool,
    momentum: float,
    eps: float,
) -> Quintuple:
    """Returns y, save_mean, save_invstd, new running_mean, new running_var: the twin of `native_batch_norm`."""
    arguments = checked(input, weight, bias, running_mean, running_var, training)
    if not training:
        return evaluate(arguments, eps)
    require_elements(arguments.input)
    return train(arguments, momentum, eps)


def batch_norm_functional(
    input: jax.Array,
    weight: jax.Array | None,
    bias: jax.Array | None,
    running_mean: jax.Array | None,
    running_var: jax.Array | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> tuple[jax.Array, jax.Array | None, jax.Array | None]:
    """Returns y, new running_mean, new running_var: the twin of `batch_norm`.

    An empty input leaves the running statistics as they are.
    """
    arguments = checked(input, weight, bias, running_mean, running_var, training)
    outputs = train(arguments, momentum, eps) if training else evaluate(arguments, eps)
    return outputs[0], outputs[3], outputs[4]


def _native_batch_norm_legit_functional(
    input: jax.Array,
    weight: jax.Array | None,
    bias: jax.Array | None,
    running_mean: jax.Array,
    running_var: jax.Array,
    training: bool,
    momentum: float,
    eps: float,
) -> Quintuple:
    """_native_batch_norm_legit_functional(Tensor input, Tensor? weight, Tensor? bias, Tensor running_mean,
    Tensor running_var, bool training, float momentum, float eps) -> (Tensor, Tensor, Tensor, Tensor, Tensor)

    Returns y, save_mean, save_invstd, new running_mean, new running_var; AtenError where a statistic is None.
    """
    for name, value in (("running_mean", running_mean), ("running_var", running_var)):
        if value is None:
            raise checks.AtenError(f"{name} is None; this operator needs an array of one element for each channel")
    return native_batch_norm_functional(input, weight, bias, running_mean, running_var, training, momentum, eps)


def _batch_norm_with_update_functional(
    input: jax.Array,
    weight: jax.Array | None,
    bias: jax.Array | None,
    running_mean: jax.Array,
    running_var: jax.Array,
    momentum: float,
    eps: float,
) -> tuple[jax.Array | None, ...]:
    """_batch_norm_with_update_functional(Tensor input, Tensor? weight, Tensor? bias, Tensor running_mean,
    Tensor running_var, float momentum, float eps) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)

    Returns y, save_mean, save_invstd, an empty uint8 reserve (0,), new running_mean, new running_var.
    """
    y, mean, invstd, *running = _native_batch_norm_legit_functional(
        input, weight, bias, running_mean, running_var, True, momentum, eps
    )
    return y, mean, invstd, jnp.zeros(0, jnp.uint8), *running


def batch_norm_update_stats_functional(
    input: jax.Array, running_mean: jax.Array | None, running_var: jax.Array | None, momentum: float
) -> tuple[jax.Array, jax.Array, jax.Array | None, jax.Array | None]:
    """Returns mean, biased variance, new running_mean, new running_var: the twin of `batch_norm_update_stats`.

    The running statistics are independent: one may be given without the other.
    """
    a = as_arrays(input, None, None, running_mean, running_var)
    require_elements(a.input)
    mean, _, variance = channel_moments(lax.stop_gradient(a.input))
    new_mean = updated(a.running_mean, mean, momentum)
    new_var = updated(a.running_var, unbiased(variance, a.channel_size), momentum)
    return mean.astype(a.dtype), variance.astype(a.dtype), new_mean, new_var
