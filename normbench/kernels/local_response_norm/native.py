"""A kernel in C++ for the CPU, for both layouts, by all threads."""

import math

import jax
import jax.numpy as jnp

from normbench.kernels.common.checks import compute_dtype
from normbench.kernels.common.second_order import twice_differentiable
from normbench.kernels.local_response_norm.arguments import Arguments, checked, reach, shifted_sum
from normbench.kernels.local_response_norm.naive import divide
from normbench.kernels.native.call import call


def native(
    x: jax.Array, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0, *, channel_axis: int = 1
) -> jax.Array:
    """As `naive`; a gradient by hand from x alone.

    Raises:
      UserError: also where no C++ compiler is found.
    """
    a = checked(x, size, alpha, beta, k, channel_axis)
    return a.x if a.x.size == 0 else _differentiable((a.x,), tuple(a[1:]))


def _call(settings, *arrays):
    a = Arguments(arrays[0], *settings)
    shape, channels = a.x.shape, a.x.shape[a.axis]
    last = a.axis == len(shape) - 1
    images = math.prod(shape[: a.axis])
    positions = 1 if last else math.prod(shape[a.axis + 1 :])
    wide = jnp.dtype(compute_dtype(a.x)) == jnp.float64
    numbers = [len(arrays) > 1, images, channels, positions, a.size, wide]
    output = jax.ShapeDtypeStruct(shape, a.x.dtype)
    return call("windows", arrays, [output], numbers, [a.alpha, a.beta, a.k])[0]


def _forward(arrays, settings, saves):
    return _call(settings, *arrays), () if saves else None


def _backward(arrays, saved, dy, settings):
    return (_call(settings, *arrays, dy),)


def _plain(arrays, settings):
    a = Arguments(*arrays, *settings)
    return divide(a, a.wide, shifted_sum(a.wide * a.wide, a.axis, *reach(a.size)))


_differentiable = twice_differentiable(_forward, _backward, _plain)
