"""Checks of what a caller hands to an operator; each failure is a `UserError` that names the argument."""

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp

from normbench.errors import UserError, unknown
from normbench.kernels.common.whole import is_whole
from normbench.kernels.contexts import CONTEXTS
from normbench.kernels.problem import DTYPES, LAYOUTS, Problem
from normbench.kernels.sharding import BY_OPERATOR, check_division
from normbench.schema import PASSES


def check_epsilon(epsilon: float) -> float:
    """Epsilon is a compile-time number, finite and not negative."""
    if not isinstance(epsilon, Real) or isinstance(epsilon, bool):
        raise UserError(f"epsilon {epsilon!r} is not a number; allowed: a Python float, 0 or more")
    if not (math.isfinite(epsilon) and epsilon >= 0):
        raise UserError(f"epsilon {epsilon!r} is not allowed; allowed: 0 or more, finite")
    return float(epsilon)


def floating(name: str, value: Any) -> jax.Array:
    """Returns `value` as an array of one of the supported dtypes."""
    array = jnp.asarray(value)
    if array.dtype.name not in DTYPES:
        raise UserError(f"{name} has dtype {array.dtype.name}; allowed: {', '.join(DTYPES)}")
    return array


def channel_vectors(channels: int, **parameters: Any) -> tuple[jax.Array, ...]:
    """Returns the parameters as arrays after checking that each is a vector of one value per channel."""
    arrays = []
    for name, value in parameters.items():
        array = floating(name, value)
        if array.shape != (channels,):
            raise UserError(f"{name} has shape {array.shape}; allowed: ({channels},), one value for each channel")
        arrays.append(array)
    return tuple(arrays)


def scale_or_ones(gamma: Any, shape: tuple[int, ...], dtype: jnp.dtype) -> Any:
    """gamma, or ones where it is None."""
    return jnp.ones(shape, dtype) if gamma is None else gamma


def shift_or_zeros(beta: Any, shape: tuple[int, ...], dtype: jnp.dtype) -> Any:
    """beta, or zeros where it is None."""
    return jnp.zeros(shape, dtype) if beta is None else beta


def residual_like(x: jax.Array, residual: Any) -> jax.Array | None:
    """Returns an optional residual as an array, as x is one: NumPy's float64 becomes float32 unless JAX keeps it."""
    if residual is None:
        return None
    array = jnp.asarray(residual)
    if (array.shape, array.dtype) != (x.shape, x.dtype):
        raise UserError(f"residual is {array.dtype.name}{array.shape}; allowed: {x.dtype.name}{x.shape}, as x is")
    return array


def channel_axis_of(rank: int, channel_axis: int) -> int:
    """Returns the axis counted from 0; it has to be 0 or 1 (whichever comes first in the rank) or the last."""
    allowed = (0, -1) if rank == 1 else (1, -1)
    if rank == 0:
        raise UserError("x has rank 0; allowed: rank 1 or more, with a channel axis")
    if not is_whole(channel_axis) or channel_axis not in (*allowed, rank - 1):
        raise UserError(f"channel_axis {channel_axis!r} for x of rank {rank}; allowed: {allowed[0]} or -1 (the last)")
    return channel_axis % rank


def check_problem(
    problem: Problem, layouts: Sequence[str], options: Sequence[str], contexts: Sequence[str] = CONTEXTS
) -> None:
    """Checks what every operator checks: layout, rank, sizes, dtypes, pass, context, epsilon, names of options."""
    if problem.layout not in layouts:
        raise unknown("layout", problem.layout, layouts)
    if len(problem.shape) != len(problem.layout):
        raise UserError(
            f"shape {problem.shape} has rank {len(problem.shape)}; allowed for layout {problem.layout}: "
            f"rank {len(problem.layout)}"
        )
    if any(not isinstance(size, int) or size < 0 for size in problem.shape):
        raise UserError(f"shape {problem.shape} is not allowed; allowed: whole sizes, 0 or more")
    if problem.channels == 0:
        raise UserError(f"shape {problem.shape} has 0 channels in layout {problem.layout}; allowed: 1 or more")
    for kind, value, allowed in (
        ("dtype", problem.dtype, DTYPES),
        ("parameter dtype", problem.param_dtype, DTYPES),
        ("pass", problem.pass_, PASSES),
        ("context", problem.context, (*contexts, *BY_OPERATOR.get(problem.operator, ()))),
    ):
        if value not in allowed:
            raise unknown(kind, value, allowed)
    check_epsilon(problem.epsilon)
    check_division(problem)
    for name, _ in problem.options:
        if name not in options:
            raise unknown(f"option of {problem.operator}", name, options or ("none",))


def layouts_of_rank(*ranks: int) -> tuple[str, ...]:
    return tuple(name for name in LAYOUTS if len(name) in ranks)


def compute_dtype(*arrays: jax.Array) -> jnp.dtype:
    """The dtype to compute in: the widest among the arrays, float32 at least."""
    return jnp.result_type(jnp.float32, *(array.dtype for array in arrays))
