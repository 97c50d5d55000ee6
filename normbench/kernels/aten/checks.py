"""Checks of the arguments of the ATen operators, and the errors that they raise.

The errors are of PyTorch's kinds: where PyTorch raises RuntimeError an `AtenError` is raised; where it raises
NotImplementedError or IndexError, a subclass that is both; where it raises ValueError, `normbench.errors.UserError`.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

DTYPES = ("float16", "bfloat16", "float32", "float64")
HALF_DTYPES = ("float16", "bfloat16")


class AtenError(RuntimeError):
    """An argument that the ATen operator refuses; the message names it and its value."""


class AtenDtypeError(AtenError, NotImplementedError):
    """The operator is not implemented for this dtype."""


class AtenIndexError(AtenError, IndexError):
    """The input has too few dimensions."""


def floating(operator: str, name: str, value: Any) -> jax.Array:
    """Returns `value` as an array; AtenDtypeError where it is not of a floating dtype that ATen normalizes."""
    array = jnp.asarray(value)
    if array.dtype.name not in DTYPES:
        raise AtenDtypeError(
            f"{operator} is not implemented for {name} of dtype {array.dtype.name}; allowed: {', '.join(DTYPES)}"
        )
    return array


def optional(value: Any) -> jax.Array | None:
    """Returns an optional argument as an array, or None where it is absent."""
    return None if value is None else jnp.asarray(value)


def scalar(name: str, value: Any, dtype: jnp.dtype) -> jax.Array:
    """Returns a number, which may be traced, in `dtype`; AtenError for None.

    `torch.nn.BatchNorm1d(momentum=None)` hands 1 / (batches so far) to the operator.
    """
    if value is None:
        raise AtenError(f"{name} None; allowed: a number; for a cumulative average, 1 / (batches so far)")
    return jnp.asarray(value, dtype)


def require_rank(operator: str, input: jax.Array, rank: int) -> None:
    if input.ndim < rank:
        raise AtenIndexError(
            f"{operator}: input of shape {list(input.shape)} has {input.ndim} dimensions; it needs at least {rank}: "
            "(N, C, ...)"
        )


def require_size(name: str, value: jax.Array | None, channels: int) -> jax.Array | None:
    """Returns the per-channel argument as a vector; AtenError where it has not one element for each channel."""
    if value is None:
        return None
    if value.size != channels:
        raise AtenError(f"{name} should contain {channels} elements not {value.size}")
    return value.reshape(channels)


def require_vector(name: str, value: jax.Array | None, input: jax.Array, channels: int) -> None:
    """AtenError where an optional argument is not of shape (C,)."""
    if value is not None and value.shape != (channels,):
        raise AtenError(
            f"Expected {name} to be a vector of size equal to the number of channels in input, but got {name} of "
            f"shape {list(value.shape)} and input of shape {list(input.shape)} ({channels} channels)"
        )


def require_same_shape(name: str, value: jax.Array, other_name: str, other: jax.Array) -> None:
    if value.shape != other.shape:
        raise AtenError(f"{name} has shape {list(value.shape)} but {other_name} has shape {list(other.shape)}")


def require_same_dtype(name: str, value: jax.Array, input: jax.Array) -> None:
    if value.dtype != input.dtype:
        raise AtenError(f"expected {name} to have input's dtype {input.dtype.name} but found {value.dtype.name}")


def parameter_dtype(input: jax.Array, **parameters: jax.Array | None) -> jnp.dtype:
    """Returns the dtype of the parameters, which is that of the saved statistics; input's where there are none.

    The first parameter that is present decides. Either all parameters have input's dtype, or input is float16 or
    bfloat16 and all are float32.

    Raises:
      AtenError: any other mixture; names the parameter, its dtype and what is expected.
    """
    present = {name: value.dtype for name, value in parameters.items() if value is not None}
    first = next(iter(present.values()), input.dtype)
    mixed = first != input.dtype
    expected = jnp.dtype(jnp.float32) if mixed else input.dtype
    for name, dtype in present.items():
        if dtype != expected:
            raise AtenError(
                f"expected {name} to have dtype {expected.name} but found {dtype.name}; input has dtype "
                f"{input.dtype.name}: parameters all have the same dtype, or float32 beside a half-precision input"
            )
    if mixed and input.dtype.name not in HALF_DTYPES:
        raise AtenError(
            f"input has dtype {input.dtype.name} but {next(iter(present))} has dtype {first.name}; all must share the "
            "same dtype (float32 parameters are allowed beside float16 and bfloat16 inputs only)"
        )
    return jnp.dtype(first)


def check_normalized_shape(
    input: jax.Array, normalized_shape: Sequence[int], **parameters: jax.Array | None
) -> tuple[int, ...]:
    """Returns the axes that are normalized, the last ones of input.

    Raises:
      AtenError: normalized_shape is empty or not the end of input's shape, or a parameter has another shape.
    """
    shape = tuple(normalized_shape)
    if not shape:
        raise AtenError(
            "Expected normalized_shape to be at least 1-dimensional, i.e., containing at least one element, but got "
            "normalized_shape = []"
        )
    for name, value in parameters.items():
        if value is not None and value.shape != shape:
            raise AtenError(
                f"Expected {name} to be of same shape as normalized_shape, but got {name} of shape "
                f"{list(value.shape)} and normalized_shape = {list(shape)}"
            )
    if input.shape[max(input.ndim - len(shape), 0) :] != shape:
        raise AtenError(
            f"Given normalized_shape={list(shape)}, expected input with shape [*, {', '.join(map(str, shape))}], but "
            f"got input of size {list(input.shape)}"
        )
    return tuple(range(input.ndim - len(shape), input.ndim))


def check_groups(input_shape: Sequence[int], channels: int, groups: int) -> None:
    """AtenError where the groups are not positive or do not divide the channels."""
    if groups <= 0:
        raise AtenError(f"Expected num groups to be greater than 0, got {groups}")
    if channels % groups:
        raise AtenError(
            "Expected number of channels in input to be divisible by num_groups, but got input of shape "
            f"{list(input_shape)} ({channels} channels) and num_groups={groups}"
        )


def check_output_mask(output_mask: Sequence[bool], length: int, **maskable: jax.Array | None) -> tuple[bool, ...]:
    """Returns the mask; AtenError where it has another length or asks for the gradient of an absent parameter.

    `maskable` are the parameters whose gradients are the last outputs, in order.
    """
    mask = tuple(bool(wanted) for wanted in output_mask)
    if len(mask) != length:
        raise AtenError(f"output_mask {list(mask)} has {len(mask)} elements; allowed: {length}")
    for wanted, (name, value) in zip(mask[length - len(maskable) :], maskable.items(), strict=True):
        if wanted and value is None:
            raise AtenError(f"output_mask {list(mask)} asks for the gradient of {name}, which is None")
    return mask


def count(shape: Sequence[int], axes: Sequence[int]) -> int:
    """The number of elements over the axes."""
    return math.prod(shape[axis] for axis in axes)
