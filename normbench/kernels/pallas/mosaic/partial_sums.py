"""The one small reduction behind the partial sums of the Mosaic kernels: in float32, always in the same order."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

FEW = 32
"""Fewer partial sums than a warp has threads are added up by one thread each, in a loop that XLA fuses with anything,
their conversion, too. More are a reduction, after which each conversion is a launch."""


def sum_partials(
    partials: Sequence[jax.Array], parameters: Sequence[jax.Array], axes: tuple[int, ...] = (0,)
) -> tuple[jax.Array, ...]:
    """Sums arrays of one shape in float32, over the axes of programs: in the dtypes of the parameters.

    One launch where these are of float32, or programs are few; otherwise one more for each other dtype.
    """
    dtypes = [parameter.dtype for parameter in parameters]
    few = math.prod(partials[0].shape[axis] for axis in axes) < FEW
    if few and any(dtype != jnp.float32 for dtype in dtypes):
        summed: Sequence[jax.Array] = tuple(jnp.sum(jnp.stack(partials), axis=tuple(axis + 1 for axis in axes)))
    else:
        zeros = tuple(jnp.float32(0) for _ in partials)
        summed = jax.lax.reduce(
            tuple(partials), zeros, lambda a, b: tuple(x + y for x, y in zip(a, b, strict=True)), dimensions=axes
        )
    return tuple(s.reshape(-1).astype(dtype) for s, dtype in zip(summed, dtypes, strict=True))
